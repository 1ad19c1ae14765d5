"""Relays on real sockets: negd itself on a free port, and relays that misbehave by a script."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, TypeAlias

from twisted.internet.defer import maybeDeferred
from twisted.internet.endpoints import SSL4ServerEndpoint, TCP4ServerEndpoint
from twisted.internet.interfaces import IListeningPort
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.ssl import PrivateCertificate
from twisted.internet.task import deferLater
from twisted.web.server import Site

from negd.settings import EndpointSettings
from negd.testing.links import memory_backend
from negd.websocket.conversation import Backend
from negd.websocket.server import ClientConnection, ClientFactory

_LOOPBACK = "127.0.0.1"


async def until(reactor: Any, condition: Callable[[], object], seconds: float = 60.0) -> None:
    """Return once the condition holds.

    :raises AssertionError: it did not within so many seconds.
    """
    deadline = reactor.seconds() + seconds
    while not condition():
        if reactor.seconds() > deadline:
            raise AssertionError(f"it did not come true within {seconds:g} s")
        await deferLater(reactor, 0.005)


class _Listening:
    """A server on a free port of the loopback interface.

    :ivar url: where to dial it, once started.
    """

    def __init__(
        self, reactor: Any, factory: Any, certificate: PrivateCertificate | None = None
    ) -> None:
        self.url = ""
        self._reactor = reactor
        self._factory = factory
        self._certificate = certificate
        self._port: IListeningPort | None = None

    async def start(self) -> None:
        """Listen."""
        if self._certificate is None:
            endpoint: Any = TCP4ServerEndpoint(self._reactor, 0, interface=_LOOPBACK)
        else:
            options = self._certificate.options()
            endpoint = SSL4ServerEndpoint(self._reactor, 0, options, interface=_LOOPBACK)
        self._port = port = await endpoint.listen(self._factory)
        scheme = "ws" if self._certificate is None else "wss"
        host = _LOOPBACK if self._certificate is None else "localhost"
        self.url = f"{scheme}://{host}:{port.getHost().port}/"

    async def stop(self) -> None:
        """Listen no more."""
        if self._port is not None:
            await maybeDeferred(self._port.stopListening)
            self._port = None


class LoopbackRelay(_Listening):
    """negd itself: the WebSocket endpoint over a backend, without HTTP pages.

    :ivar clients: the factory of its connections.
    """

    def __init__(
        self,
        reactor: Any,
        backend: Backend | None = None,
        settings: EndpointSettings | None = None,
        certificate: PrivateCertificate | None = None,
        http_timeout: float = 30.0,
    ) -> None:
        self.backend = backend or memory_backend(reactor, settings)
        self.clients = ClientFactory(self.backend, reactor)
        site = Site(self.clients.as_resource(), timeout=http_timeout, reactor=reactor)
        super().__init__(reactor, site, certificate)

    async def stop(self) -> None:
        """Listen no more, and see every client off."""
        await super().stop()
        await self.clients.close()


# --- relays that misbehave ------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Binary:
    """A binary message."""

    payload: bytes


@dataclass(frozen=True, slots=True)
class Octets:
    """Bytes that need not be a frame."""

    data: bytes


@dataclass(frozen=True, slots=True)
class Goodbye:
    """The WebSocket is closed in good form."""

    reason: str = ""


@dataclass(frozen=True, slots=True)
class Drop:
    """The connection is cut."""


Act: TypeAlias = bytes | Binary | Octets | Goodbye | Drop
"""What a scripted relay does; bytes are a text message."""


class _ScriptedConnection(ClientConnection):
    """A connection whose messages go to the script."""

    def onOpen(self) -> None:
        self.factory.connections.add(self)
        self._play(self.factory.greeting)

    def onMessage(self, payload: bytes, isBinary: bool) -> None:
        self.factory.heard.append(payload)
        self._play(self.factory.script(payload))

    def onClose(self, wasClean: bool, code: int | None, reason: str | None) -> None:
        self.factory.disconnected(self)

    def _play(self, acts: Iterable[Act]) -> None:
        for act in acts:
            match act:
                case bytes() if self._perMessageCompress is not None:
                    self.sendMessage(act)
                case bytes():
                    self.send(act)
                case Binary():
                    self.sendMessage(act.payload, isBinary=True)
                case Octets():
                    self.transport.write(act.data)
                case Goodbye():
                    self.sendClose(1000, act.reason)
                case Drop():
                    self.transport.abortConnection()


class _ScriptedFactory(ClientFactory):
    protocol = _ScriptedConnection

    def __init__(
        self,
        reactor: Any,
        script: Callable[[bytes], Iterable[Act]],
        greeting: Iterable[Act],
        compression: Callable[[Any], Any] | None,
    ) -> None:
        super().__init__(memory_backend(reactor, EndpointSettings(max_message=10**8)), reactor)
        self.setProtocolOptions(perMessageCompressionAccept=compression)
        self.script = script
        self.greeting = tuple(greeting)
        self.heard: list[bytes] = []


class ScriptedRelay(_Listening):
    """A relay that does what a script says, for each message it gets.

    :param script: from a client's message to what is done; silence unless given.
    :param greeting: what is done when a client has connected.
    :param compression: what it accepts of a client's offers to compress, in autobahn's terms; all
        it sends is compressed then.
    """

    def __init__(
        self,
        reactor: Any,
        script: Callable[[bytes], Iterable[Act]] = lambda _: (),
        greeting: Iterable[Act] = (),
        compression: Callable[[Any], Any] | None = None,
    ) -> None:
        self._scripted = _ScriptedFactory(reactor, script, greeting, compression)
        super().__init__(reactor, Site(self._scripted.as_resource(), reactor=reactor))

    @property
    def heard(self) -> list[bytes]:
        """Every message of every client, in order."""
        return self._scripted.heard

    @property
    def connected(self) -> int:
        """How many clients are there."""
        return len(self._scripted.connections)

    async def stop(self) -> None:
        """Listen no more, and see every client off."""
        await super().stop()
        await self._scripted.close(patience=1)


class _Canned(Protocol):
    factory: _CannedFactory
    transport: Any

    def __init__(self, answer: bytes | None) -> None:
        self._answer = answer

    def connectionMade(self) -> None:
        self.factory.connections.add(self)

    def dataReceived(self, data: bytes) -> None:
        if self._answer is not None:
            self.transport.write(self._answer)
            self.transport.loseConnection()

    def connectionLost(self, reason: object = None) -> None:
        self.factory.connections.discard(self)


class _CannedFactory(Factory):
    noisy = False

    def __init__(self, answer: bytes | None) -> None:
        self.connections: set[_Canned] = set()
        self._answer = answer

    def buildProtocol(self, addr: object) -> Any:
        protocol = _Canned(self._answer)
        protocol.factory = self
        return protocol


class CannedServer(_Listening):
    """Answers the first bytes of each connection with the same bytes and hangs up.

    :param answer: None to say nothing and keep the connection.
    """

    def __init__(self, reactor: Any, answer: bytes | None) -> None:
        self._canned = _CannedFactory(answer)
        super().__init__(reactor, self._canned)

    @property
    def connected(self) -> int:
        """How many clients are there."""
        return len(self._canned.connections)

    async def stop(self) -> None:
        """Listen no more, and cut what is connected."""
        await super().stop()
        for protocol in list(self._canned.connections):
            protocol.transport.abortConnection()
