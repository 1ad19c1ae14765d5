"""Relay URLs: one spelling each."""

from __future__ import annotations

import pytest

from negd.errors import ConfigError
from negd.peers.urls import canonical, target


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("wss://relay.example", "wss://relay.example"),
        ("WSS://Relay.Example/", "wss://relay.example"),
        (" wss://relay.example:443/ ", "wss://relay.example"),
        ("ws://relay.example:80", "ws://relay.example"),
        ("ws://127.0.0.1:7777/", "ws://127.0.0.1:7777"),
        ("relay.example", "wss://relay.example"),
        ("relay.example:8080", "wss://relay.example:8080"),
        ("wss://relay.example/inbox/?a=B#part", "wss://relay.example/inbox/?a=B"),
        ("ws://[::1]:7777", "ws://[::1]:7777"),
        ("ws://[0:0::0:1]:7777", "ws://[::1]:7777"),
        ("ws://[2001:DB8::A]", "ws://[2001:db8::a]"),
        ("wss://relay.example.", "wss://relay.example"),
        ("wss://Relay.Example.:443/inbox", "wss://relay.example/inbox"),
        ("ws://relay.example:443", "ws://relay.example:443"),
        ("wss://relay.example:80", "wss://relay.example:80"),
        ("wss://MÜNCHEN.example", "wss://xn--mnchen-3ya.example"),
        ("münchen.example:443/", "wss://xn--mnchen-3ya.example"),
        ("wss://XN--MNCHEN-3YA.example", "wss://xn--mnchen-3ya.example"),
        ("wss://straße.example", "wss://xn--strae-oqa.example"),
        ("wss://日本語。example", "wss://xn--wgv71a119e.example"),
        ("ws://127.0.0.1.", "ws://127.0.0.1"),
        ("wss://\uff11\uff19\uff12.0.2.1", "wss://192.0.2.1"),
        ("wss://1.0x7g", "wss://1.0x7g"),
        ("wss://4.example", "wss://4.example"),
        ("wss://relay_1.example", "wss://relay_1.example"),
        ("wss://_relay.my-host_", "wss://_relay.my-host_"),
        ("wss://xn--ls8h.la", "wss://xn--ls8h.la"),
        ("wss://a" + ".b" * 126, "wss://a" + ".b" * 126),
        ("wss://" + "a" * 63 + ".example", "wss://" + "a" * 63 + ".example"),
        ("relay.example/" + "x" * 1004, "wss://relay.example/" + "x" * 1004),
    ],
)
def test_spellings_of_one_relay_are_one(given: str, expected: str) -> None:
    assert canonical(given) == expected
    assert canonical(expected) == expected


@pytest.mark.parametrize(
    "given",
    [
        "",
        "  ",
        "http://relay.example",
        "wss://",
        "wss://:443",
        "wss://relay.example:port",
        "wss://relay.example:99999",
        "wss://user:word@relay.example",
        "wss://relay .example",
        "wss://[::1",
        "ws://relay.example:0",
        "wss://" + "a" * 300,
        "wss://" + ".".join(["abc"] * 100),
        "wss://relay..example",
        "wss://.",
        "wss://relay.example..",
        "wss://" + "ü" * 70 + ".example",
        "wss://a\u2028b.example",
        "wss://user@relay.example",
        "wss://relay.exa\nmple",
        "wss://a\x00b",
        "wss://ho%73t",
        "wss://host\\evil",
        "wss://ex*mple",
        "wss://xn--",
        "wss://-bad-.com",
        "wss://good.bad-.com",
        "wss://" + "a" * 64 + ".example",
        "wss://a" + ".b" * 127,
        "wss://relay.example/" + "x" * 5000,
        "relay.example/" + "x" * 1005,
    ],
)
def test_what_is_no_relay_is_refused_by_name(given: str) -> None:
    with pytest.raises(ConfigError, match="expected ws://HOST"):
        canonical(given)


@pytest.mark.parametrize(
    "host",
    [
        "127.1",
        "0x7f.1",
        "0X7F000001",
        "2130706433",
        "1.2.3",
        "1.2.3.4.5",
        "127.0.0.01",
        "256.0.0.1",
        "relay.1",
        "relay.0x",
        "127.0.0.1..",
    ],
)
def test_no_address_is_taken_in_another_spelling(host: str) -> None:
    with pytest.raises(ConfigError, match=r"four numbers, like 192\.0\.2\.1|no host can have"):
        canonical(f"ws://{host}:7777")


@pytest.mark.parametrize(
    "host", ["localhost", "127.0.0.1:7777", "[::1]", "10.0.0.1/inbox", "[::ffff:7f00:1]:7777"]
)
def test_a_private_target_is_refused_where_it_is_forbidden(host: str) -> None:
    assert target(f"WS://{host}", may_be_private=True) == f"ws://{host}"
    with pytest.raises(ConfigError, match=r"expected a public address \(private_targets in"):
        target(f"WS://{host}", may_be_private=False)


@pytest.mark.parametrize(
    "host", ["[::ffff:127.0.0.1]", "localhost.", "LOCALHOST", "\uff11\uff12\uff17.0.0.1"]
)
def test_a_private_target_is_refused_in_every_dress(host: str) -> None:
    with pytest.raises(ConfigError, match="expected a public address"):
        target(f"wss://{host}", may_be_private=False)


def test_other_targets_are_made_canonical() -> None:
    assert target("Relay.Example/", may_be_private=False) == "wss://relay.example"
    with pytest.raises(ConfigError, match="expected ws://HOST"):
        target("http://relay.example", may_be_private=False)


def test_a_complaint_about_a_long_url_is_short() -> None:
    with pytest.raises(ConfigError, match=r"longer than 1,024 characters") as caught:
        canonical("wss://relay.example/" + "x" * 1_000_000)
    assert len(caught.value.text) < 400
