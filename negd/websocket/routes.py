"""Ways to relays: TCP, with TLS for ``wss``; and what to say where there is none."""

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

T = TypeVar("T")


class Routes:
    """Makes endpoints; certificates are verified against the name in the URL.

    :param reactor: an IReactorTime, IReactorTCP and IReactorPluggableNameResolver.
    :param patience: seconds a TCP connection may take.
    :param trust: the authority that signs peers' certificates; the platform's unless given.
    """

    def __init__(self, reactor: Any, patience: float, trust: Certificate | None = None) -> None:
        self._reactor = reactor
        self._patience = patience
        self._trust = trust

    def to(self, place: SplitResult) -> IStreamClientEndpoint:
        """The endpoint of a relay's canonical URL.

        :raises Exception: there can be none for this host or port.
        """
        host = place.hostname or ""
        is_secure = place.scheme == "wss"
        port = place.port or (443 if is_secure else 80)
        endpoint = HostnameEndpoint(self._reactor, host, port, timeout=self._patience)
        if not is_secure:
            return endpoint
        return wrapClientTLS(optionsForClientTLS(host, trustRoot=self._trust), endpoint)


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


def describe_failure(error: Exception, place: SplitResult) -> str:
    """Why a relay was not reached, in words."""
    if isinstance(error, DNSLookupError):
        return f"no address found for {place.hostname}"
    if isinstance(error, ConnectionRefusedError):
        return f"{place.netloc} refuses connections"
    if isinstance(error, TCPTimedOutError | UserError):
        return f"{place.netloc} does not answer"
    if isinstance(error, ConnectError):
        return f"{place.netloc} cannot be reached: {error.osError or error}"
    return f"{place.netloc} cannot be dialed: {error}"
