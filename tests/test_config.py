"""What the operator's file and options make, and what a mistake in them is answered with."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from negd import config
from negd.errors import ConfigError
from negd.settings import PeerSettings, Settings, SyncSettings

SHIPPED = Path(__file__).parents[1] / "etc" / "negd.toml"


def uncommented() -> dict[str, Any]:
    """The shipped file as it is with every commented key in force."""
    text = re.sub(r"(?m)^#(?=\w+ = |\[\[)", "", SHIPPED.read_text())
    return tomllib.loads(text)


def complaint(text: str) -> str:
    with pytest.raises(ConfigError) as caught:
        config.parse(text, "negd.toml")
    assert "\n" not in caught.value.text
    return caught.value.text


def test_the_shipped_file_changes_nothing() -> None:
    assert config.load(str(SHIPPED)) == Settings()


def test_the_shipped_file_shows_every_default() -> None:
    shown = uncommented()
    del shown["peer"]
    assert msgspec.convert(shown, Settings) == Settings()


def test_the_shipped_file_leaves_no_key_out() -> None:
    shown = uncommented()
    shown["peer"] = shown["peer"][0]
    for name, section in config.sections().items():
        table = shown[name] if name else shown
        assert set(table) == set(section.__struct_fields__), name


def test_the_shipped_peer_shows_its_defaults() -> None:
    (peer,) = uncommented()["peer"]
    assert peer.pop("interval") == SyncSettings().interval  # what None stands for
    assert msgspec.convert(peer, PeerSettings) == PeerSettings(url=peer["url"])


def test_every_commented_line_of_the_shipped_file_is_a_key_or_prose() -> None:
    for line in SHIPPED.read_text().splitlines():
        assert re.match(r"$|# |#\w+ = .|#?\[", line), line


def test_a_file_sets_what_it_names_and_leaves_the_rest() -> None:
    text = """
        store = "memory:"
        websocket.listen = ["tcp:0", "unix:/run/negd.sock"]
        sync.interval = 60
        [[peer]]
        url = "wss://a.example"
        direction = "down"
        filter = {kinds = [1]}
    """
    settings = config.parse(text, "negd.toml")
    assert settings.store == "memory:"
    assert settings.websocket.listen == ("tcp:0", "unix:/run/negd.sock")
    assert settings.sync == SyncSettings(interval=60.0)
    assert settings.peer == (
        PeerSettings(url="wss://a.example", direction="down", filter={"kinds": [1]}),
    )
    assert settings.sessions == Settings().sessions


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("stor = 1", "negd.toml: stor = 1: no such key, expected one of: store, storage, "),
        ("[relay]\nnam = 'x'", "relay.nam = 'x': no such key, expected one of: name, desc"),
        ("[[peer]]\nurl='ws://a'\nurk=1", "peer[0].urk = 1: no such key, expected one of: url,"),
        ("store = 1", "store = 1: expected a string"),
        ("websocket = 1", "websocket = 1: expected a table"),
        ("websocket.listen = 'tcp:1'", "websocket.listen = 'tcp:1': expected a list"),
        ("websocket.listen = ['tcp:1', 7]", "websocket.listen[1] = 7: expected a string"),
        ("websocket.max_connections = 0", "max_connections = 0: expected a whole number >= 1"),
        ("websocket.max_connections = true", "= True: expected a whole number"),
        ("sync.interval = '5m'", "sync.interval = '5m': expected a number"),
        ("sync.interval = 0", "sync.interval = 0: expected a number > 0.0"),
        ("sync.interval = inf", "sync.interval = inf: expected a number <= 1000000000.0"),
        ("sync.interval = nan", "sync.interval = nan: expected a number"),
        ("sync.jitter = 1.5", "sync.jitter = 1.5: expected a number <= 1.0"),
        ("control.max_message = 99999999999", "control.max_message = 99999999999: expected"),
        ("store = 2020-01-01", "store = datetime.date(2020, 1, 1): expected a string"),
        ("store = 'data'", "store = 'data': expected KIND:ARGUMENT"),
        ("relay.pubkey = 'ab'", "relay.pubkey = 'ab': expected 64 lower-case hex digits"),
        ("relay.contact = 'x'", "relay.contact = 'x': expected a URI, as in mailto:me@example."),
        ("relay.contact = 'me@example.com'", "contact = 'me@example.com': expected a URI"),
        ("relay.contact = 'mailto:a b'", "relay.contact = 'mailto:a b': expected a URI"),
        ("control.address = ':1'", "control.address = ':1': expected HOST:PORT or unix:PATH"),
        ("control.address = 'h:70000'", "control.address = 'h:70000': expected HOST:PORT"),
        ("control.address = 'unix:'", "control.address = 'unix:': expected HOST:PORT or unix"),
        ("peer = {url = 'ws://a'}", "peer = {'url': 'ws://a'}: expected a list"),
        ("[[peer]]", "peer[0].url is missing"),
        ("[[peer]]\nurl = 'http://a'", "peer[0].url = 'http://a': expected ws://HOST"),
        ("[[peer]]\nurl = 'http://a'", "wss://... or a bare host, taken as wss"),
        (
            "[[peer]]\nurl = 'WS://a.Onion./x'",
            "peer[0].url = 'WS://a.Onion./x': expected a proxy for this peer, as it is reached",
        ),
        ("[[peer]]\nurl='ws://u:p@a'", "peer[0].url = 'ws://u:p@a': expected ws://HOST"),
        ("[[peer]]\nurl='a'\n[[peer]]\nurl='wss://A/'", "peer[1].url = 'wss://A/': expected each"),
        (
            "[[peer]]\nurl = 'ws://a'\n[[peer]]\nurl = 'ws://b'\ndirection = 'sideways'",
            "peer[1].direction = 'sideways': expected one of: up, down, both",
        ),
        ("storage.durability = 'never'", "durability = 'never': expected one of: fsync, batched"),
        (
            "[storage]\nstanding = [{kinds = [1]}, {kind = [1]}]",
            "storage.standing[1] = {'kind': [1]}: expected a NIP-01 filter (unknown filter field",
        ),
        ("storage.standing = [" + "{}, " * 17 + "]", "of length <= 16"),
        (
            "[[peer]]\nurl = 'ws://a'\nfilter = {kind = [1]}",
            "peer[0].filter = {'kind': [1]}: expected a NIP-01 filter (unknown filter field",
        ),
        ("[[peer]]\nurl = 'ws://a'\ninterval = 'x'", "peer[0].interval = 'x': expected a number"),
        ("store = 'memory:'\n[relay\n", "negd.toml: not TOML: "),
        ("store = \n", "(at line 1, column 9)"),
        ('"a\\nb" = 1', "a\\nb = 1: no such key"),
        ("store = '" + "x" * 999 + "'", "xxx...: expected KIND:ARGUMENT"),
    ],
)
def test_a_mistake_is_one_line_with_key_value_and_what_was_expected(text: str, said: str) -> None:
    assert said in complaint(text)


@given(
    st.dictionaries(
        st.sampled_from(["store", "peer", "sync", "relay", "interval", "url", "a b", "\n`"]),
        st.recursive(
            st.booleans() | st.integers() | st.floats() | st.text(),
            lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
            max_leaves=8,
        ),
    )
)
def test_whatever_the_file_holds_the_answer_is_settings_or_one_line(raw: dict[str, Any]) -> None:
    try:
        assert isinstance(config.from_table(raw, "negd.toml"), Settings)
    except ConfigError as error:
        assert error.text.startswith("negd.toml: ")
        assert len(error.text.splitlines()) == 1


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    missing = tmp_path / "none.toml"
    with pytest.raises(ConfigError, match=r"none.toml: cannot be read: No such file"):
        config.load(str(missing))


def test_a_file_that_is_not_utf8_is_named(tmp_path: Path) -> None:
    latin = tmp_path / "latin.toml"
    latin.write_bytes(b"store = '\xe9'")
    with pytest.raises(ConfigError, match=r"latin.toml: not UTF-8 at byte 9"):
        config.load(str(latin))


def test_options_beat_the_file() -> None:
    text = """
        store = "memory:"
        control.address = "127.0.0.1:1"
        websocket.listen = ["tcp:1"]
        [[peer]]
        url = "wss://a.example"
    """
    settings = config.override(
        config.parse(text, "negd.toml"),
        store="lmdb:x",
        listen=["tcp:2", "tcp:3"],
        control="unix:/run/negd",
        peers=["ws://b.example"],
    )
    assert settings.store == "lmdb:x"
    assert settings.websocket.listen == ("tcp:2", "tcp:3")
    assert settings.control.address == "unix:/run/negd"
    assert settings.peer == (PeerSettings(url="ws://b.example"),)


def test_no_options_leave_the_file_as_it_is() -> None:
    settings = config.parse('store = "memory:"', "negd.toml")
    assert config.override(settings) == settings


def test_a_peer_given_again_keeps_what_the_file_says_of_it() -> None:
    settings = config.parse('[[peer]]\nurl = "ws://a"\ndirection = "up"', "negd.toml")
    chosen = config.override(settings, peers=["ws://A/", "ws://A/"])
    assert chosen.peer == (PeerSettings(url="ws://a", direction="up"),)


def test_a_private_peer_is_named_where_private_peers_are_forbidden() -> None:
    text = "sync.private_targets = false\n[[peer]]\nurl = 'ws://127.0.0.1:7777'"
    said = complaint(text)
    assert "peer[0].url = 'ws://127.0.0.1:7777': expected a public address, as sync.priv" in said
    assert config.parse(text.replace("false", "true"), "negd.toml").peer


def test_an_onion_peer_with_a_proxy_is_taken() -> None:
    text = "[[peer]]\nurl = 'ws://a.onion'\nproxy = 'socks5://127.0.0.1:9050'"
    assert config.parse(text, "negd.toml").peer
    with pytest.raises(ConfigError, match=r"command line: peer\[0\].url = 'a.onion': expected a p"):
        config.override(Settings(), peers=["a.onion"])


@pytest.mark.parametrize("contact", ["", "mailto:me@example.com", "https://a.example/?b", "tel:1"])
def test_contacts_that_are_uris_are_taken(contact: str) -> None:
    assert config.parse(f"relay.contact = '{contact}'", "negd.toml").relay.contact == contact


def test_a_rate_too_low_to_work_with_is_named() -> None:
    said = complaint("[[peer]]\nurl = 'ws://a'\nmax_rate = 500")
    assert said.endswith("peer[0].max_rate = 500: expected 0 for no limit, or >= 10000")
    assert config.parse("[[peer]]\nurl = 'ws://a'\nmax_rate = 10000", "negd.toml").peer


def test_a_proxy_that_is_none_is_named_without_its_password() -> None:
    said = complaint("[[peer]]\nurl = 'ws://a'\nproxy = 'socks5://spam:eggs@h'")
    assert "peer[0].proxy = 'socks5://...@h': expected socks5://[USER:PASSWORD@]HOST" in said
    assert "eggs" not in said


def test_a_wrong_option_is_named() -> None:
    with pytest.raises(ConfigError, match=r"command line: control.address = 'x': expected HOST"):
        config.override(Settings(), control="x")
    with pytest.raises(ConfigError, match=r"command line: peer\[0\].url = 'ftp://a': expected ws:"):
        config.override(Settings(), peers=["ftp://a"])


@pytest.mark.parametrize("address", ["h:1", "[::1]:50064", "127.0.0.1:0", "unix:rel/path"])
def test_addresses_of_every_form_are_taken(address: str) -> None:
    assert config.override(Settings(), control=address).control.address == address
