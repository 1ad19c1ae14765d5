"""A wire between two processes that counts what goes over it."""

from __future__ import annotations

import socket
from contextlib import suppress
from threading import Thread


class CountingWire:
    """Leads connections to a port of the loopback interface; a context manager.

    :ivar port: where it listens.
    :ivar up: bytes that went to the port.
    :ivar down: bytes that came from it.
    """

    def __init__(self, to: int) -> None:
        self.up = self.down = 0
        self._to = to
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._server.getsockname()[1]

    def __enter__(self) -> CountingWire:
        Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.close()

    def _accept(self) -> None:
        with suppress(OSError):  # closed
            while True:
                near, _ = self._server.accept()
                far = socket.create_connection(("127.0.0.1", self._to))
                for source, sink, way in ((near, far, "up"), (far, near, "down")):
                    Thread(target=self._carry, args=(source, sink, way), daemon=True).start()

    def _carry(self, source: socket.socket, sink: socket.socket, way: str) -> None:
        with suppress(OSError):
            while data := source.recv(65_536):
                setattr(self, way, getattr(self, way) + len(data))
                sink.sendall(data)
        with suppress(OSError):
            sink.shutdown(socket.SHUT_WR)
