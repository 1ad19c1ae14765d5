"""Reaching hosts by public addresses only, whatever their names stand for."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.endpoints import HostnameEndpoint
from twisted.internet.error import DNSLookupError
from twisted.internet.interfaces import (
    IHostnameResolver,
    IReactorPluggableNameResolver,
    IResolutionReceiver,
    IStreamClientEndpoint,
)
from zope.interface import implementer

from negd.addresses import is_private
from negd.errors import PeerError

FORBIDDEN = "which private_targets in [sync] forbids"


@implementer(IStreamClientEndpoint)
class PublicEndpoint:
    """A HostnameEndpoint that takes no notice of private addresses.

    The address that was looked at is the one that is connected to: a name cannot change its mind
    in between.
    """

    def __init__(self, reactor: Any, host: str, port: int, timeout: float) -> None:
        self._reactor = reactor
        self._host = host
        self._port = port
        self._timeout = timeout

    def connect(self, factory: Any) -> Deferred[Any]:
        """See :meth:`IStreamClientEndpoint.connect`.

        Fails with PeerError where there are private addresses only.
        """
        return Deferred.fromCoroutine(self._connect(factory))

    async def _connect(self, factory: Any) -> Any:
        reactor = _PublicReactor(self._reactor)
        endpoint = HostnameEndpoint(reactor, self._host, self._port, timeout=self._timeout)
        try:
            return await endpoint.connect(factory)
        except DNSLookupError:
            private = reactor.nameResolver.private
            if not private:
                raise
            where = f"{self._host} is at a private address ({private[0]})"
            raise PeerError(f"{where}, {FORBIDDEN}") from None


@implementer(IReactorPluggableNameResolver)
class _PublicReactor:
    """A reactor with a resolver of its own, for one connection."""

    def __init__(self, reactor: Any) -> None:
        self.nameResolver = _PublicNames(reactor.nameResolver)
        self._reactor = reactor

    def installNameResolver(self, resolver: IHostnameResolver) -> IHostnameResolver:
        """Of no use here."""
        raise NotImplementedError

    def __getattr__(self, name: str) -> Any:
        return getattr(self._reactor, name)


@implementer(IHostnameResolver)
class _PublicNames:
    """:ivar private: the private addresses that were found, and not told."""

    def __init__(self, resolver: IHostnameResolver) -> None:
        self.private: list[str] = []
        self._resolver = resolver

    def resolveHostName(
        self,
        receiver: IResolutionReceiver,
        name: str,
        portNumber: int = 0,
        addressTypes: Any = None,
        transportSemantics: str = "TCP",
    ) -> Any:
        """See :meth:`IHostnameResolver.resolveHostName`."""
        only = _PublicOnly(receiver, self.private)
        return self._resolver.resolveHostName(
            only, name, portNumber, addressTypes, transportSemantics
        )


@implementer(IResolutionReceiver)
class _PublicOnly:
    """Passes on what is public, and keeps what is not."""

    def __init__(self, receiver: IResolutionReceiver, private: list[str]) -> None:
        self.resolutionBegan = receiver.resolutionBegan
        self.resolutionComplete = receiver.resolutionComplete
        self._receiver = receiver
        self._private = private

    def addressResolved(self, address: Any) -> None:
        """See :meth:`IResolutionReceiver.addressResolved`."""
        if is_private(address.host):
            self._private.append(address.host)
        else:
            self._receiver.addressResolved(address)
