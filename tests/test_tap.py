"""The command line of ``twistd negd``."""

from __future__ import annotations

from pathlib import Path

import pytest
from twisted.internet import reactor

from negd import __version__
from negd.errors import ConfigError
from negd.settings import Settings
from negd.tap import House, Options


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


def test_an_endpoint_that_cannot_be_read_is_named() -> None:
    settings = parsed("--listen", "tcp:7777", "--listen", "carrier-pigeon:1")
    with pytest.raises(ConfigError, match=r"websocket.listen\[1\] = 'carrier-pigeon:1': expected"):
        House(settings, reactor)


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
