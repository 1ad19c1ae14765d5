"""Sessions of clients: opened, answered in order, bounded, and forgotten when silent (NIP-77)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from negd.errors import LimitReached, ProtocolViolation, RemoteError, Unknown
from negd.interfaces import ISessions
from negd.nostr.filter import EVERYTHING, Filter
from negd.nostr.signing import Signer
from negd.reconcile import Initiator, RecordSet, Step
from negd.settings import SessionSettings
from negd.storage.memory import MemoryStore
from negd.sync.offload import Offload, inline
from negd.sync.sessions import SessionTable

alice = Signer(b"\x01" * 32)
events = [alice.sign(created_at=1000 + n, kind=n % 2) for n in range(1, 80, 2)]
OPENING = Initiator(RecordSet.EMPTY).initiate()


class LaterOffload:
    """An offload whose calls run one at a time, when the test says so."""

    def __init__(self) -> None:
        self.waiting: list[Callable[[], None]] = []

    def __call__(self, work: Callable[..., Any], /, *args: Any) -> Deferred[Any]:
        done: Deferred[Any] = Deferred()
        self.waiting.append(lambda: done.callback(work(*args)))
        return done


class SessionTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.store = MemoryStore(self.clock)
        self.successResultOf(Deferred.fromCoroutine(self.store.ingest(events)))
        self.table = self.make()

    def make(self, offload: Offload = inline, **settings: Any) -> SessionTable:
        return SessionTable(self.store, SessionSettings(**settings), self.clock, offload)

    def open(
        self,
        subscription: str = "s",
        connection: str = "c",
        wanted: Filter = EVERYTHING,
        message: bytes = OPENING,
        table: SessionTable | None = None,
    ) -> Deferred[Step]:
        table = table or self.table
        return Deferred.fromCoroutine(table.open(connection, subscription, wanted, message))

    def message(
        self, message: bytes = OPENING, table: SessionTable | None = None
    ) -> Deferred[Step]:
        return Deferred.fromCoroutine((table or self.table).message("c", "s", message))

    def test_it_is_a_session_table(self) -> None:
        verifyObject(ISessions, self.table)

    def test_a_client_that_holds_nothing_learns_what_matches_its_filter(self) -> None:
        wanted = Filter.build(kinds=[1], since=1011, until=1071)
        initiator = Initiator(RecordSet.EMPTY)
        step = self.successResultOf(self.open(wanted=wanted, message=initiator.initiate()))
        assert step.reply is not None
        learned = initiator.reconcile(step.reply)
        matching = {event.id_bytes for event in events if wanted.matches(event)}
        self.assertEqual(set(learned.need), matching)
        self.assertEqual(set(step.have), matching)
        self.assertTrue(step.complete)

    def test_an_empty_first_message_is_refused(self) -> None:
        failure = self.failureResultOf(self.open(message=b""), RemoteError)
        self.assertEqual(
            failure.value.answer, "blocked: NEG-OPEN requires initialMessage from initiator"
        )
        self.assertEqual(self.table.sessions(), [])

    def test_a_message_without_a_session_is_told_so(self) -> None:
        failure = self.failureResultOf(self.message(), Unknown)
        self.assertEqual(failure.value.answer, "closed: session not found")

    def test_a_message_that_cannot_be_read_ends_the_session(self) -> None:
        self.failureResultOf(self.open(message=b"\x61\x80"), ProtocolViolation)
        self.assertEqual(self.table.sessions(), [])
        self.successResultOf(self.open())
        self.failureResultOf(self.message(b"\x00"), ProtocolViolation)
        self.failureResultOf(self.message(), Unknown)

    def test_a_session_does_not_see_what_is_stored_after_it_was_opened(self) -> None:
        before = self.successResultOf(self.open())
        more = alice.sign(created_at=5)
        self.successResultOf(Deferred.fromCoroutine(self.store.ingest([more])))
        self.assertEqual(self.successResultOf(self.message()), before)
        self.assertNotEqual(self.successResultOf(self.open()), before)

    def test_opening_a_live_key_replaces_it(self) -> None:
        self.successResultOf(self.open())
        self.clock.advance(5)
        self.successResultOf(self.open())
        (only,) = self.table.sessions()
        self.assertEqual((only.created_at, only.rounds), (5, 1))

    def test_listing_tells_age_activity_and_rounds(self) -> None:
        self.successResultOf(self.open())
        self.clock.advance(7)
        self.successResultOf(self.message())
        (only,) = self.table.sessions()
        self.assertEqual(
            (only.connection, only.subscription, only.created_at, only.last_activity, only.rounds),
            ("c", "s", 0, 7, 2),
        )

    def test_a_silent_session_is_forgotten_and_an_active_one_is_not(self) -> None:
        self.successResultOf(self.open("s"))
        self.successResultOf(self.open("t"))
        self.clock.advance(100)
        self.successResultOf(self.message())
        self.clock.advance(100)
        self.assertEqual([info.subscription for info in self.table.sessions()], ["s"])
        self.clock.advance(100)
        self.assertEqual(self.table.sessions(), [])
        self.assertEqual(self.table.snapshots.nbytes, 0)

    def test_sessions_are_bounded_in_all_and_on_a_connection(self) -> None:
        table = self.make(max_sessions=3, max_per_connection=2)
        for name in ("s", "t"):
            self.successResultOf(self.open(name, table=table))
        failure = self.failureResultOf(self.open("u", table=table), LimitReached)
        self.assertIn("on this connection", failure.value.answer)
        self.successResultOf(self.open("u", "d", table=table))
        failure = self.failureResultOf(self.open("v", "e", table=table), LimitReached)
        self.assertTrue(failure.value.answer.startswith("blocked: too many sessions"))
        table.close("c", "s")
        self.successResultOf(self.open("v", "e", table=table))
        refusals = {"sessions": 1, "connection_sessions": 1, "records": 0, "snapshot_bytes": 0}
        self.assertEqual(table.refusals, refusals)

    def test_a_set_too_large_and_a_spent_budget_are_refused(self) -> None:
        table = self.make(max_records=10)
        failure = self.failureResultOf(self.open(table=table), LimitReached)
        self.assertEqual(failure.value.answer, "blocked: query matches too many records (40 > 10)")
        self.successResultOf(self.open(wanted=Filter(limit=10), table=table))
        self.assertEqual(table.refusals["records"], 1)
        table = self.make(snapshot_bytes=100)
        failure = self.failureResultOf(self.open(table=table), LimitReached)
        self.assertIn("memory", failure.value.answer)
        self.assertEqual(table.refusals["snapshot_bytes"], 1)
        self.assertEqual(table.sessions(), [])

    def test_sessions_on_one_filter_share_a_snapshot(self) -> None:
        self.successResultOf(self.open("s"))
        alone = self.table.snapshots.nbytes
        for number in range(20):
            self.successResultOf(self.open(f"s{number}"))
        self.assertEqual(self.table.snapshots.nbytes, alone)

    def test_closing(self) -> None:
        for connection in ("c", "d"):
            for name in ("s", "t"):
                self.successResultOf(self.open(name, connection))
        self.table.close("c", "s")
        self.table.close("c", "unknown")
        self.assertEqual(self.table.live, 3)
        self.table.close("", "t")
        self.assertEqual(
            [(i.connection, i.subscription) for i in self.table.sessions()], [("d", "s")]
        )
        self.table.close_connection("d")
        self.assertEqual(self.table.live, 0)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_overlapping_messages_are_answered_in_the_order_they_came(self) -> None:
        offload = LaterOffload()
        table = self.make(offload)
        answers = [self.open(table=table), self.message(table=table), self.message(table=table)]
        for answered in range(3):
            self.assertEqual(len(offload.waiting), 1)
            offload.waiting.pop()()
            self.successResultOf(answers[answered])
        (only,) = table.sessions()
        self.assertEqual(only.rounds, 3)

    def test_closing_under_way_answers_that_the_session_is_closed(self) -> None:
        offload = LaterOffload()
        table = self.make(offload)
        opened, queued = self.open(table=table), self.message(table=table)
        table.close("c", "s")
        offload.waiting.pop()()
        self.failureResultOf(opened, Unknown)
        self.failureResultOf(queued, Unknown)

    def test_reopening_under_way_leaves_the_new_session_alive(self) -> None:
        offload = LaterOffload()
        table = self.make(offload)
        first, second = self.open(table=table), self.open(table=table)
        for call in offload.waiting:
            call()
        self.failureResultOf(first, Unknown)
        self.successResultOf(second)
        self.assertEqual(table.live, 1)
