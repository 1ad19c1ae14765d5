"""Connections through a SOCKS5 proxy, as a Twisted endpoint."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.address import HostnameAddress
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.error import NoProtocol
from twisted.internet.interfaces import IStreamClientEndpoint
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.python.failure import Failure
from zope.interface import implementer

from negd.websocket.socks import Proxy, SocksError, SocksRequest, destination


class ProxyUnreachable(Exception):
    """The proxy itself was not reached.

    :ivar reason: what its endpoint failed with.
    """

    def __init__(self, reason: Exception) -> None:
        super().__init__(str(reason))
        self.reason = reason


@implementer(IStreamClientEndpoint)
class ProxiedEndpoint:
    """Reaches a host, which the proxy resolves, over an endpoint that reaches the proxy.

    :raises SocksError: no proxy can be told this host.
    """

    def __init__(self, to_proxy: IStreamClientEndpoint, proxy: Proxy, host: str, port: int) -> None:
        self._to_proxy = to_proxy
        self._proxy = proxy
        self._destination = destination(host, port)
        self._address = HostnameAddress(host.encode(errors="replace"), port)

    def connect(self, factory: Any) -> Deferred[Any]:
        """See :meth:`IStreamClientEndpoint.connect`.

        Fails with :class:`ProxyUnreachable`, and :class:`SocksError` where the proxy refuses.
        """
        return Deferred.fromCoroutine(self._connect(factory))

    async def _connect(self, factory: Any) -> Any:
        asking = Factory.forProtocol(lambda: self._asking(factory))
        asking.noisy = False
        try:
            connection: Any = await self._to_proxy.connect(asking)
        except CancelledError:
            raise
        except Exception as error:
            raise ProxyUnreachable(error) from None
        return await connection.granted

    def _asking(self, factory: Any) -> _Asking:
        request = SocksRequest(self._destination, self._proxy)
        return _Asking(request, lambda: factory.buildProtocol(self._address))


class _Asking(Protocol):
    """A connection to the proxy, which becomes one to the host: then it only passes on.

    :param build: makes the protocol that speaks with the host.
    :ivar granted: fires with that protocol; cancelling it drops the connection.
    """

    transport: Any

    def __init__(self, request: SocksRequest, build: Callable[[], Protocol | None]) -> None:
        self.granted: Deferred[Protocol] = Deferred(lambda _: self.transport.abortConnection())
        self._request = request
        self._build = build
        self._inner: Protocol | None = None

    def connectionMade(self) -> None:
        """The proxy is reached."""
        self.transport.write(self._request.begin())

    def dataReceived(self, data: bytes) -> None:
        """What the proxy says, or the host."""
        if self._inner is not None:
            self._inner.dataReceived(data)
            return
        try:
            self.transport.write(self._request.receive(data))
            if self._request.is_granted:
                self._hand_over()
        except SocksError as error:
            self._fail(error)

    def _hand_over(self) -> None:
        self._inner = inner = self._build()
        if inner is None:
            self._fail(NoProtocol())
            return
        inner.makeConnection(self.transport)
        self.granted.callback(inner)
        if self._request.rest:
            inner.dataReceived(self._request.rest)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """The connection has ended, by whomever."""
        if self._inner is not None:
            self._inner.connectionLost(reason)
        else:
            self._fail(SocksError("closed the connection"))

    def _fail(self, error: Exception) -> None:
        if not self.granted.called:
            self.granted.errback(error)
            self.transport.abortConnection()
