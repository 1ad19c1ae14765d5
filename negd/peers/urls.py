"""Relay URLs in one canonical form, so that a peer is listed once."""

from __future__ import annotations

import re
from ipaddress import IPv4Address, IPv6Address
from urllib.parse import SplitResult, urlsplit, urlunsplit

import idna

from negd.addresses import is_private
from negd.errors import ConfigError

_LONGEST = 1024
"""Characters of a URL, as it is given and in its canonical form."""

_LONGEST_NAME = 253
_LABEL = r"(?!-)[a-z0-9_-]{1,63}(?<!-)"
_NAME = re.compile(rf"{_LABEL}(\.{_LABEL})*")
"""What name servers have names for; the underscore is against RFC 1123, and in use."""

_IN_NUMBERS = re.compile(r"(.*\.)?([0-9]+|0x[0-9a-f]*)")
"""What is read as an IPv4 address, in as many spellings (the URL standard: ends in a number)."""

_NO_NAME = "no host can have that name"

_DEFAULT_PORTS = {"ws": 80, "wss": 443}


def canonical(url: str) -> str:
    """The canonical form of a relay's URL; a bare host, with or without port, is taken as wss.

    Scheme and host in lower case, names in ASCII (IDNA 2008) and without a dot at the end,
    addresses in their shortest form, no default port, no bare slash, no fragment.

    :raises ConfigError: it is not the URL of a relay.
    """
    text = _bounded(url.strip(), url)
    if "://" not in text:
        text = f"wss://{text}"
    try:
        parts = urlsplit(text)
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise _wrong(url, str(error)) from None
    if parts.scheme.lower() not in _DEFAULT_PORTS:
        raise _wrong(url, f"scheme {parts.scheme!r}")
    if not host or any(c.isspace() or ord(c) < 32 for c in text):
        raise _wrong(url, "no host" if not host else "white space in it")
    if port == 0:
        raise _wrong(url, "port 0")
    try:
        name = _name(host)
    except ValueError as error:
        raise _wrong(url, str(error)) from None
    if parts.username is not None or parts.password is not None:
        raise _wrong(url, "a user name or password in it")
    return _bounded(_join(parts, parts.scheme.lower(), name, port), url)


def target(url: str, may_be_private: bool) -> str:
    """The canonical URL of a relay that is to be dialed.

    :raises ConfigError: it is not the URL of a relay, or its address is private and must not be.
    """
    text = canonical(url)
    if not may_be_private and is_private(urlsplit(text).hostname or ""):
        raise ConfigError(
            f"peer {text!r}: expected a public address (private_targets in [sync] is false)"
        )
    return text


def _name(host: str) -> str:
    """The one spelling of a host.

    :raises ValueError: no DNS name, nor an address, could be written so.
    """
    if ":" in host:
        return IPv6Address(host).compressed
    try:
        name = host if host.isascii() else idna.encode(host, uts46=True).decode()
    except UnicodeError:
        raise ValueError(_NO_NAME) from None
    name = name.removesuffix(".")
    if len(name) > _LONGEST_NAME or not _NAME.fullmatch(name):
        raise ValueError(_NO_NAME)
    if _IN_NUMBERS.fullmatch(name):
        try:
            return IPv4Address(name).compressed
        except ValueError:
            raise ValueError("an IPv4 address is written as four numbers, like 192.0.2.1") from None
    return name


def _join(parts: SplitResult, scheme: str, host: str, port: int | None) -> str:
    shown = f"[{host}]" if ":" in host else host
    if port is not None and port != _DEFAULT_PORTS[scheme]:
        shown = f"{shown}:{port}"
    path = "" if parts.path == "/" else parts.path
    return urlunsplit((scheme, shown, path, parts.query, ""))


def _bounded(text: str, url: str) -> str:
    if len(text) > _LONGEST:
        raise _wrong(url, f"longer than {_LONGEST:,} characters")
    return text


def _wrong(url: str, why: str) -> ConfigError:
    return ConfigError(f"peer {url[:200]!r}: expected ws://HOST[:PORT] or wss://HOST ({why})")
