"""Reconciliations that clients start (NIP-77), whichever way they came.

A session is a snapshot and a responder.  It ends when it is closed, when its connection is, when
a message of it cannot be read, or when nothing was heard of it for a while: gRPC callers never
say goodbye.
"""

from __future__ import annotations

from collections import Counter

from twisted.internet.defer import DeferredLock
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from zope.interface import implementer

from negd.errors import LimitReached, RemoteError, Unknown
from negd.interfaces import IEventStore, ISessions, SessionInfo
from negd.nostr.filter import Filter
from negd.reconcile import Responder, Step
from negd.settings import SessionSettings
from negd.sync.offload import Offload
from negd.sync.snapshots import Snapshot, Snapshots

_Key = tuple[str, str]


class _Session:
    """One live reconciliation. ``turn`` keeps its messages in the order they came."""

    def __init__(self, now: float, expiry: IDelayedCall) -> None:
        self.created_at = self.last_activity = int(now)
        self.rounds = 0
        self.turn = DeferredLock()
        self.expiry = expiry
        self.ended = False
        self.snapshot: Snapshot | None = None
        self.responder: Responder | None = None


@implementer(ISessions)
class SessionTable:
    """All live sessions.

    :param offload: where messages are answered; a large one takes longer than a reactor has.
    """

    def __init__(
        self,
        store: IEventStore,
        settings: SessionSettings,
        clock: IReactorTime,
        offload: Offload,
    ) -> None:
        self._settings = settings
        self._clock = clock
        self._offload = offload
        self._table: dict[_Key, _Session] = {}
        self._per_connection: Counter[str] = Counter()
        self.snapshots = Snapshots(store, settings)
        self.opened = 0
        self._refusals = {"sessions": 0, "connection_sessions": 0}

    async def open(
        self, connection: str, subscription: str, wanted: Filter, message: bytes
    ) -> Step:
        """See :meth:`ISessions.open`."""
        key = (connection, subscription)
        self._end(key)
        if not message:
            raise RemoteError("NEG-OPEN requires initialMessage from initiator", "blocked")
        session = self._begin(key)
        async with session.turn:
            try:
                snapshot = await self.snapshots.take(wanted)
                session.snapshot = snapshot
                session.responder = Responder(snapshot.records, self._settings.frame_limit)
                return await self._answer(key, session, message)
            except BaseException:
                self._end(key, session)
                raise

    async def message(self, connection: str, subscription: str, message: bytes) -> Step:
        """See :meth:`ISessions.message`."""
        key = (connection, subscription)
        session = self._table.get(key)
        if session is None:
            raise Unknown("session not found")
        async with session.turn:
            try:
                return await self._answer(key, session, message)
            except BaseException:
                self._end(key, session)
                raise

    def close(self, connection: str, subscription: str) -> None:
        """See :meth:`ISessions.close`."""
        if connection:
            self._end((connection, subscription))
        else:
            for key in [key for key in self._table if key[1] == subscription]:
                self._end(key)

    def close_connection(self, connection: str) -> None:
        """See :meth:`ISessions.close_connection`."""
        if self._per_connection[connection]:
            for key in [key for key in self._table if key[0] == connection]:
                self._end(key)

    def close_all(self) -> None:
        """End every session: the daemon stops."""
        for key in list(self._table):
            self._end(key)

    def sessions(self) -> list[SessionInfo]:
        """See :meth:`ISessions.sessions`."""
        return [
            SessionInfo(connection, subscription, held.created_at, held.last_activity, held.rounds)
            for (connection, subscription), held in self._table.items()
        ]

    @property
    def live(self) -> int:
        """How many sessions there are."""
        return len(self._table)

    @property
    def refusals(self) -> dict[str, int]:
        """How often each bound kept a session from being opened, since the start."""
        return self._refusals | self.snapshots.refusals

    def _begin(self, key: _Key) -> _Session:
        most = self._settings
        if len(self._table) >= most.max_sessions:
            self._refusals["sessions"] += 1
            raise LimitReached(f"too many sessions (limit {most.max_sessions}), try later")
        if self._per_connection[key[0]] >= most.max_per_connection:
            self._refusals["connection_sessions"] += 1
            raise LimitReached(
                f"too many sessions on this connection (limit {most.max_per_connection})"
            )
        expiry = self._clock.callLater(most.idle, self._end, key)
        session = self._table[key] = _Session(self._clock.seconds(), expiry)
        self._per_connection[key[0]] += 1
        self.opened += 1
        return session

    async def _answer(self, key: _Key, session: _Session, message: bytes) -> Step:
        """The reply to one message; the session's turn is held."""
        if session.ended or session.responder is None:
            raise Unknown("session not found")
        self._touch(session)
        step = await self._offload(session.responder.reconcile, message)
        if session.ended:
            raise Unknown("session was closed")
        session.rounds += 1
        self._touch(session)
        return step

    def _touch(self, session: _Session) -> None:
        session.last_activity = int(self._clock.seconds())
        session.expiry.reset(self._settings.idle)

    def _end(self, key: _Key, expected: _Session | None = None) -> None:
        """Forget a session; with ``expected``, only if the key was not taken over since."""
        session = self._table.get(key)
        if session is None or (expected is not None and session is not expected):
            return
        del self._table[key]
        session.ended = True
        session.snapshot = session.responder = None
        if session.expiry.active():
            session.expiry.cancel()
        self._per_connection[key[0]] -= 1
        if not self._per_connection[key[0]]:
            del self._per_connection[key[0]]
