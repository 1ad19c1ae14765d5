"""Stand-ins for what the control service serves: sessions and peers, driven by a test."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from twisted.internet.defer import Deferred
from zope.interface import implementer

from negd.errors import ConfigError, LimitReached, NegdError, Unknown
from negd.interfaces import (
    Direction,
    IPeerSync,
    ISessions,
    LedgerEntry,
    PeerDescription,
    PeerState,
    Residue,
    SessionInfo,
    SyncProgress,
)
from negd.nostr.filter import EVERYTHING, Filter
from negd.reconcile import Step


@implementer(ISessions)
class FakeSessions:
    """Sessions that answer every message with ``step``.

    :ivar step: the answer; an error is raised; None never answers.
    :ivar opened: the filters that sessions were opened with, in order.
    :ivar received: every message of every session, in order.
    :ivar cancelled: how many waiting answers were cancelled.
    """

    def __init__(self) -> None:
        self.step: Step | NegdError | None = Step(b"answer", [], [], complete=True)
        self.opened: list[Filter] = []
        self.received: list[bytes] = []
        self.live: dict[tuple[str, str], SessionInfo] = {}
        self.cancelled = 0

    async def open(
        self, connection: str, subscription: str, wanted: Filter, message: bytes
    ) -> Step:
        """See :meth:`ISessions.open`."""
        self.opened.append(wanted)
        self.live[connection, subscription] = SessionInfo(connection, subscription, 100, 200, 1)
        return await self._answer(message)

    async def message(self, connection: str, subscription: str, message: bytes) -> Step:
        """See :meth:`ISessions.message`."""
        if (connection, subscription) not in self.live:
            raise Unknown("session not found")
        return await self._answer(message)

    async def _answer(self, message: bytes) -> Step:
        self.received.append(message)
        if self.step is None:
            await Deferred(self._cancelled)
        if isinstance(self.step, NegdError):
            raise self.step
        assert self.step is not None
        return self.step

    def _cancelled(self, _: Deferred[None]) -> None:
        self.cancelled += 1

    def close(self, connection: str, subscription: str) -> None:
        """See :meth:`ISessions.close`."""
        for key in list(self.live):
            if key[1] == subscription and connection in ("", key[0]):
                del self.live[key]

    def close_connection(self, connection: str) -> None:
        """See :meth:`ISessions.close_connection`."""
        for key in [key for key in self.live if key[0] == connection]:
            del self.live[key]

    def sessions(self) -> list[SessionInfo]:
        """See :meth:`ISessions.sessions`."""
        return list(self.live.values())


class FakeSync:
    """One call of :meth:`FakePeers.sync`, for the test to drive.

    :ivar cancelled: whether the sync was cancelled.
    """

    def __init__(self, url: str, wanted: Filter, progress: Callable[[SyncProgress], None]) -> None:
        self.url = url
        self.wanted = wanted
        self.progress = SyncProgress(url)
        self.cancelled: Deferred[None] = Deferred()
        self.done: Deferred[SyncProgress] = Deferred(self._cancel)
        self._tell = progress

    def _cancel(self, _: Deferred[SyncProgress]) -> None:
        self.cancelled.callback(None)

    def tell(self, **more: int) -> None:
        """Count on, and report it."""
        self.progress = self.progress.plus(**more)
        self._tell(self.progress)

    def finish(self) -> None:
        """Report the last progress, and end well."""
        self.progress = replace(self.progress, complete=True)
        self._tell(self.progress)
        self.done.callback(self.progress)

    def fail(self, error: Exception) -> None:
        """End with an error."""
        self.done.errback(error)


@implementer(IPeerSync)
class FakePeers:
    """Peers that sync when the test says so.

    :ivar listed: the listed peers' states.
    :ivar visited: the states of others.
    :ivar terms: what :meth:`describe` says of each of them besides.
    :ivar ledgers: their ledgers, each in the order in which its entries are due.
    :ivar background: whether syncs would start by themselves.
    :ivar triggered: the arguments of :meth:`trigger`, in order.
    :ivar syncs: the calls of :meth:`sync`, in order.
    :ivar on_sync: called with each of them as it starts.
    """

    def __init__(self) -> None:
        self.listed: dict[str, PeerState] = {}
        self.visited: dict[str, PeerState] = {}
        self.terms = PeerDescription(
            "", True, Direction.BOTH, EVERYTHING, 600.0, True, False, PeerState(), {}, {}
        )
        self.ledgers: dict[str, dict[bytes, LedgerEntry]] = {}
        self.background = True
        self.triggered: list[tuple[str | None, Filter]] = []
        self.syncs: list[FakeSync] = []
        self.on_sync: Callable[[FakeSync], None] = lambda _: None

    async def add(self, url: str) -> None:
        """See :meth:`IPeerSync.add`."""
        self.listed.setdefault(_relay(url), PeerState())

    async def remove(self, url: str) -> None:
        """See :meth:`IPeerSync.remove`."""
        self.listed.pop(_relay(url), None)

    def peers(self) -> list[str]:
        """See :meth:`IPeerSync.peers`."""
        return sorted(self.listed)

    def states(self) -> dict[str, PeerState]:
        """See :meth:`IPeerSync.states`."""
        return dict(self.listed)

    def visits(self) -> dict[str, PeerState]:
        """See :meth:`IPeerSync.visits`."""
        return dict(self.visited)

    def state(self, url: str) -> PeerState | None:
        """See :meth:`IPeerSync.state`."""
        return self.listed.get(_relay(url))

    async def describe(self, url: str, entries: int) -> PeerDescription:
        """See :meth:`IPeerSync.describe`."""
        url = self._named(url)
        ledger = self.ledgers.get(url, {})
        of_reason = {
            residue: [i for i, entry in ledger.items() if entry.residue is residue]
            for residue in Residue
        }
        return replace(
            self.terms,
            url=url,
            state=self.listed[url],
            residues={residue: len(ids) for residue, ids in of_reason.items() if ids},
            entries={i: ledger[i] for ids in of_reason.values() for i in ids[:entries]},
        )

    async def forget_ledger(self, url: str) -> int:
        """See :meth:`IPeerSync.forget_ledger`."""
        return len(self.ledgers.pop(self._named(url), {}))

    def _named(self, url: str) -> str:
        if _relay(url) not in self.listed:
            raise Unknown(f"peer {url} is not listed")
        return _relay(url)

    def active(self) -> bool:
        """See :meth:`IPeerSync.active`."""
        return self.background

    def resume_background(self) -> None:
        """See :meth:`IPeerSync.resume_background`."""
        self.background = True

    def pause_background(self) -> None:
        """See :meth:`IPeerSync.pause_background`."""
        self.background = False

    async def trigger(self, url: str | None, wanted: Filter) -> None:
        """See :meth:`IPeerSync.trigger`."""
        if url is not None:
            self._named(url)
        self.triggered.append((url, wanted))

    async def sync(
        self, url: str, wanted: Filter, progress: Callable[[SyncProgress], None]
    ) -> SyncProgress:
        """See :meth:`IPeerSync.sync`."""
        if any(sync.url == _relay(url) and not sync.done.called for sync in self.syncs):
            raise LimitReached(f"a sync with {url} is already running")
        sync = FakeSync(_relay(url), wanted, progress)
        self.syncs.append(sync)
        self.on_sync(sync)
        return await sync.done


def _relay(url: str) -> str:
    """The URL in lower case, as the one spelling of it."""
    if not url.lower().startswith(("ws://", "wss://")):
        raise ConfigError(f"peer {url!r}: expected ws://HOST[:PORT] or wss://HOST")
    return url.lower()
