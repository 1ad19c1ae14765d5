"""Asking a SOCKS5 proxy for a connection (RFC 1928, RFC 1929): bytes in, bytes out."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass, field
from ipaddress import IPv4Address, ip_address
from typing import NamedTuple
from urllib.parse import unquote, urlsplit

from negd.errors import ConfigError

FORM = "socks5://[USER:PASSWORD@]HOST:PORT"

_SOCKS = 5
_NO_LOGIN, _LOGIN, _REFUSED = 0, 2, 0xFF
_CONNECT = 1
_IPV4, _NAME, _IPV6 = 1, 3, 4
_LONGEST = 255
"""Bytes of a name, a user or a password: their length is one byte."""

_REASONS = {
    1: "general failure",
    2: "its rules forbid it",
    3: "network unreachable",
    4: "host unreachable",
    5: "connection refused",
    6: "no answer in time",
    7: "it makes no connections",
    8: "it takes no address of this kind",
    # Tor's own, where its SocksPort has ExtendedErrors.
    0xF0: "no such onion service",
    0xF1: "the onion service's descriptor is not valid",
    0xF2: "the onion service does not take introductions",
    0xF3: "the onion service did not come to the rendezvous",
    0xF4: "the onion service wants a client key",
    0xF5: "the onion service does not take the client key",
    0xF6: "no onion address",
    0xF7: "the onion service's introduction took too long",
}


class SocksError(Exception):
    """The proxy does not do it.

    :ivar text: what it does instead, to follow "the proxy" in a sentence.
    """

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.text = text


@dataclass(frozen=True, slots=True)
class Proxy:
    """Where a proxy is, and who we are to it; an empty user is none."""

    host: str
    port: int
    user: str = ""
    password: str = field(default="", repr=False)

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @classmethod
    def parse(cls, text: str) -> Proxy:
        """A proxy's URL, ``socks5://[USER:PASSWORD@]HOST:PORT``, user and password quoted.

        :raises ConfigError: it is none; its text does not show the password.
        """
        try:
            parts = urlsplit(text)
            port = parts.port
        except ValueError:
            raise _wrong() from None
        user, password = unquote(parts.username or ""), unquote(parts.password or "")
        surplus = parts.path.strip("/") or parts.query or parts.fragment
        if parts.scheme != "socks5" or surplus or not parts.hostname or not port:
            raise _wrong()
        if (user or password) and not (_is_counted(user) and _is_counted(password)):
            raise _wrong()
        return cls(parts.hostname, port, user, password)


def _wrong() -> ConfigError:
    return ConfigError(f"expected {FORM}")


def _is_counted(text: str) -> bool:
    return 0 < len(text.encode(errors="replace")) <= _LONGEST


def destination(host: str, port: int) -> bytes:
    """A host as a proxy is told it; a name stays one, for the proxy to resolve.

    :raises SocksError: no proxy can be told this name.
    """
    try:
        address = ip_address(host.partition("%")[0])
    except ValueError:
        return bytes([_NAME]) + _name(host) + port.to_bytes(2)
    kind = _IPV4 if isinstance(address, IPv4Address) else _IPV6
    return bytes([kind]) + address.packed + port.to_bytes(2)


def _name(host: str) -> bytes:
    try:
        name = host.encode("idna")
    except UnicodeError:
        name = b""
    if not 0 < len(name) <= _LONGEST:
        raise SocksError("cannot be asked for a host name like this")
    return bytes([len(name)]) + name


class SocksRequest:
    """One request for a connection to a :func:`destination`."""

    def __init__(self, destination: bytes, proxy: Proxy) -> None:
        self._steps = _steps(destination, proxy)
        self._step = next(self._steps)
        self._buffer = bytearray()
        self.is_granted = False

    def begin(self) -> bytes:
        """What to send first."""
        return self._step.send

    def receive(self, data: bytes) -> bytes:
        """Take what the proxy sent; returns what to send next.

        :raises SocksError: the proxy refuses, or is none.
        """
        self._buffer += data
        sending = b""
        while not self.is_granted and len(self._buffer) >= self._step.awaited:
            answer = bytes(self._buffer[: self._step.awaited])
            del self._buffer[: self._step.awaited]
            try:
                self._step = self._steps.send(answer)
                sending += self._step.send
            except StopIteration:
                self.is_granted = True
        return sending

    @property
    def rest(self) -> bytes:
        """Once it is granted: what came from the far end already."""
        return bytes(self._buffer)


class _Step(NamedTuple):
    """Bytes to send, and how many are awaited then."""

    send: bytes
    awaited: int


def _steps(destination: bytes, proxy: Proxy) -> Generator[_Step, bytes, None]:
    """The request, each step answered with the bytes that it awaits."""
    methods = [_LOGIN, _NO_LOGIN] if proxy.user else [_NO_LOGIN]
    version, method = yield _Step(bytes([_SOCKS, len(methods), *methods]), 2)
    if version != _SOCKS:
        raise SocksError("is no SOCKS5 proxy")
    if method == _LOGIN and proxy.user:
        _, status = yield _Step(b"\x01" + _counted(proxy.user) + _counted(proxy.password), 2)
        if status:
            raise SocksError("does not take our user name and password")
    elif method == _REFUSED:
        raise SocksError("takes no such user" if proxy.user else "wants a user name and password")
    elif method != _NO_LOGIN:
        raise SocksError("answers with a way to log in that was not offered")
    version, reply, _, kind = yield _Step(bytes([_SOCKS, _CONNECT, 0]) + destination, 4)
    if version != _SOCKS:
        raise SocksError("answers with something that is not SOCKS5")
    if reply:
        reason = _REASONS.get(reply, f"SOCKS error {reply}")
        raise SocksError(f"does not reach the peer: {reason}")
    yield from _skip_address(kind)


def _skip_address(kind: int) -> Generator[_Step, bytes, None]:
    """The address it connects from; of no use, but in the way."""
    if kind == _NAME:
        (size,) = yield _Step(b"", 1)
    elif kind in (_IPV4, _IPV6):
        size = 4 if kind == _IPV4 else 16
    else:
        raise SocksError("answers with something that is not SOCKS5")
    yield _Step(b"", size + 2)


def _counted(text: str) -> bytes:
    data = text.encode()
    return bytes([len(data)]) + data
