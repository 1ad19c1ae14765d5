"""The command line of ``twistd negd``."""

from __future__ import annotations

from pathlib import Path

import pytest
from twisted.scripts._twistd_unix import ServerOptions

from negd import __version__
from negd.settings import Settings
from negd.tap import Options, makeService, served_on


def parsed(*arguments: str) -> Settings:
    options = Options()
    options.parseOptions(list(arguments))
    return options.settings


def refusal(*arguments: str) -> str:
    with pytest.raises(SystemExit) as caught:
        parsed(*arguments)
    assert isinstance(caught.value.code, str)  # which the interpreter prints, with status 1
    assert "\n" not in caught.value.code
    return caught.value.code


def test_without_options_the_defaults_hold() -> None:
    assert parsed() == Settings()


def test_options_beat_the_file(tmp_path: Path) -> None:
    file = tmp_path / "negd.toml"
    file.write_text('store = "memory:"\ncontrol.address = "127.0.0.1:1"\nsync.interval = 5\n')
    settings = parsed("--config", str(file), "--control", "127.0.0.1:2")
    assert settings.store == "memory:"
    assert settings.control.address == "127.0.0.1:2"
    assert settings.sync.interval == 5


def test_endpoints_and_peers_may_be_repeated() -> None:
    settings = parsed(
        *("--listen", "tcp:1", "--listen", "tcp:2"),
        *("--peer", "ws://a.example", "--peer", "ws://b.example"),
    )
    assert settings.websocket.listen == ("tcp:1", "tcp:2")
    assert [peer.url for peer in settings.peer] == ["ws://a.example", "ws://b.example"]


def test_a_mistake_ends_the_start_with_one_line() -> None:
    assert refusal("--control", "x").startswith("negd: command line: control.address = 'x'")
    assert refusal("--config", "/none.toml").startswith("negd: /none.toml: cannot be read")
    assert "frobnicate" in refusal("--frobnicate")
    assert "surplus" in refusal("surplus")


@pytest.mark.parametrize(
    ("store", "said"),
    [
        ("xx:foo", "store 'xx:foo' is none of the known kinds: lmdb:, memory:,"),
        ("lmdb:", "store 'lmdb:' names no folder: expected lmdb:PATH"),
        ("memory:x", "store 'memory:x' takes nothing after the colon"),
        ("redis:db", "store 'redis:db' names no server: expected HOST:PORT"),
        ("orlydb:db", "store 'orlydb:db': expected HOST:PORT"),
    ],
)
def test_a_store_that_cannot_be_meant_is_refused_before_twistd_forks(
    store: str, said: str, tmp_path: Path
) -> None:
    assert refusal("--store", store).startswith(f"negd: command line: {said}")
    file = tmp_path / "negd.toml"
    file.write_text(f"store = {store!r}")
    assert refusal("--config", str(file)).startswith(f"negd: {file}: {said}")


def unhoused(*arguments: str) -> str:
    """Why the daemon that they describe is not made."""
    options = Options()
    options.parseOptions(list(arguments))
    with pytest.raises(SystemExit) as caught:
        makeService(options)
    assert isinstance(caught.value.code, str) and "\n" not in caught.value.code
    return caught.value.code


def test_an_endpoint_that_cannot_be_read_is_named_with_its_source(tmp_path: Path) -> None:
    said = unhoused("--listen", "tcp:7777", "--listen", "carrier-pigeon:1")
    assert said.startswith(
        "negd: command line: websocket.listen[1] = 'carrier-pigeon:1': "
        "expected a Twisted server endpoint such as tcp:7777:interface=127.0.0.1 ("
    )
    file = tmp_path / "negd.toml"
    file.write_text("websocket.listen = ['carrier-pigeon:1']")
    said = unhoused("--config", str(file))
    assert said.startswith(f"negd: {file}: websocket.listen[0] = 'carrier-pigeon:1': expected")


def test_a_file_that_an_endpoint_names_and_that_is_not_there_is_named(tmp_path: Path) -> None:
    key = tmp_path / "key.pem"
    endpoint = f"ssl:443:privateKey={key}"
    shown = repr(endpoint) if len(repr(endpoint)) <= 80 else f"{repr(endpoint)[:80]}..."
    assert unhoused("--listen", endpoint) == (
        f"negd: command line: websocket.listen[0] = {shown}: "
        f"{key} cannot be read: No such file or directory"
    )


def test_what_is_served_is_told_where_there_is_nothing_too() -> None:
    assert served_on(("tcp:1", "tcp:2")) == "tcp:1, tcp:2"
    assert served_on(()) == "no clients"


def test_the_usage_is_told_once() -> None:
    twistd = ServerOptions()
    twistd.subCommand, options = "negd", Options()
    options.parent = twistd
    (line,) = [line for line in str(options).splitlines() if "Usage" in line]
    assert line.count("Usage") == 1 and line.endswith(" [options] negd [options]")


def test_the_kinds_of_stores_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        parsed("--help-stores")
    assert caught.value.code == 0
    shown = capsys.readouterr()
    assert {line.split(":")[0] for line in shown.out.splitlines()} >= {"lmdb", "memory"}


def test_the_version_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        parsed("--version")
    assert caught.value.code == 0
    assert capsys.readouterr().out == f"negd {__version__}\n"
