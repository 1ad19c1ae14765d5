"""The live figures that the status page and the metrics show."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from twisted.internet.interfaces import IReactorTime

from negd.interfaces import (
    EndpointLoad,
    IEventStore,
    IPeerSync,
    Outcome,
    PeerState,
    PeerStatus,
    StoreStatistics,
    Use,
)
from negd.settings import SyncSettings


@dataclass(frozen=True, slots=True)
class Sources:
    """Whom to ask.

    :ivar sync: how many peers and syncs there may be.
    :ivar endpoint: what WebSocket clients take up.
    :ivar sessions: reconciliations that clients have open.
    :ivar snapshot_bytes: memory of the snapshots that clients reconcile with.
    :ivar outcomes: events taken in since the start, by what became of them.
    :ivar backlog: events on their way into the store.
    :ivar checkers: processes that check events.
    :ivar control_calls: calls of the control service that wait or run.
    :ivar control_streams: syncs with progress that run for it.
    :ivar refusals: what was refused since the start, by the bound that was reached.
    :ivar late: seconds by which the reactor was late at most, in the last minute.
    """

    store: IEventStore
    peers: IPeerSync
    sync: SyncSettings
    endpoint: Callable[[], EndpointLoad]
    sessions: Callable[[], Use]
    snapshot_bytes: Callable[[], Use]
    outcomes: Callable[[], Mapping[Outcome, int]]
    backlog: Callable[[], Use]
    checkers: Callable[[], Use]
    control_calls: Callable[[], Use]
    control_streams: Callable[[], Use]
    refusals: Callable[[], Mapping[str, int]]
    late: Callable[[], float]
    clock: IReactorTime


@dataclass(frozen=True, slots=True)
class Figures:
    """One look at everything. ``now`` in Unix seconds; the rest as in :class:`Sources`.

    :ivar listed: peers that are.
    :ivar syncs: syncs that have begun; of more than may run, some wait for their next turn.
    """

    now: float
    stored: StoreStatistics
    peers: Mapping[str, PeerState]
    listed: Use
    syncs: Use
    endpoint: EndpointLoad
    sessions: Use
    snapshot_bytes: Use
    outcomes: Mapping[Outcome, int]
    backlog: Use
    checkers: Use
    control_calls: Use
    control_streams: Use
    refusals: Mapping[str, int]
    late: float


async def read(sources: Sources) -> Figures:
    """The figures as they are now.

    :raises negd.errors.StorageError: the storage failed.
    """
    stored = await sources.store.statistics()
    peers = sources.peers.states()
    syncing = sum(state.status is PeerStatus.SYNCING for state in peers.values())
    return Figures(
        now=sources.clock.seconds(),
        stored=stored,
        peers=peers,
        listed=Use(len(sources.peers.peers()), sources.sync.max_peers),
        syncs=Use(syncing, sources.sync.concurrent),
        endpoint=sources.endpoint(),
        sessions=sources.sessions(),
        snapshot_bytes=sources.snapshot_bytes(),
        outcomes=sources.outcomes(),
        backlog=sources.backlog(),
        checkers=sources.checkers(),
        control_calls=sources.control_calls(),
        control_streams=sources.control_streams(),
        refusals=sources.refusals(),
        late=sources.late(),
    )
