"""Where the control service listens: ``HOST:PORT`` or ``unix:PATH``."""

from __future__ import annotations

import socket
from dataclasses import dataclass
from pathlib import Path

from negd.errors import ConfigError

_UNIX = "unix:"


@dataclass(frozen=True, slots=True)
class Address:
    """One of the two forms.

    :ivar path: of the socket; None for TCP.
    :ivar host: name or IP address, without brackets; empty for a path.
    :ivar port: 0 takes a free one.
    """

    path: str | None = None
    host: str = ""
    port: int = 0

    def __str__(self) -> str:
        if self.path is not None:
            return f"{_UNIX}{self.path}"
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"

    @classmethod
    def parse(cls, text: str) -> Address:
        """Read an address; an IPv6 one is ``[::1]:50064``.

        :raises ConfigError: it has neither form.
        """
        if text.startswith(_UNIX):
            path = text.removeprefix(_UNIX)
            if path:
                return cls(path=str(Path(path).absolute()))
            raise _wrong(text)
        host, colon, port = text.rpartition(":")
        bare = host[1:-1] if host.startswith("[") and host.endswith("]") else host
        if not colon or not bare or ("[" in bare) or (":" in bare and bare == host):
            raise _wrong(text)
        if not (port.isascii() and port.isdigit() and int(port) <= 65535):
            raise _wrong(text)
        return cls(host=bare, port=int(port))

    def check_free(self) -> None:
        """Find out whether a server could listen here, as gRPC will not say why it cannot.

        gRPC takes over the path of a socket that another server listens on, and is content with
        one of several addresses of a host name.

        :raises ConfigError: the address is taken, or not one of this machine.
        """
        try:
            if self.path is None:
                self._bind_port()
            else:
                self._refuse_live_socket(Path(self.path))
        except (OSError, UnicodeError) as error:
            why = getattr(error, "strerror", None) or str(error)
            raise ConfigError(f"control address {self}: cannot listen there ({why})") from None

    def _bind_port(self) -> None:
        found = socket.getaddrinfo(self.host, self.port, type=socket.SOCK_STREAM)
        for family, kind, protocol, _, sockaddr in found:
            with socket.socket(family, kind, protocol) as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind(sockaddr)

    def _refuse_live_socket(self, path: Path) -> None:
        if not path.parent.is_dir():
            raise OSError(0, f"no folder {path.parent}")
        if not path.exists():
            return
        if not path.is_socket():
            raise OSError(0, "something that is no socket is there")
        with socket.socket(socket.AF_UNIX) as probe:
            probe.settimeout(1)
            try:
                probe.connect(str(path))
            except ConnectionRefusedError:
                return  # left behind by a process that is gone; gRPC replaces it
        raise OSError(0, "another server listens there")


def _wrong(text: str) -> ConfigError:
    return ConfigError(f"control address {text[:200]!r}: expected HOST:PORT or unix:PATH")
