"""The WebSocket endpoint for Nostr clients, as a twisted.web resource: one port, two protocols."""

from __future__ import annotations

from collections.abc import Container, Iterable
from http import HTTPStatus
from itertools import count
from typing import Any

from autobahn.twisted.resource import WebSocketResource
from autobahn.twisted.websocket import WebSocketServerFactory, WebSocketServerProtocol
from autobahn.websocket import USES_NVX
from autobahn.websocket.types import ConnectionDeny, ConnectionRequest
from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.defer import Deferred, TimeoutError
from twisted.logger import Logger
from twisted.web.resource import IResource
from zope.interface import implementer

from negd.interfaces import EndpointLoad, PerClient, Use
from negd.websocket.conversation import LARGEST, Backend, Conversation
from negd.websocket.outgoing import IChannel
from negd.websocket.pacing import PacedWebSocket

log = Logger()

_CLOSING = 5.0
_GOING_AWAY = 1001
_LOOP_DETECTED = 508


@implementer(IChannel)
class ClientConnection(PacedWebSocket, WebSocketServerProtocol):  # type: ignore[misc]
    """One client's WebSocket. Translates; :class:`Conversation` decides."""

    conversation: Conversation | None = None

    # --- IChannel; send, pause and resume are PacedWebSocket's ----------------------------------

    def abort(self, reason: str) -> None:
        """See :meth:`IChannel.abort`."""
        log.info("dropping client {peer}: {reason}", peer=self.peer, reason=reason)
        self.dropConnection(abort=True)

    # --- what autobahn tells --------------------------------------------------------------------

    def onConnect(self, request: ConnectionRequest) -> None:
        """Refuse a handshake of our own: the daemon has itself as a peer, by whatever name."""
        if request.headers.get("sec-websocket-key") in self.factory.own_handshakes:
            raise ConnectionDeny(_LOOP_DETECTED, "the peer is this daemon itself")

    def failHandshake(self, reason: str, code: int = 400, responseHeaders: Any = None) -> None:
        """There is no handshake, as there are too many clients or something is wrong with it."""
        if code == HTTPStatus.SERVICE_UNAVAILABLE:
            self.factory.backend.refusals["connections"] += 1
        super().failHandshake(reason, code, responseHeaders)

    def onOpen(self) -> None:
        """The handshake is done. autobahn would swallow what is raised here."""
        try:
            name = self.factory.name_connection(self)
            conversation = Conversation(name, self, self.factory.backend)
            outgoing = conversation.outgoing
            self.gate_writing(outgoing.stop, outgoing.resume)
        except Exception:
            log.failure("a client could not be taken on")
            self.dropConnection(abort=True)
        else:
            self.conversation = conversation
            self.factory.connections.add(self)

    def onMessage(self, payload: bytes, isBinary: bool) -> None:
        """One message, whole."""
        if self.conversation is None:
            return
        if isBinary:
            self.conversation.received_binary()
        else:
            self.conversation.received(payload)

    def onClose(self, wasClean: bool, code: int | None, reason: str | None) -> None:
        """The connection is gone, or never became one."""
        if self.conversation is not None:
            self.factory.disconnected(self)
            self.conversation.lost()
            self.conversation = None

    # --- what Twisted tells ---------------------------------------------------------------------

    def dataReceived(self, data: bytes) -> None:
        """One read from the network, which may hold many messages."""
        super().dataReceived(data)
        if self.conversation is not None:
            self.conversation.end_of_read()


class ClientFactory(WebSocketServerFactory):
    """Makes the connections of all clients, on whatever ports they come in.

    :param reactor: an IReactorTime.
    :param own_handshakes: keys of those that this daemon has under way with its peers.
    :ivar connections: those whose handshake is done.
    """

    protocol = ClientConnection
    noisy = False

    def __init__(self, backend: Backend, reactor: Any, own_handshakes: Container[str] = ()) -> None:
        super().__init__(server="negd", reactor=reactor)
        self.backend = backend
        self.own_handshakes = own_handshakes
        self.connections: set[ClientConnection] = set()
        self._serial = count(1)
        self._emptied: Deferred[None] | None = None
        settings = backend.settings
        self.setProtocolOptions(
            maxFramePayloadSize=settings.max_message,
            maxMessagePayloadSize=settings.max_message,
            maxConnections=settings.max_connections,
            autoPingInterval=settings.ping_interval,
            autoPingTimeout=settings.ping_timeout,
            closeHandshakeTimeout=_CLOSING,
            # Say why before closing: a message too large, text that is not UTF-8.
            failByDrop=False,
            utf8validateIncoming=False,  # see PacedWebSocket.onMessageEnd
            # Web clients opened from a file have the origin "null".
            allowNullOrigin=True,
            tcpNoDelay=True,
        )
        if not USES_NVX:
            log.warn("autobahn runs without its native helpers: large messages will be slow")

    def as_resource(self) -> IResource:
        """Where an HTTP site sends the requests that ask for a WebSocket."""
        return WebSocketResource(self)

    def name_connection(self, connection: ClientConnection) -> str:
        """A connection's id, unlike every other of this process: ``ws:127.0.0.1:56264:17``."""
        address = connection.transport.getPeer()
        match address:
            case IPv4Address():
                place = f"{address.host}:{address.port}"
            case IPv6Address():
                place = f"[{address.host}]:{address.port}"
            case _:
                place = "local"
        return f"ws:{place}:{next(self._serial)}"

    def load(self) -> EndpointLoad:
        """What the clients take up at this moment."""
        settings = self.backend.settings
        talks = [each.conversation for each in self.connections if each.conversation]
        return EndpointLoad(
            Use(len(self.connections), settings.max_connections),
            _per_client((talk.subscriptions for talk in talks), settings.max_subscriptions),
            _per_client((talk.unanswered for talk in talks), settings.max_unanswered),
            _per_client((talk.unanswered_bytes for talk in talks), LARGEST * settings.max_message),
            _per_client((talk.outgoing.queued for talk in talks), settings.max_outgoing),
        )

    def disconnected(self, connection: ClientConnection) -> None:
        """A connection is gone."""
        self.connections.discard(connection)
        if self._emptied is not None and not self.connections:
            emptied, self._emptied = self._emptied, None
            emptied.callback(None)

    async def close(self, patience: float = 5.0) -> None:
        """Say goodbye to every client; those who have not left after ``patience`` s are dropped.

        To be called once no new client can come in.
        """
        if not self.connections:
            return
        self._emptied = Deferred(lambda _: None)
        for connection in list(self.connections):
            connection.sendCloseFrame(_GOING_AWAY, b"the relay is stopping")
        try:
            await self._emptied.addTimeout(patience, self.reactor)
        except TimeoutError:
            self._emptied = None
            for connection in list(self.connections):
                connection.abort("it did not leave")


def _per_client(amounts: Iterable[int], most: int) -> PerClient:
    found = list(amounts)
    return PerClient(sum(found), max(found, default=0), most)
