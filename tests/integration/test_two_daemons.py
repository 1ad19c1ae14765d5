"""Two daemons on loopback end with the same events, whichever way the sync goes."""

from __future__ import annotations

import json
import time

import pytest

from negd.control.client import ControlClient
from negd.errors import NegdError
from negd.interfaces import SyncProgress
from negd.nostr.event import Event, check, decode
from negd.nostr.filter import Filter
from negd.testing.events import sample_events
from negd.testing.processes import DaemonProcess
from tests.integration.conftest import MakeDaemon, held_by, ids_of, lasting_events


def parts(count: int) -> tuple[list[Event], list[Event]]:
    """Two overlapping parts of ``count`` events: each lacks something of the other."""
    events = list(sample_events(count))
    return (
        [event for number, event in enumerate(events) if number % 10 != 0],
        [event for number, event in enumerate(events) if number % 10 != 5],
    )


def sync(daemon: DaemonProcess, url: str, wanted: Filter | None = None) -> list[SyncProgress]:
    with ControlClient(daemon.control) as client:
        return list(client.sync(url, wanted or Filter()))


def test_ten_thousand_events_leave_both_exports_equal(make_daemon: MakeDaemon) -> None:
    ours, theirs = parts(10_000)
    one, other = make_daemon("one", ours), make_daemon("other", theirs)
    assert held_by(one) != held_by(other)
    one.start()
    other.start()
    progress = sync(one, other.url)
    assert progress[-1].complete
    assert progress[-1].fetched > 0 and progress[-1].sent > 0
    rounds = [step.round for step in progress]
    assert rounds == sorted(rounds)

    export = held_by(one)
    assert export == held_by(other)
    assert len(export) > 9_000
    assert all(check(decode(line)) is None for line in list(export)[:200])

    (again,) = sync(one, other.url)[-1:]
    assert (again.have, again.need, again.fetched, again.sent) == (0, 0, 0, 0)


def test_a_daemon_with_a_peer_in_its_options_fetches_by_itself(make_daemon: MakeDaemon) -> None:
    events = list(sample_events(300))
    full = make_daemon("full", events)
    full.start()
    empty = make_daemon("empty", options=["--peer", full.url])
    empty.start()
    deadline = time.monotonic() + 30
    while held_by(empty) != held_by(full):
        assert time.monotonic() < deadline, empty.log.read_text()
        time.sleep(0.2)


@pytest.mark.parametrize("direction", ["up", "down"])
def test_a_peer_with_a_direction_moves_events_only_that_way(
    make_daemon: MakeDaemon, direction: str
) -> None:
    events = lasting_events(300)
    other = make_daemon("other", events[:-50])
    other.start()
    one = make_daemon("one", events[50:], options=["--config", "negd.toml"])
    (one.folder / "negd.toml").write_text(
        f'[[peer]]\nurl = "{other.url}"\ndirection = "{direction}"\n'
    )
    sender, receiver = (one, other) if direction == "up" else (other, one)
    sent, received = held_by(sender), held_by(receiver)
    one.start()
    deadline = time.monotonic() + 30
    with ControlClient(one.control) as client:
        while not client.status().last_sync:
            assert time.monotonic() < deadline, one.log.read_text()
            time.sleep(0.1)
    assert held_by(sender) == sent
    assert held_by(receiver) == sent | received


def test_a_filter_limits_what_is_synced(make_daemon: MakeDaemon) -> None:
    full, empty = make_daemon("full", sample_events(400)), make_daemon("empty")
    full.start()
    empty.start()
    sync(empty, full.url, Filter.build(kinds=[1, 7]))
    expected = {line for line in held_by(full) if json.loads(line)["kind"] in (1, 7)}
    assert held_by(empty) == expected
    assert expected


def test_a_peer_that_is_gone_is_an_error_and_the_daemon_lives_on(make_daemon: MakeDaemon) -> None:
    with make_daemon() as daemon:
        done = daemon.negctl("sync", "ws://127.0.0.1:9")
        assert done.returncode == 1
        assert done.stderr.strip()
        assert daemon.is_ready()


def test_a_sync_cut_off_by_sigterm_loses_nothing_and_is_finished_later(
    make_daemon: MakeDaemon,
) -> None:
    events = lasting_events(4000)
    one, other = make_daemon("one", events[:-1500]), make_daemon("other", events[1500:])
    one.start()
    other.start()
    with ControlClient(one.control) as client, pytest.raises(NegdError):
        for progress in client.sync(other.url):
            if progress.fetched + progress.sent > 100:
                one.send_sigterm()
    assert one.wait() == 0
    assert other.is_ready()
    for daemon in (one, other):
        assert "Traceback" not in daemon.log.read_text()
    assert {event.id for event in events[:-1500]} <= ids_of(one) <= {event.id for event in events}

    one.start()
    assert sync(one, other.url)[-1].complete
    assert ids_of(one) == ids_of(other) == {event.id for event in events}
