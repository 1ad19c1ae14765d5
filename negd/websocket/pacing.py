"""What both ends of a WebSocket add to autobahn: pacing both ways, and knowing who is gone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from autobahn.twisted.websocket import WebSocketAdapterProtocol
from autobahn.websocket.protocol import WebSocketProtocol
from twisted.internet.interfaces import IDelayedCall, IPushProducer
from twisted.internet.protocol import connectionDone
from twisted.python.failure import Failure
from txaio.tx import call_later, make_logger
from zope.interface import implementer

_LINGER = 10.0
"""Seconds a closed connection may take to hand over what was written to it."""

_READ = 16_384
"""Bytes read at a time. Of Twisted's 65,536 the messages held up the reactor for 60 ms and more,
while a store was written."""

_MOST_PIECES = 50_000
"""Pieces in which one message may come. Empty fragments cost memory and count nowhere else."""


@implementer(IPushProducer)
class _WriteGate:
    """Learns from the transport when it has room for more."""

    def __init__(self, stopped: Callable[[], None], resumed: Callable[[], None]) -> None:
        self.pauseProducing = stopped
        self.resumeProducing = resumed

    def stopProducing(self) -> None:
        """The connection is gone; :meth:`PacedWebSocket.connectionLost` tells of that."""


# autobahn's own two halves disagree about the types of two attributes.
class PacedWebSocket(WebSocketAdapterProtocol, WebSocketProtocol):  # type: ignore[misc]
    """Mixed into autobahn's server and client protocols.

    autobahn's pings tell a dead connection, but not from one that is only slow: a pong cannot be
    seen while we do not read, nor come while the other side does not.
    """

    # What a remote does wrong is no news at every connection; faults of autobahn's are.
    log = make_logger(level="error")

    factory: Any
    transport: Any
    autoPingTimeout: float
    _is_reading = True
    _is_writable = True
    _heard_before_ping = 0
    _lingering: IDelayedCall | None = None

    def gate_writing(self, stopped: Callable[[], None], resumed: Callable[[], None]) -> None:
        """Be told when the transport's buffer is full, and when it is empty again."""

        def stop() -> None:
            self._is_writable = False
            stopped()

        def resume() -> None:
            self._is_writable = True
            resumed()

        _socket_of(self.transport).bufferSize = _READ
        # The HTTP channel that took the upgrade may still be registered.
        self.transport.unregisterProducer()
        self.transport.registerProducer(_WriteGate(stop, resume), True)

    def send(self, text: bytes) -> None:
        """Send a text message of any size; dropped unless the WebSocket is open.

        A bare frame: ``sendMessage`` would apply the limit of incoming messages, and so keep us
        from serving an event that came another way.
        """
        if self.state == WebSocketProtocol.STATE_OPEN:
            self.sendFrame(WebSocketProtocol.MESSAGE_TYPE_TEXT, text)

    # autobahn renders a line for its log at each frame sent and at each read, in colours, whether
    # or not somebody wants it: a tenth of the time of a link that carries many small messages.

    def sendData(self, data: bytes, sync: bool = False, chopsize: int | None = None) -> None:
        """Write a frame."""
        if sync or chopsize or self.send_queue or self.state != WebSocketProtocol.STATE_OPEN:
            super().sendData(data, sync, chopsize)
        else:
            self.transport.write(data)
            self.trafficStats.outgoingOctetsWireLevel += len(data)

    def dataReceived(self, data: bytes) -> None:
        """One read from the network."""
        self._dataReceived(data)

    def pause(self) -> None:
        """Stop reading."""
        self._is_reading = False
        self.transport.pauseProducing()

    def resume(self) -> None:
        """Read on."""
        self._is_reading = True
        self.transport.resumeProducing()

    def onPing(self, payload: bytes) -> None:
        """Answer, but not beyond what the other side reads."""
        if self._is_writable:
            super().onPing(payload)

    def sendPing(self, payload: bytes | None = None) -> None:
        """Remember what had been heard when the ping was sent."""
        self._heard_before_ping = self.trafficStats.incomingOctetsWireLevel
        super().sendPing(payload)

    def onAutoPingTimeout(self) -> None:
        """Drop the connection, unless there is another reason that no pong was seen."""
        heard = self.trafficStats.incomingOctetsWireLevel
        if self._is_reading and self._is_writable and heard == self._heard_before_ping:
            super().onAutoPingTimeout()
            return
        self._heard_before_ping = heard
        self.autoPingTimeoutCall = call_later(self.autoPingTimeout, self.onAutoPingTimeout)

    def onMessageFrameEnd(self) -> None:
        """Count the pieces of the message."""
        super().onMessageFrameEnd()
        if len(self.message_data) > _MOST_PIECES:
            self.wasNotCleanReason = f"a message came in more than {_MOST_PIECES} pieces"
            self.dropConnection(abort=True)

    def onMessageEnd(self) -> None:
        """Check the message, and hand it over.

        autobahn would fire a signal beside it, to which nobody listens, and it would check UTF-8
        in a library that gives up the interpreter: twice for each message it would have to be won
        back from the threads that store what came.
        """
        payload, self.message_data = b"".join(self.message_data), []
        if self.failedByMe:
            return
        if self.message_is_binary or _is_utf8(payload):
            self.onMessage(payload, self.message_is_binary)
        else:
            self._invalid_payload("a text message is not UTF-8")

    def dropConnection(self, abort: bool = False) -> None:
        """Drop it, and do not wait for ever for the other side to read the rest."""
        if not abort and self._lingering is None:
            self._lingering = self.factory.reactor.callLater(_LINGER, self._end_lingering)
        super().dropConnection(abort)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """Twisted's word that it is over."""
        # autobahn leaves this one running.
        if self.closeHandshakeTimeoutCall is not None:
            self.closeHandshakeTimeoutCall.cancel()
            self.closeHandshakeTimeoutCall = None
        if self._lingering is not None:
            self._lingering.cancel()
            self._lingering = None
        super().connectionLost(reason)

    def _end_lingering(self) -> None:
        self._lingering = None
        self.transport.abortConnection()


def _is_utf8(text: bytes) -> bool:
    try:
        return text.isascii() or bool(text.decode())
    except UnicodeDecodeError:
        return False


def _socket_of(transport: Any) -> Any:
    """The connection below TLS and whatever else is between."""
    while hasattr(transport, "transport"):
        transport = transport.transport
    return transport
