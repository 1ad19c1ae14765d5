"""The words exchanged with a SOCKS5 proxy, octet by octet (RFC 1928, RFC 1929)."""

from __future__ import annotations

from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from negd.errors import ConfigError
from negd.websocket.socks import Proxy, SocksError, SocksRequest, destination

OPEN = Proxy("proxy.example", 1080)
LOGIN = Proxy("proxy.example", 1080, "spam", "eggs")
RELAY = destination("relay.example", 443)

PLAIN = b"\x05\x00"
GRANTED = b"\x05\x00\x00\x01" + bytes(6)


def talk(proxy: Proxy, pieces: Iterable[bytes]) -> tuple[bytes, SocksRequest]:
    """All that is sent to a proxy that sends these pieces, and how the request stands."""
    request = SocksRequest(RELAY, proxy)
    sent = request.begin()
    for piece in pieces:
        sent += request.receive(piece)
    return sent, request


@pytest.mark.parametrize(
    ("host", "told"),
    [
        ("relay.example", b"\x03\x0drelay.example"),
        ("x" * 56 + ".onion", b"\x03\x3e" + b"x" * 56 + b".onion"),
        ("bücher.example", b"\x03\x15xn--bcher-kva.example"),
        ("192.0.2.7", b"\x01\xc0\x00\x02\x07"),
        ("2001:db8::7", b"\x04\x20\x01\x0d\xb8" + bytes(11) + b"\x07"),
    ],
)
def test_a_host_is_told_as_it_is_and_names_are_not_resolved(host: str, told: bytes) -> None:
    assert destination(host, 443) == told + b"\x01\xbb"


@pytest.mark.parametrize("host", ["", "a" * 64 + ".example", ".".join(["abcdefg"] * 40), "a..b"])
def test_a_host_that_cannot_be_told_is_refused(host: str) -> None:
    with pytest.raises(SocksError, match="cannot be asked for a host name like this"):
        destination(host, 443)


def test_a_request_without_login() -> None:
    sent, request = talk(OPEN, [PLAIN, GRANTED])
    assert sent == b"\x05\x01\x00" + b"\x05\x01\x00" + RELAY
    assert request.is_granted
    assert request.rest == b""


def test_a_request_with_login() -> None:
    sent, request = talk(LOGIN, [b"\x05\x02", b"\x01\x00", GRANTED])
    assert sent == b"\x05\x02\x02\x00" + b"\x01\x04spam\x04eggs" + b"\x05\x01\x00" + RELAY
    assert request.is_granted


def test_a_login_that_is_not_wanted_is_not_told() -> None:
    sent, request = talk(LOGIN, [PLAIN, GRANTED])
    assert sent == b"\x05\x02\x02\x00" + b"\x05\x01\x00" + RELAY
    assert request.is_granted


bound = st.sampled_from(
    [b"\x01" + bytes(6), b"\x04" + bytes(18), b"\x03\x00" + bytes(2), b"\x03\xff" + bytes(257)]
)


@given(bound, st.binary(max_size=20), st.lists(st.integers(1, 9)), st.booleans())
def test_however_the_answer_is_cut_it_says_the_same(
    address: bytes, rest: bytes, sizes: list[int], with_login: bool
) -> None:
    login = b"\x05\x02\x01\x00" if with_login else PLAIN
    answer = login + b"\x05\x00\x00" + address + rest
    whole, request = talk(LOGIN, [answer])
    assert request.is_granted
    assert request.rest == rest
    pieces, left = [], answer
    for size in sizes:
        pieces.append(left[:size])
        left = left[size:]
    sent, cut = talk(LOGIN, [*pieces, left])
    assert (sent, cut.is_granted, cut.rest) == (whole, True, rest)


def test_nothing_is_granted_before_the_whole_answer() -> None:
    answer = PLAIN + GRANTED
    for size in range(len(answer)):
        _, request = talk(OPEN, [answer[:size]])
        assert not request.is_granted


@pytest.mark.parametrize(
    ("proxy", "answer", "said"),
    [
        (OPEN, b"HTTP/1.1 400 Bad Request", "is no SOCKS5 proxy"),
        (OPEN, b"\x04\x5a", "is no SOCKS5 proxy"),
        (OPEN, b"\x05\xff", "wants a user name and password"),
        (LOGIN, b"\x05\xff", "takes no such user"),
        (OPEN, b"\x05\x02", "answers with a way to log in that was not offered"),
        (LOGIN, b"\x05\x01", "answers with a way to log in that was not offered"),
        (LOGIN, b"\x05\x02\x01\x01", "does not take our user name and password"),
        (OPEN, PLAIN + b"\x05\x01\x00\x01", "does not reach the peer: general failure"),
        (OPEN, PLAIN + b"\x05\x02\x00\x01", "does not reach the peer: its rules forbid it"),
        (OPEN, PLAIN + b"\x05\x04\x00\x01", "does not reach the peer: host unreachable"),
        (OPEN, PLAIN + b"\x05\x05\x00\x01", "does not reach the peer: connection refused"),
        (OPEN, PLAIN + b"\x05\xf0\x00\x01", "does not reach the peer: no such onion service"),
        (OPEN, PLAIN + b"\x05\x63\x00\x01", "does not reach the peer: SOCKS error 99"),
        (OPEN, PLAIN + b"\x04\x00\x00\x01", "answers with something that is not SOCKS5"),
        (OPEN, PLAIN + b"\x05\x00\x00\x02", "answers with something that is not SOCKS5"),
    ],
)
def test_refusals_are_told_in_words(proxy: Proxy, answer: bytes, said: str) -> None:
    with pytest.raises(SocksError) as caught:
        talk(proxy, [answer])
    assert caught.value.text == said


@given(st.binary(max_size=600))
def test_no_answer_is_too_odd(answer: bytes) -> None:
    try:
        talk(LOGIN, [answer])
    except SocksError as error:
        assert error.text.isprintable()


@pytest.mark.parametrize(
    ("text", "proxy"),
    [
        ("socks5://127.0.0.1:9050", Proxy("127.0.0.1", 9050)),
        ("socks5://[::1]:9050/", Proxy("::1", 9050)),
        ("socks5://spam:e%40gs@proxy.example:1080", Proxy("proxy.example", 1080, "spam", "e@gs")),
    ],
)
def test_a_proxys_url_is_read(text: str, proxy: Proxy) -> None:
    assert Proxy.parse(text) == proxy


def test_a_proxy_is_shown_without_its_password() -> None:
    assert str(LOGIN) == "proxy.example:1080"
    assert "eggs" not in repr(LOGIN)
    assert str(Proxy("::1", 9050)) == "[::1]:9050"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "127.0.0.1:9050",
        "http://127.0.0.1:9050",
        "socks4://127.0.0.1:9050",
        "socks5://127.0.0.1",
        "socks5://:9050",
        "socks5://127.0.0.1:0",
        "socks5://127.0.0.1:99999",
        "socks5://127.0.0.1:9050/path",
        "socks5://spam@127.0.0.1:9050",
        "socks5://:eggs@127.0.0.1:9050",
        "socks5://spam:" + "e" * 256 + "@127.0.0.1:9050",
        "socks5://[::1:9050",
    ],
)
def test_what_is_no_proxy_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match=r"expected socks5://\[USER:PASSWORD@\]HOST:PORT"):
        Proxy.parse(text)
