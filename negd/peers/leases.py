"""Which peers this node syncs, where several nodes share one store and its list of peers."""

from __future__ import annotations

from collections.abc import Callable

from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger

from negd.errors import StorageError
from negd.interfaces import ILeases

log = Logger()

_HELD_FOR = 2 / 3
"""For how much of the time in which a dead node is replaced a lease is taken."""

_LOOK_EVERY = 1 / 4
"""The same, between two looks: one that fails does not cost a lease, and both make less than 1."""


class Tenancy:
    """A lease for each peer that this node syncs; ours until its time is over or it is lost.

    Nothing here asks by itself: all nodes call :meth:`ask` every :attr:`look_every` seconds.

    :param seconds: how long after a node died another one has its peers, at the most.
    :param lost: told the URL of a peer that another node may sync from now on.
    :ivar look_every: seconds between two looks at who holds what.
    """

    def __init__(
        self, leases: ILeases, seconds: float, clock: IReactorTime, lost: Callable[[str], None]
    ) -> None:
        self._leases = leases
        self._seconds = seconds * _HELD_FOR
        self.look_every = seconds * _LOOK_EVERY
        self._clock = clock
        self._lost = lost
        self._ends: dict[str, IDelayedCall] = {}

    def holds(self, url: str) -> bool:
        """Whether this node, and no other, syncs that peer."""
        return url in self._ends

    async def ask(self, url: str) -> None:
        """Take the lease of a peer, or keep it, unless another node has it.

        While the storage does not answer, a lease that we have stays ours until its end.
        """
        end = self._clock.seconds() + self._seconds  # it counts from the call at the latest
        try:
            held = await self._leases.hold(_name(url), self._seconds)
        except StorageError as error:
            log.warn("lease of {url}: {text}", url=url, text=error.text)
            return
        left = end - self._clock.seconds()
        if held and left > 0:
            self._forget(url)
            self._ends[url] = self._clock.callLater(left, self._lose, url)
        elif self.holds(url):
            self._lose(url)

    async def give_back(self, url: str) -> None:
        """Let another node have the lease of a peer at once."""
        if self._forget(url):
            try:
                await self._leases.release(_name(url))
            except StorageError as error:
                log.warn("lease of {url} ends by itself: {text}", url=url, text=error.text)

    async def give_all_back(self) -> None:
        """Let other nodes have every lease."""
        await gatherResults([Deferred.fromCoroutine(self.give_back(url)) for url in [*self._ends]])

    def _lose(self, url: str) -> None:
        log.warn("{url}: its lease is lost, another node may sync it", url=url)
        self._forget(url)
        self._lost(url)

    def _forget(self, url: str) -> bool:
        """Hold a lease no longer; whether it was held."""
        end = self._ends.pop(url, None)
        if end is not None and end.active():
            end.cancel()
        return end is not None


def _name(url: str) -> str:
    return f"sync:{url}"
