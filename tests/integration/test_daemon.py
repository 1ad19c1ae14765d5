"""``twistd -n negd`` as the operator runs it: it starts, answers, stops, and starts again."""

from __future__ import annotations

import json
import socket
import subprocess
from pathlib import Path
from urllib.request import Request, urlopen

from negd.control.client import ControlClient
from negd.testing.events import sample_events
from negd.testing.processes import DaemonProcess, negctl, twistd
from tests.integration.conftest import MakeDaemon, held_by


def refusal(daemon: DaemonProcess) -> str:
    """What a daemon that does not start says on stderr: one line."""
    daemon.spawn(stderr=subprocess.PIPE)
    return refusal_of(daemon)


def refusal_of(daemon: DaemonProcess) -> str:
    """What one that was started says so."""
    status = daemon.wait(within=30)
    assert daemon.stderr is not None
    said = daemon.stderr.read().decode()
    assert status == 1, said
    assert said.startswith("negd: ") and said.count("\n") == 1, said
    log = daemon.log.read_text()
    assert "Traceback" not in log
    return said


def test_sigterm_ends_it_well_and_nothing_is_lost_over_a_restart(make_daemon: MakeDaemon) -> None:
    daemon = make_daemon(events=sample_events(500))
    before = held_by(daemon)
    assert len(before) > 400
    daemon.start()
    with ControlClient(daemon.control) as client:
        client.add_peer("ws://127.0.0.1:9")
    assert daemon.stop() == 0
    log = daemon.log.read_text()
    assert "negd has stopped" in log and "Traceback" not in log
    assert held_by(daemon) == before

    daemon.start()
    assert held_by(daemon) == before
    with ControlClient(daemon.control) as client:
        assert client.peers() == ["ws://127.0.0.1:9"]
    assert daemon.stop() == 0


def test_a_killed_daemon_starts_again_on_its_store(make_daemon: MakeDaemon) -> None:
    daemon = make_daemon(events=sample_events(200))
    before = held_by(daemon)
    daemon.start()
    daemon.kill()
    daemon.start()
    assert held_by(daemon) == before


def test_the_websocket_port_shows_the_relay_document(make_daemon: MakeDaemon) -> None:
    with make_daemon() as daemon:
        request = Request(
            daemon.url.replace("ws:", "http:"), headers={"Accept": "application/nostr+json"}
        )
        with urlopen(request, timeout=10) as response:
            document = json.load(response)
        assert document["name"] == "negd"
        assert 77 in document["supported_nips"]


def test_a_taken_port_ends_the_daemon_with_one_line(make_daemon: MakeDaemon) -> None:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        taken = f"tcp:{holder.getsockname()[1]}:interface=127.0.0.1"
        said = refusal(make_daemon(options=["--listen", taken]))
    assert taken in said
    assert "in use" in said


def test_a_taken_control_address_ends_the_daemon_with_one_line(make_daemon: MakeDaemon) -> None:
    with make_daemon("first") as first:
        said = refusal(make_daemon("second", options=["--control", first.control]))
    assert first.control in said


def test_a_store_that_is_in_use_ends_the_daemon_with_one_line(make_daemon: MakeDaemon) -> None:
    with make_daemon("first") as first:
        store = f"lmdb:{first.folder / 'store'}"
        said = refusal(make_daemon("second", store=store))
    assert str(first.folder) in said


def test_a_store_that_cannot_be_made_ends_the_daemon_with_one_line(
    make_daemon: MakeDaemon, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    said = refusal(make_daemon(store=f"lmdb:{tmp_path / 'file' / 'store'}"))
    assert str(tmp_path / "file") in said


def test_mistakes_in_options_and_file_end_the_daemon_with_one_line(
    make_daemon: MakeDaemon, tmp_path: Path
) -> None:
    wrong = tmp_path / "wrong.toml"
    wrong.write_text("[sync]\ninterval = 'soon'\n")
    mistakes = [
        (["--config", str(wrong)], "wrong.toml: sync.interval = 'soon': expected a number"),
        (["--listen", "tcp:http"], "websocket.listen[1] = 'tcp:http': expected"),
        (["--listen", "unix:/no/folder/s"], "websocket.listen[1] = 'unix:/no/folder/s': expected"),
        (["--frobnicate"], "frobnicate"),
        (["--store", "cassette:tape"], "cassette"),
    ]
    daemons = [make_daemon(f"wrong{n}", options=mistakes[n][0]) for n in range(len(mistakes))]
    for daemon in daemons:
        daemon.spawn(stderr=subprocess.PIPE)
    for daemon, (_, said) in zip(daemons, mistakes, strict=True):
        assert said in refusal_of(daemon)


def test_a_second_daemon_beside_the_first_leaves_it_alone(make_daemon: MakeDaemon) -> None:
    with make_daemon("first") as first, make_daemon("second") as second:
        assert first.is_ready() and second.is_ready()


def test_negctl_says_in_one_line_that_no_daemon_answers(make_daemon: MakeDaemon) -> None:
    daemon = make_daemon()
    done = daemon.negctl("status")
    assert done.returncode != 0
    assert daemon.control in done.stderr and done.stderr.count("\n") == 1


def test_the_help_names_the_stores(tmp_path: Path) -> None:
    done = twistd("--help-stores", folder=tmp_path)
    assert done.returncode == 0
    assert "lmdb:" in done.stdout and "memory:" in done.stdout
    assert done.stderr == ""


def test_negctl_refuses_a_store_it_cannot_find(tmp_path: Path) -> None:
    done = negctl("export", "--store", "lmdb:nothing", folder=tmp_path)
    assert done.returncode != 0
    assert done.stdout == "" and done.stderr.count("\n") == 1
