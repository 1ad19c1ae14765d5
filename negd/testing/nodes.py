"""Whole nodes in one process, without sockets: real code on both ends of in-memory links."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from random import Random
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.python.failure import Failure

from negd.interfaces import Direction, ILeases, IPeerBook, PeerProfile, SyncProgress
from negd.nostr.event import Event
from negd.nostr.filter import EVERYTHING, Filter
from negd.peers.roster import Roster
from negd.settings import SessionSettings, SyncSettings
from negd.storage.memory import MemoryStorage
from negd.sync.budget import UNLIMITED, Budget
from negd.sync.node import Node
from negd.sync.offload import inline
from negd.sync.run import SyncRun
from negd.testing.links import (
    ConversationPeer,
    MemoryDialer,
    PeerEnd,
    ScriptedPeer,
    drive,
    memory_backend,
)
from negd.websocket.conversation import Backend


class MemoryNode:
    """A node with a memory store: it serves links, and syncs with others of the same dialer.

    :param link: makes the far end of a link to it.
    :ivar served: every link served, in order.
    """

    def __init__(
        self,
        url: str,
        dialer: MemoryDialer,
        clock: Clock,
        settings: SyncSettings | None = None,
        sessions: SessionSettings | None = None,
        storage: MemoryStorage | None = None,
        leases: ILeases | None = None,
        link: Callable[[Backend], ConversationPeer] = ConversationPeer,
    ) -> None:
        self.url = url
        self._link = link
        self.clock = clock
        self.storage = storage or MemoryStorage(clock)
        self.backend = memory_backend(clock, store=self.storage.events, sessions=sessions)
        self.served: list[ConversationPeer] = []
        dialer.peers[url] = self.serve
        self.parts = Node(
            self.backend.store,
            self.backend.intake,
            dialer,
            settings or SyncSettings(),
            clock,
            inline,
        )
        self.roster = Roster(self.parts, self.storage.book, Random(url), leases)

    def serve(self) -> ConversationPeer:
        """A new link's far end."""
        link = self._link(self.backend)
        self.served.append(link)
        return link

    def hold(self, events: Sequence[Event]) -> None:
        """Store events, as if a client had published them."""
        drive(self.clock, self.backend.intake.submit(events))

    def held(self, wanted: Filter = EVERYTHING) -> set[bytes]:
        """The ids stored."""
        records = drive(self.clock, self.storage.events.snapshot(wanted))
        return {record[8:] for record in records}

    def sync(
        self,
        url: str,
        wanted: Filter = EVERYTHING,
        progress: Callable[[SyncProgress], None] = lambda _: None,
    ) -> SyncProgress:
        """Sync to the end, without time passing."""
        return drive(self.clock, self.roster.sync(url, wanted, progress))


_NOTHING_KNOWN = PeerProfile()
OURS, THEIRS = "ws://ours.example", "ws://theirs.example"


class World:
    """Two nodes, :data:`OURS` and :data:`THEIRS`, and whatever else the dialer is given.

    :param sync: how ours syncs.
    :param sessions: what theirs serves.
    """

    def __init__(
        self, sync: SyncSettings | None = None, sessions: SessionSettings | None = None
    ) -> None:
        self.clock = Clock()
        self.clock.advance(1_700_000_000)
        self.dialer = MemoryDialer({}, self.clock)
        self.ours = MemoryNode(OURS, self.dialer, self.clock, sync)
        self.theirs = MemoryNode(THEIRS, self.dialer, self.clock, sessions=sessions)

    def run_of(
        self,
        url: str = THEIRS,
        wanted: Filter = EVERYTHING,
        direction: Direction = Direction.BOTH,
        book: IPeerBook | None = None,
        profile: PeerProfile = _NOTHING_KNOWN,
        report: Callable[[SyncProgress], None] = lambda _: None,
        budget: Budget = UNLIMITED,
        so_far: SyncProgress | None = None,
        is_whole: bool = False,
    ) -> SyncRun:
        """A sync of ours, not begun."""
        return SyncRun(
            self.ours.parts,
            url,
            wanted,
            direction,
            book,
            profile,
            report,
            budget,
            so_far,
            is_whole=is_whole,
        )


class InFront(ScriptedPeer):
    """A node with a script in front of it, which sees both ways and may answer in its place.

    Override ``_script`` and :meth:`send`: as they are here, all is handed on.
    """

    def __init__(self, node: MemoryNode) -> None:
        super().__init__(self._script)
        self._inner = node.serve()

    def connected(self, end: PeerEnd) -> None:
        """See :meth:`MemoryPeer.connected`."""
        super().connected(end)
        self._inner.connected(self)  # type: ignore[arg-type]

    def _script(self, text: bytes) -> Iterable[bytes]:
        self._inner.received(text)
        return []

    def send(self, text: bytes) -> None:
        """The node says this."""
        self.end.send(text)

    def close(self, reason: str = "") -> None:
        """The node hangs up."""
        self.end.close(reason)


def failure_of(done: Deferred[Any]) -> Exception:
    """The exception that a Deferred has failed with; it counts as handled."""
    found: list[Failure] = []
    done.addErrback(found.append)
    assert found, "it has not failed"
    assert isinstance(found[0].value, Exception)
    return found[0].value
