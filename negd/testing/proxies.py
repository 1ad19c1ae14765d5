"""SOCKS5 proxies for tests: one of our own that says what it was asked for."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

from twisted.internet.defer import maybeDeferred
from twisted.internet.endpoints import TCP4ClientEndpoint, TCP4ServerEndpoint
from twisted.internet.interfaces import IListeningPort
from twisted.internet.protocol import Factory, Protocol

_LOOPBACK = "127.0.0.1"
_ADDRESS_SIZES = {1: 4, 4: 16}
_NAME = 3


class LoopbackProxy:
    """A SOCKS5 proxy that leads every request to one port of the loopback interface.

    :param port: where to lead them.
    :param reply: what it answers a request with; 0 grants it.
    :ivar asked: the host, as it was told, and the port of each request.
    :ivar url: the proxy's, once started.
    """

    def __init__(self, reactor: Any, port: int, reply: int = 0) -> None:
        self.asked: list[tuple[bytes, int]] = []
        self.url = ""
        self._to = TCP4ClientEndpoint(reactor, _LOOPBACK, port)
        self._from = TCP4ServerEndpoint(reactor, 0, interface=_LOOPBACK)
        self._reply = reply
        self._port: IListeningPort | None = None

    async def start(self) -> None:
        """Listen."""
        factory = Factory.forProtocol(lambda: _Near(self))
        factory.noisy = False
        self._port = port = await self._from.listen(factory)
        self.url = f"socks5://{_LOOPBACK}:{port.getHost().port}"

    async def stop(self) -> None:
        """Listen no more; connections go on."""
        if self._port is not None:
            await maybeDeferred(self._port.stopListening)

    def steps(self, near: _Near) -> Generator[int, bytes, None]:
        """One request: yields how many bytes it waits for."""
        _, count = yield 2
        yield count
        near.transport.write(b"\x05\x00")
        _, _, _, kind = yield 4
        size = (yield 1)[0] if kind == _NAME else _ADDRESS_SIZES[kind]
        host = yield size
        self.asked.append((host, int.from_bytes((yield 2))))
        near.transport.write(bytes([5, self._reply, 0, 1]) + bytes(6))
        if self._reply == 0:
            near.join(self._to)


class _Near(Protocol):
    """The side of who asks."""

    transport: Any

    def __init__(self, proxy: LoopbackProxy) -> None:
        self._steps: Generator[int, bytes, None] | None = proxy.steps(self)
        self._awaited = next(self._steps)
        self._buffer = b""
        self._far: _Far | None = None

    def join(self, endpoint: TCP4ClientEndpoint) -> None:
        """Connect to where requests are led."""
        self.transport.pauseProducing()
        factory = Factory.forProtocol(lambda: _Far(self))
        factory.noisy = False
        endpoint.connect(factory).addErrback(lambda _: self.transport.abortConnection())

    def joined(self, far: _Far) -> None:
        """The far side is there."""
        self._far = far
        far.transport.write(self._buffer)
        self.transport.resumeProducing()

    def dataReceived(self, data: bytes) -> None:
        if self._far is not None:
            self._far.transport.write(data)
            return
        self._buffer += data
        while self._steps is not None and len(self._buffer) >= self._awaited:
            part, self._buffer = self._buffer[: self._awaited], self._buffer[self._awaited :]
            try:
                self._awaited = self._steps.send(part)
            except StopIteration:
                self._steps = None

    def connectionLost(self, reason: object = None) -> None:
        if self._far is not None:
            self._far.transport.loseConnection()


class _Far(Protocol):
    """The side of the relay."""

    transport: Any

    def __init__(self, near: _Near) -> None:
        self._near = near

    def connectionMade(self) -> None:
        self._near.joined(self)

    def dataReceived(self, data: bytes) -> None:
        self._near.transport.write(data)

    def connectionLost(self, reason: object = None) -> None:
        self._near.transport.loseConnection()
