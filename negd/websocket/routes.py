"""Ways to relays: TCP, through a proxy or not, with TLS for ``wss``; and why there is none."""

from __future__ import annotations

from typing import Any, TypeVar
from urllib.parse import SplitResult

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.endpoints import HostnameEndpoint, wrapClientTLS
from twisted.internet.error import (
    ConnectError,
    ConnectionRefusedError,
    DNSLookupError,
    TCPTimedOutError,
    UserError,
)
from twisted.internet.interfaces import IStreamClientEndpoint
from twisted.internet.ssl import Certificate, optionsForClientTLS
from twisted.python.failure import Failure

from negd.addresses import is_private
from negd.errors import PeerError
from negd.settings import SyncSettings
from negd.websocket.proxied import ProxiedEndpoint, ProxyUnreachable
from negd.websocket.public import FORBIDDEN, PublicEndpoint
from negd.websocket.socks import Proxy, SocksError

T = TypeVar("T")


class Routes:
    """Makes endpoints; certificates are verified against the name in the URL.

    :param reactor: an IReactorTime, IReactorTCP and IReactorPluggableNameResolver.
    :param settings: how long a TCP connection may take, and whether it may end anywhere.
    :param trust: the authority that signs peers' certificates; the platform's unless given.
    """

    def __init__(
        self, reactor: Any, settings: SyncSettings, trust: Certificate | None = None
    ) -> None:
        self._reactor = reactor
        self._patience = settings.connect
        self._may_be_private = settings.private_targets
        self._trust = trust

    def to(self, place: SplitResult, proxy: Proxy | None = None) -> IStreamClientEndpoint:
        """The endpoint of a relay's canonical URL.

        :param proxy: through which to go; it resolves the relay's name then.
        :raises PeerError: the relay's address is forbidden, or takes a proxy.
        :raises Exception: there can be no endpoint for this host or port.
        """
        host = place.hostname or ""
        is_secure = place.scheme == "wss"
        endpoint = self._tcp(host, place.port or (443 if is_secure else 80), proxy)
        if not is_secure:
            return endpoint
        return wrapClientTLS(optionsForClientTLS(host, trustRoot=self._trust), endpoint)

    def _tcp(self, host: str, port: int, proxy: Proxy | None) -> IStreamClientEndpoint:
        if not self._may_be_private and is_private(host):
            raise PeerError(f"{host} is a private address, {FORBIDDEN}")
        if proxy is not None:
            return ProxiedEndpoint(self._by_name(proxy.host, proxy.port), proxy, host, port)
        # Asking a name server for it would tell it, and be in vain (RFC 7686).
        if host.rstrip(".").endswith(".onion"):
            raise PeerError(f"{host} is reached through Tor only: give this peer a proxy")
        if not self._may_be_private:
            return PublicEndpoint(self._reactor, host, port, self._patience)
        return self._by_name(host, port)

    def _by_name(self, host: str, port: int) -> IStreamClientEndpoint:
        return HostnameEndpoint(self._reactor, host, port, timeout=self._patience)


def plainly_cancelled(connecting: Deferred[T]) -> Deferred[T]:
    """The same, but cancelling it fails it with CancelledError: endpoints each fail otherwise."""

    def cancel(_: object) -> None:
        outcome.errback(CancelledError())
        connecting.cancel()

    def pass_on(result: T | Failure) -> None:
        if not outcome.called:
            outcome.callback(result)

    outcome: Deferred[T] = Deferred(cancel)
    connecting.addBoth(pass_on)
    return outcome


def describe_failure(error: Exception, place: SplitResult, proxy: Proxy | None = None) -> str:
    """Why a relay was not reached, in words."""
    if isinstance(error, PeerError):
        return error.text
    if isinstance(error, SocksError):
        return f"the proxy {proxy} {error.text}"
    if isinstance(error, ProxyUnreachable):
        return _describe(error.reason, f"the proxy {proxy}")
    return _describe(error, place.netloc)


def _describe(error: Exception, name: str) -> str:
    if isinstance(error, DNSLookupError):
        return f"no address found for {name}"
    if isinstance(error, ConnectionRefusedError):
        return f"{name} refuses connections"
    if isinstance(error, TCPTimedOutError | UserError):
        return f"{name} does not answer"
    if isinstance(error, ConnectError):
        return f"{name} cannot be reached: {error.osError or error}"
    return f"{name} cannot be dialed: {error}"
