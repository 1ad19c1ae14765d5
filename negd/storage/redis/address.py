r"""Which server a store string names, and how it is reached.

``redis:HOST:PORT``, and options after further colons, as in Twisted's endpoint strings:
``redis:db.example.com:6380:database=2:user=negd:password-file=/etc/negd/redis:tls=yes``.
A colon within a value is written ``\:``; an IPv6 address stands in brackets.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from OpenSSL.crypto import Error as PEMError
from OpenSSL.SSL import Error as TLSError
from twisted.internet.endpoints import HostnameEndpoint, wrapClientTLS
from twisted.internet.interfaces import IStreamClientEndpoint
from twisted.internet.ssl import (
    Certificate,
    PrivateCertificate,
    optionsForClientTLS,
    trustRootFromCertificates,
)

from negd.errors import ConfigError, StorageError

T = TypeVar("T")

FORM = "HOST:PORT and options such as :database=1 and :password-file=PATH"

_DIAL_WITHIN = 5.0
"""Seconds for the connection to be made."""

_SERVER = re.compile(r"(\[[^\]]+\]|[^:\[\]]+):([0-9]{1,5})(?=:|$)")
_OPTION = re.compile(r":([a-z-]+)=((?:[^:\\]|\\.)*)", re.DOTALL)
_PREFIX = re.compile(r"[A-Za-z0-9_.-]{1,64}")
_CERTIFICATE = re.compile(b"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", re.DOTALL)


@dataclass(frozen=True)
class ServerAddress:
    """A server, one of its databases, and what it wants to see of us.

    :ivar password_file: read at every connection, so that a password can be changed.
    :ivar tls: whether to ask for TLS; the certificate is always checked.
    :ivar authority: a PEM file with the certificates that the server's must be signed by, where
        it is not to be one that the system trusts.
    :ivar certificate: a PEM file with our own certificate and its key, for a server that asks.
    :ivar prefix: what the names of all keys begin with, in braces.
    """

    host: str
    port: int
    database: int = 0
    user: str = ""
    password_file: str = ""
    tls: bool = False
    authority: str = ""
    certificate: str = ""
    prefix: str = "negd"

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"redis {host}:{self.port}"

    def elsewhere(self, host: str, port: int) -> ServerAddress:
        """The same store on another server; an empty host is this one's."""
        return replace(self, host=host or self.host, port=port)

    def password(self) -> str:
        """The password; empty for none.

        :raises StorageError: its file cannot be read, or is not text.
        """
        if not self.password_file:
            return ""
        try:
            return self._read(self.password_file).decode().strip()
        except UnicodeDecodeError:
            raise StorageError(f"{self}: {self.password_file}: it is not UTF-8") from None

    def endpoint(self, reactor: Any) -> IStreamClientEndpoint:
        """Where to connect.

        :raises StorageError: a file for TLS cannot be read, or is not what it should be.
        """
        endpoint = HostnameEndpoint(reactor, self.host, self.port, timeout=_DIAL_WITHIN)
        if not self.tls:
            return endpoint
        try:
            return wrapClientTLS(self._tls_options(), endpoint)
        except (TLSError, ValueError) as error:
            raise StorageError(f"{self}: its files for TLS are not what they should be: {error}")

    def _tls_options(self) -> Any:
        trusted, ours = None, None
        if self.authority:
            trusted = trustRootFromCertificates(self._load(self.authority, _certificates))
        if self.certificate:
            ours = self._load(self.certificate, PrivateCertificate.loadPEM)
        return optionsForClientTLS(self.host, trusted, ours)

    def _load(self, path: str, load: Callable[[bytes], T]) -> T:
        """What a PEM file holds."""
        pem = self._read(path)
        try:
            return load(pem)
        except (PEMError, ValueError):
            raise StorageError(f"{self}: {path}: it is no PEM file of what is needed") from None

    def _read(self, path: str) -> bytes:
        try:
            with open(path, "rb") as file:
                return file.read()
        except OSError as error:
            raise StorageError(f"{self}: {path}: {error.strerror}") from None


def _certificates(pem: bytes) -> list[Certificate]:
    """:raises ValueError: there is none."""
    found = _CERTIFICATE.findall(pem)
    if not found:
        raise ValueError("no certificate")
    return [Certificate.loadPEM(one) for one in found]


def parse_address(argument: str) -> ServerAddress:
    """The address in the argument of a store string.

    :raises ConfigError: it is not of the form.
    """
    server = _SERVER.match(argument)
    if server is None or not 0 < int(server[2]) < 65536:
        raise ConfigError(f"store 'redis:{argument}' names no server: expected {FORM}")
    address = ServerAddress(server[1].strip("[]"), int(server[2]))
    at = server.end()
    while at < len(argument):
        option = _OPTION.match(argument, at)
        if option is None:
            raise ConfigError(f"store 'redis:{argument}': expected {FORM}")
        address = _with_option(address, option[1], re.sub(r"\\(.)", r"\1", option[2]))
        at = option.end()
    return address


def _with_option(address: ServerAddress, name: str, value: str) -> ServerAddress:
    if name == "database" and value.isascii() and value.isdigit():
        return replace(address, database=int(value))
    if name == "tls" and value in ("yes", "no"):
        return replace(address, tls=value == "yes")
    if name == "prefix" and _PREFIX.fullmatch(value):
        return replace(address, prefix=value)
    if name in ("user", "password-file", "authority", "certificate") and value:
        given: dict[str, Any] = {name.replace("-", "_"): value}
        return replace(address, **given)
    if name not in _EXPECTED:
        known = ", ".join(_EXPECTED)
        raise ConfigError(f"redis option {name!r} is none of the known: {known}")
    raise ConfigError(f"redis option {name}={value!r}: expected {_EXPECTED[name]}")


_EXPECTED = {
    "database": "a number",
    "user": "a name",
    "password-file": "a path",
    "tls": "yes or no",
    "authority": "the path of a PEM file",
    "certificate": "the path of a PEM file",
    "prefix": "up to 64 of A-Z a-z 0-9 _ . -",
}
