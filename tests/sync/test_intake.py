"""The intake: every event has its verdict, nothing wrong is stored, the line is bounded."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from negd.errors import StorageError
from negd.interfaces import IIntake, Outcome, Verdict
from negd.nostr.event import Event
from negd.nostr.filing import Filing
from negd.nostr.signing import Signer
from negd.settings import IntakeSettings
from negd.storage.memory import MemoryStore
from negd.sync.checker import Checked
from negd.sync.checking import check_here
from negd.sync.intake import Intake

alice = Signer(b"\x01" * 32)


def some(count: int, start: int = 0) -> list[Event]:
    return [alice.sign(created_at=1000 + n) for n in range(start, start + count)]


class LaterCheck:
    """A check that is done when the test says so."""

    def __init__(self) -> None:
        self.waiting: list[Deferred[None]] = []

    def __call__(self, events: Sequence[Event]) -> Deferred[Checked]:
        self.waiting.append(Deferred())
        return self.waiting[-1].addCallback(lambda _: check_here(events))

    def run(self) -> None:
        while self.waiting:
            self.waiting.pop(0).callback(None)


class FailingStore(MemoryStore):
    """A store whose disk is full."""

    failure: BaseException = StorageError("no space left")

    async def ingest(self, events: Sequence[Event | Filing]) -> list[Verdict]:
        raise self.failure


class IntakeTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.store = MemoryStore(Clock())
        self.intake = Intake(self.store, IntakeSettings(), check_here)

    def submit(self, events: Sequence[Event], intake: Intake | None = None) -> Deferred[Any]:
        return Deferred.fromCoroutine((intake or self.intake).submit(events))

    def test_it_is_an_intake(self) -> None:
        verifyObject(IIntake, self.intake)

    def test_nothing_submitted_is_nothing_judged(self) -> None:
        self.assertEqual(self.successResultOf(self.submit([])), [])

    def test_each_event_has_its_own_verdict_in_order(self) -> None:
        good, twice, unsigned = some(3)
        self.successResultOf(self.submit([twice]))
        forged = msgspec.structs.replace(unsigned, sig="0" * 128)
        wrong = msgspec.structs.replace(unsigned, content="other")
        verdicts = self.successResultOf(self.submit([good, forged, twice, wrong, good]))
        self.assertEqual(
            verdicts,
            [
                Verdict(Outcome.STORED),
                Verdict(Outcome.INVALID, "signature does not match"),
                Verdict(Outcome.DUPLICATE),
                Verdict(Outcome.INVALID, "id does not match the event"),
                Verdict(Outcome.DUPLICATE),
            ],
        )
        held = self.successResultOf(
            Deferred.fromCoroutine(self.store.fetch([good.id_bytes, unsigned.id_bytes]))
        )
        self.assertEqual(set(held), {good.id_bytes})
        self.assertEqual(self.intake.outcomes[Outcome.INVALID], 2)

    def test_more_than_a_batch_is_judged_in_order(self) -> None:
        intake = Intake(self.store, IntakeSettings(batch=7), check_here)
        events = some(50)
        verdicts = self.successResultOf(self.submit([*events, events[0]], intake))
        self.assertEqual(verdicts, [Verdict(Outcome.STORED)] * 50 + [Verdict(Outcome.DUPLICATE)])

    def test_submitters_wait_while_the_line_is_full_and_none_is_lost(self) -> None:
        check = LaterCheck()
        intake = Intake(self.store, IntakeSettings(max_backlog=10, batch=5), check)
        events = some(40)
        waiting = [self.submit(events[at : at + 4], intake) for at in range(0, 40, 4)]
        self.assertLessEqual(intake.backlog, 13)
        for done in waiting:
            self.assertNoResult(done)
        check.run()
        for done in waiting:
            self.assertEqual(self.successResultOf(done), [Verdict(Outcome.STORED)] * 4)
        self.assertEqual(intake.backlog, 0)

    def test_a_submitter_that_gives_up_waiting_leaves_the_line(self) -> None:
        check = LaterCheck()
        intake = Intake(self.store, IntakeSettings(max_backlog=1), check)
        first, second, third = (self.submit(some(1, n), intake) for n in range(3))
        second.cancel()
        self.failureResultOf(second)
        check.run()
        self.successResultOf(first)
        self.successResultOf(third)

    def test_a_submitter_that_gives_up_later_disturbs_nobody(self) -> None:
        check = LaterCheck()
        intake = Intake(self.store, IntakeSettings(), check)
        first, second = self.submit(some(1), intake), self.submit(some(1, 1), intake)
        first.cancel()
        self.failureResultOf(first)
        check.run()
        self.assertEqual(self.successResultOf(second), [Verdict(Outcome.STORED)])

    def test_a_failing_store_fails_the_submission_and_not_the_intake(self) -> None:
        store = FailingStore(Clock())
        intake = Intake(store, IntakeSettings(), check_here)
        failure = self.failureResultOf(self.submit(some(2), intake), StorageError)
        self.assertEqual(failure.value.answer, "error: no space left")
        self.assertEqual(intake.backlog, 0)
        store.failure = KeyError("a defect")
        failure = self.failureResultOf(self.submit(some(2), intake), StorageError)
        self.assertNotIn("a defect", failure.value.answer)

    def test_stopping_finishes_what_was_taken_and_takes_no_more(self) -> None:
        check = LaterCheck()
        intake = Intake(self.store, IntakeSettings(max_backlog=1), check)
        taken, waiting = self.submit(some(1), intake), self.submit(some(1, 1), intake)
        stopped = Deferred.fromCoroutine(intake.stop())
        self.failureResultOf(waiting, StorageError)
        self.assertNoResult(stopped)
        check.run()
        self.successResultOf(stopped)
        self.assertEqual(self.successResultOf(taken), [Verdict(Outcome.STORED)])
        self.failureResultOf(self.submit(some(1), intake), StorageError)
