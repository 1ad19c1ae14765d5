"""The live figures that the status page and the metrics show."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from twisted.internet.interfaces import IReactorTime

from negd.interfaces import (
    IEventStore,
    IPeerSync,
    ISessions,
    Outcome,
    PeerState,
    StoreStatistics,
)


@dataclass(frozen=True, slots=True)
class Sources:
    """Whom to ask.

    :ivar connections: how many WebSocket clients are connected.
    :ivar outcomes: events taken in since the start, by what became of them.
    :ivar backlog: events on their way into the store.
    :ivar snapshot_bytes: memory of the snapshots that clients reconcile with.
    :ivar late: seconds by which the reactor was late at most, in the last minute.
    """

    store: IEventStore
    sessions: ISessions
    peers: IPeerSync
    connections: Callable[[], int]
    outcomes: Callable[[], Mapping[Outcome, int]]
    backlog: Callable[[], int]
    snapshot_bytes: Callable[[], int]
    late: Callable[[], float]
    clock: IReactorTime


@dataclass(frozen=True, slots=True)
class Figures:
    """One look at everything. ``now`` in Unix seconds; the rest as in :class:`Sources`."""

    now: float
    stored: StoreStatistics
    connections: int
    sessions: int
    outcomes: Mapping[Outcome, int]
    backlog: int
    snapshot_bytes: int
    late: float
    peers: Mapping[str, PeerState]


async def read(sources: Sources) -> Figures:
    """The figures as they are now.

    :raises negd.errors.StorageError: the storage failed.
    """
    stored = await sources.store.statistics()
    return Figures(
        now=sources.clock.seconds(),
        stored=stored,
        connections=sources.connections(),
        sessions=len(sources.sessions.sessions()),
        outcomes=sources.outcomes(),
        backlog=sources.backlog(),
        snapshot_bytes=sources.snapshot_bytes(),
        late=sources.late(),
        peers=sources.peers.states(),
    )
