"""Asking a relay what it says of itself: one HTTP GET (NIP-11)."""

from __future__ import annotations

from typing import Any
from urllib.parse import SplitResult, urlunsplit

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IStreamClientEndpoint
from twisted.internet.protocol import Protocol
from twisted.protocols.policies import ProtocolWrapper, WrappingFactory
from twisted.web.client import URI, Agent
from twisted.web.http_headers import Headers
from twisted.web.iweb import IAgentEndpointFactory, IResponse
from zope.interface import implementer

from negd import __version__
from negd.nostr.document import MEDIA_TYPE, RelayDocument, decode

_LARGEST_ANSWER = 100_000
"""Bytes of header and body together: a document that is larger is no hint but a burden."""

_OK = 200


async def ask_document(
    place: SplitResult, endpoint: IStreamClientEndpoint, reactor: Any
) -> RelayDocument | None:
    """The document at a relay's own URL; None where there is none that can be read.

    :param reactor: an IReactorTime.
    :raises Exception: the relay was not reached, or its answer is no HTTP or too large.
    """
    connection = _Connection(endpoint)
    agent = Agent.usingEndpointFactory(reactor, connection)
    scheme = "https" if place.scheme == "wss" else "http"
    url = urlunsplit((scheme, place.netloc, place.path or "/", place.query, ""))
    headers = Headers({"Accept": [MEDIA_TYPE], "User-Agent": [f"negd/{__version__}"]})
    try:
        response = await agent.request(b"GET", url.encode("ascii"), headers)
        return decode(await _body(response)) if response.code == _OK else None
    finally:
        # An Agent keeps what it does not read to the end, were it cancelled or not.
        connection.abort()


def _body(response: IResponse) -> Deferred[bytes]:
    body = _Body()
    response.deliverBody(body)
    return body.whole


class _Body(Protocol):
    """:ivar whole: fires with what had come when the connection ended."""

    def __init__(self) -> None:
        self.whole: Deferred[bytes] = Deferred()
        self._parts: list[bytes] = []

    def dataReceived(self, data: bytes) -> None:
        """A part of it."""
        self._parts.append(data)

    def connectionLost(self, reason: object = None) -> None:
        """The end, early or not: of a document that was cut nothing can be read."""
        self.whole.callback(b"".join(self._parts))


@implementer(IAgentEndpointFactory, IStreamClientEndpoint)
class _Connection:
    """The one connection that an Agent makes, whatever it asks for; it has a bound."""

    def __init__(self, endpoint: IStreamClientEndpoint) -> None:
        self._endpoint = endpoint
        self._wrapper: _BoundedProtocol | None = None

    def endpointForURI(self, uri: URI) -> IStreamClientEndpoint:
        """See :meth:`IAgentEndpointFactory.endpointForURI`."""
        return self

    def connect(self, factory: Any) -> Deferred[Any]:
        """See :meth:`IStreamClientEndpoint.connect`."""

        def connected(wrapper: _BoundedProtocol) -> Any:
            self._wrapper = wrapper
            return wrapper.wrappedProtocol

        connecting: Deferred[Any] = self._endpoint.connect(_BoundedFactory(factory))
        return connecting.addCallback(connected)

    def abort(self) -> None:
        """End it at once; no error where there is none."""
        if self._wrapper is not None:
            self._wrapper.transport.abortConnection()


class _BoundedProtocol(ProtocolWrapper):
    transport: Any
    _received = 0

    def dataReceived(self, data: bytes) -> None:
        """Pass on what is within the bound."""
        self._received += len(data)
        if self._received > _LARGEST_ANSWER:
            self.transport.abortConnection()
        else:
            super().dataReceived(data)


class _BoundedFactory(WrappingFactory):
    protocol = _BoundedProtocol
    noisy = False

    def doStart(self) -> None:
        """Nothing: Twisted would log each start."""

    def doStop(self) -> None:
        """Nothing, as for the start."""
