"""One link to a peer relay: autobahn's protocol, made an :class:`IPeerLink`."""

from __future__ import annotations

import zlib

from autobahn.twisted.websocket import WebSocketClientProtocol
from autobahn.websocket.types import ConnectingRequest
from OpenSSL import SSL
from service_identity import VerificationError
from twisted.internet.defer import Deferred
from twisted.internet.protocol import connectionDone
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from negd.errors import PeerError
from negd.interfaces import IPeerLink, IPeerListener
from negd.nostr.messages import InvalidMessage, decode_relay
from negd.nostr.words import printable
from negd.websocket.pacing import PacedWebSocket

log = Logger()

_COMPRESSED = 4
"""The frame bit that marks a compressed message (RFC 7692, section 6)."""

_LARGEST_HEADER = 16_384


@implementer(IPeerLink)
class PeerLink(PacedWebSocket, WebSocketClientProtocol):  # type: ignore[misc]
    """One WebSocket to a relay.

    :ivar opened: fires when the handshake is done; cancelling it drops the connection.
    """

    def __init__(self, url: str, listener: IPeerListener) -> None:
        super().__init__()
        self.url = url
        self.opened: Deferred[None] = Deferred(self._give_up)
        self._listener = listener
        self._writable: list[Deferred[None]] = []
        self._fault: BaseException | None = None
        self._is_open = self._closed_by_us = False

    # --- IPeerLink; pause and resume are PacedWebSocket's ---------------------------------------

    def send(self, text: bytes) -> None:
        """See :meth:`IPeerLink.send`; compressed where the peer has agreed to that."""
        deflate = self._perMessageCompress
        if deflate is None or self.state != self.STATE_OPEN:
            super().send(text)
            return
        deflate.start_compress_message()
        payload = deflate.compress_message_data(text) + deflate.end_compress_message()
        self.sendFrame(self.MESSAGE_TYPE_TEXT, payload, rsv=_COMPRESSED)

    async def drained(self) -> None:
        """See :meth:`IPeerLink.drained`."""
        if self._is_open and not self._is_drained:
            waiter: Deferred[None] = Deferred(self._writable.remove)
            self._writable.append(waiter)
            await waiter

    @property
    def _is_drained(self) -> bool:
        return self._is_writable

    def close(self) -> None:
        """See :meth:`IPeerLink.close`."""
        self._closed_by_us = True
        # A paused side would see neither the answer to our goodbye nor the end.
        self.resume()
        self.sendClose(1000)

    # --- what autobahn tells --------------------------------------------------------------------

    def onConnecting(self, transport_details: object) -> ConnectingRequest:
        """The request of the handshake: autobahn's own lacks the brackets of IPv6."""
        factory = self.factory
        host = f"[{factory.host}]" if ":" in factory.host else factory.host
        return ConnectingRequest(
            host=host,
            port=factory.port,
            resource=factory.resource,
            headers={},
            useragent=factory.useragent,
            protocols=[],
        )

    def onOpen(self) -> None:
        """The handshake is done."""
        if not self.opened.called:
            self._is_open = True
            self.gate_writing(lambda: None, self._wake)
            self.opened.callback(None)

    def onMessage(self, payload: bytes, isBinary: bool) -> None:
        """Decode a message for the listener."""
        if isBinary:
            self._listener.unreadable("binary message")
            return
        try:
            message = decode_relay(payload)
        except InvalidMessage as error:
            self._listener.unreadable(error.text, error.event_id)
        else:
            self._listener.received(message)

    def onClose(self, wasClean: bool, code: int | None, reason: str | None) -> None:
        """The connection is gone: tell whoever waits for it, once."""
        text = printable(self._describe_end(wasClean, code, reason))
        was_open, self._is_open = self._is_open, False
        self._wake()
        if was_open:
            if self.wasMaxMessagePayloadSizeExceeded or self.wasMaxFramePayloadSizeExceeded:
                self._listener.unreadable(text)
            self._listener.lost(text)
        elif not self.opened.called:
            self.opened.errback(PeerError(text))

    def failHandshake(self, reason: str) -> None:
        """Say by which HTTP status the peer refused."""
        super().failHandshake(self._describe_refusal() or f"WebSocket handshake failed: {reason}")

    # --- what Twisted tells ---------------------------------------------------------------------

    def dataReceived(self, data: bytes) -> None:
        """Bound the peer's HTTP header, and survive whatever it holds."""
        try:
            super().dataReceived(data)
            if self.state == self.STATE_CONNECTING and len(self.data) > _LARGEST_HEADER:
                self.failHandshake("the answer's header does not end")
        except zlib.error:  # which older releases of autobahn let through
            self.wasNotCleanReason = "the peer sends what cannot be inflated"
            self.dropConnection(abort=True)
        except Exception as error:
            if self.state == self.STATE_CONNECTING:
                self.failHandshake(f"the answer cannot be read ({error})")
            else:
                log.failure("a message from {url} failed", url=self.url)
                self.wasNotCleanReason = "internal error"
                self.dropConnection(abort=True)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """Keep the reason: for TLS it says more than autobahn does."""
        self._fault = reason.value
        super().connectionLost(reason)

    # --- within ---------------------------------------------------------------------------------

    def _give_up(self, _: object) -> None:
        self.dropConnection(abort=True)

    def _wake(self) -> None:
        """Let those go on who wait until what was sent has left, if it has."""
        if self._is_open and not self._is_drained:
            return
        writable, self._writable = self._writable, []
        for waiter in writable:
            waiter.callback(None)

    def _describe_refusal(self) -> str:
        parts = getattr(self, "http_status_line", "").split(maxsplit=2)
        if len(parts) < 2 or parts[1] == "101":
            return ""
        status = " ".join(parts[1:])
        location = self.http_headers.get("location")
        if parts[1].startswith("3") and location:
            return f"the peer redirects to {location} (HTTP {status}): use that URL"
        return f"the peer refuses WebSocket (HTTP {status})"

    def _describe_end(self, was_clean: bool, code: int | None, reason: str | None) -> str:
        if self._closed_by_us:
            return "closed by us"
        if self.remoteCloseCode is not None:
            return f"the peer closed the link ({code or self.remoteCloseCode}: {reason or '-'})"
        if isinstance(self._fault, SSL.Error | VerificationError):
            return f"TLS failed: {_describe_tls(self._fault)}"
        if was_clean:
            return "the peer closed the link"
        if self.droppedByMe and self.wasNotCleanReason:
            return str(self.wasNotCleanReason)
        return "the connection was lost" if self._is_open else "closed before the handshake ended"


def _describe_tls(error: BaseException) -> str:
    if isinstance(error, VerificationError):
        return "the certificate is for another name"
    details = error.args[0] if error.args else ()
    reasons = [part[2] for part in details if isinstance(part, tuple) and len(part) > 2]
    return "; ".join(reasons) or "the connection was cut"
