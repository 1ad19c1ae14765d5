"""Leases without a server: several nodes in one process share a table."""

from __future__ import annotations

from dataclasses import dataclass, field

from twisted.internet.interfaces import IReactorTime
from zope.interface import implementer

from negd.errors import StorageError
from negd.interfaces import ILeases


@dataclass
class LeaseTable:
    """What the nodes share. :ivar held: who holds a lease, and until which second."""

    clock: IReactorTime
    held: dict[str, tuple[MemoryLeases, float]] = field(default_factory=dict)

    def holder(self, name: str) -> MemoryLeases | None:
        """Who holds a lease now."""
        node, until = self.held.get(name, (None, 0.0))
        return node if until > self.clock.seconds() else None


@implementer(ILeases)
class MemoryLeases:
    """One node's :class:`ILeases`. :ivar away: whether the table cannot be reached."""

    def __init__(self, table: LeaseTable) -> None:
        self._table = table
        self.away = False

    async def hold(self, name: str, seconds: float) -> bool:
        """See :meth:`ILeases.hold`."""
        self._reach()
        if self._table.holder(name) not in (None, self):
            return False
        self._table.held[name] = (self, self._table.clock.seconds() + seconds)
        return True

    async def release(self, name: str) -> None:
        """See :meth:`ILeases.release`."""
        self._reach()
        if self._table.holder(name) is self:
            del self._table.held[name]

    def _reach(self) -> None:
        if self.away:
            raise StorageError("the table of leases is away")
