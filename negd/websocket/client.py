"""Links to peer relays: an :class:`IPeerDialer` over autobahn."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import SplitResult, urlsplit

from autobahn.twisted.websocket import WebSocketClientFactory
from autobahn.websocket.compress import (
    PerMessageDeflateOffer,
    PerMessageDeflateResponse,
    PerMessageDeflateResponseAccept,
)
from twisted.internet.defer import CancelledError, Deferred, TimeoutError
from twisted.internet.ssl import Certificate
from twisted.logger import Logger
from zope.interface import implementer

from negd import __version__
from negd.errors import PeerError
from negd.interfaces import IPeerDialer, IPeerLink, IPeerListener
from negd.nostr.document import RelayDocument
from negd.nostr.words import printable
from negd.settings import SyncSettings
from negd.websocket.information import ask_document
from negd.websocket.limited import LimitedLink
from negd.websocket.link import PeerLink
from negd.websocket.routes import Routes, describe_failure, plainly_cancelled
from negd.websocket.socks import Proxy
from negd.websocket.terms import LinkTerms

log = Logger()

_PING_INTERVAL = 30.0
_PING_TIMEOUT = 30.0
_CLOSING = 5.0
_DESCRIBED = 5.0
"""Seconds a peer may take to say what it is."""


class _LinkFactory(WebSocketClientFactory):
    """Makes the one link of an attempt.

    :ivar link: None until TCP (and TLS for the first bytes) is connected.
    """

    noisy = False

    def __init__(
        self,
        url: str,
        listener: IPeerListener,
        settings: SyncSettings,
        terms: LinkTerms,
        reactor: Any,
    ) -> None:
        super().__init__(url, useragent=f"negd/{__version__}", reactor=reactor)
        self.link: PeerLink | None = None
        self._listener = listener
        self._max_rate = terms.max_rate
        self.setProtocolOptions(
            maxFramePayloadSize=settings.max_message,
            maxMessagePayloadSize=settings.max_message,
            openHandshakeTimeout=0,
            utf8validateIncoming=False,  # see PacedWebSocket.onMessageEnd
            closeHandshakeTimeout=_CLOSING,
            serverConnectionDropTimeout=_CLOSING,
            autoPingInterval=_PING_INTERVAL,
            autoPingTimeout=_PING_TIMEOUT,
            tcpNoDelay=True,
            perMessageCompressionOffers=[PerMessageDeflateOffer()] if terms.compression else [],
            perMessageCompressionAccept=self._accept_compression,
        )

    def _accept_compression(self, response: object) -> PerMessageDeflateResponseAccept | None:
        if not isinstance(response, PerMessageDeflateResponse):
            return None
        most = self.maxMessagePayloadSize
        return PerMessageDeflateResponseAccept(response, max_message_size=most)

    def buildProtocol(self, addr: object) -> PeerLink:
        """The link of the attempt."""
        if self._max_rate:
            link: PeerLink = LimitedLink(self.url, self._listener, self._max_rate, self.reactor)
        else:
            link = PeerLink(self.url, self._listener)
        link.factory = self
        self.link = link
        return link


@implementer(IPeerDialer)
class Dialer:
    """Dials relays over ws and wss; certificates are verified against the name in the URL.

    :param reactor: an IReactorTime, IReactorTCP and IReactorPluggableNameResolver.
    :param trust: the authority that signs peers' certificates; the platform's unless given.
    :param terms: by canonical URL, of those peers that have terms of their own.
    :ivar handshakes: keys (RFC 6455, section 4.1) of those under way.
    """

    def __init__(
        self,
        reactor: Any,
        settings: SyncSettings,
        trust: Certificate | None = None,
        terms: Mapping[str, LinkTerms] | None = None,
    ) -> None:
        self._reactor = reactor
        self._settings = settings
        self._terms = terms or {}
        self._routes = Routes(reactor, settings, trust)
        self.handshakes: set[str] = set()

    async def dial(self, url: str, listener: IPeerListener) -> IPeerLink:
        """See :meth:`IPeerDialer.dial`. ``url`` is canonical: ``ws`` or ``wss``, then a host."""
        terms = self._terms_of(url)
        try:
            factory = _LinkFactory(url, listener, self._settings, terms, self._reactor)
        except Exception as error:  # autobahn raises no narrower one on a URL it cannot read
            raise PeerError(printable(f"cannot dial {url}: {error}")) from None
        seconds, proxy = self._settings.connect, terms.proxy
        opening = Deferred.fromCoroutine(self._open(urlsplit(url), proxy, factory))
        try:
            return await opening.addTimeout(seconds, self._reactor)
        except TimeoutError:
            missing = "connection" if factory.link is None else "WebSocket handshake"
            through = "" if proxy is None else f" through the proxy {proxy}"
            raise PeerError(f"no {missing}{through} within {seconds:g} s") from None

    def _terms_of(self, url: str) -> LinkTerms:
        return self._terms.get(url) or LinkTerms()

    async def _open(
        self, place: SplitResult, proxy: Proxy | None, factory: _LinkFactory
    ) -> PeerLink:
        try:
            link = await plainly_cancelled(self._routes.to(place, proxy).connect(factory))
        except CancelledError:
            raise
        except Exception as error:
            raise PeerError(printable(describe_failure(error, place, proxy))) from None
        assert isinstance(link, PeerLink)
        key = link.websocket_key.decode()
        self.handshakes.add(key)
        try:
            await link.opened
        finally:
            self.handshakes.discard(key)
        return link

    async def describe(self, url: str) -> RelayDocument | None:
        """See :meth:`IPeerDialer.describe`."""
        seconds = min(_DESCRIBED, self._settings.connect)
        asking = Deferred.fromCoroutine(self._ask(url))
        try:
            return await plainly_cancelled(asking).addTimeout(seconds, self._reactor)
        except CancelledError:
            raise
        except Exception as error:
            log.debug("{url} does not describe itself: {error}", url=url, error=error)
            return None

    async def _ask(self, url: str) -> RelayDocument | None:
        place = urlsplit(url)
        endpoint = self._routes.to(place, self._terms_of(url).proxy)
        return await ask_document(place, endpoint, self._reactor)
