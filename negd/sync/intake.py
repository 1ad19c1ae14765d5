"""The one way of events into the store: known? -> id and signature -> commit -> verdicts.

Submissions from everywhere (clients, peers, imports) join one line.  A batch is taken off its
head, what is already held is answered at once, the rest is checked and handed to the store; while
one batch is committed the next one is being checked.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import NamedTuple, cast

from twisted.internet.defer import CancelledError, Deferred, DeferredSemaphore
from twisted.python.failure import Failure
from zope.interface import implementer

from negd.errors import NegdError, StorageError
from negd.interfaces import IEventStore, IIntake, Outcome, Verdict
from negd.nostr.event import Event
from negd.nostr.filing import Filing
from negd.settings import IntakeSettings
from negd.sync.checking import Check

_COMMITS_UNDER_WAY = 4
"""Batches that a store may be given at once, so that it can group them: 50,000 events that come as
fast as they can be checked take LMDB 43 commits with two, some 35 with four."""


class _Submission:
    """The verdicts of one call of :meth:`Intake.submit`, as they come in."""

    def __init__(self, size: int) -> None:
        self.verdicts: list[Verdict | None] = [None] * size
        self.missing = size
        self.done: Deferred[None] = Deferred(lambda _: None)

    def judge(self, index: int, verdict: Verdict) -> None:
        self.verdicts[index] = verdict
        self.missing -= 1
        if not self.missing and not self.done.called:
            self.done.callback(None)

    def fail(self, failure: Failure) -> None:
        if not self.done.called:
            self.done.errback(failure)


class _Entry(NamedTuple):
    """One event in line: where its verdict goes."""

    event: Event
    submission: _Submission
    place: int


@implementer(IIntake)
class Intake:
    """Checks and stores events, in the order they were submitted.

    :param check: files events, or says what is wrong with them.
    """

    def __init__(self, store: IEventStore, settings: IntakeSettings, check: Check) -> None:
        self._store = store
        self._settings = settings
        self._check = check
        self._line: deque[_Entry] = deque()
        self._waiting: deque[Deferred[None]] = deque()
        self._commits = DeferredSemaphore(_COMMITS_UNDER_WAY)
        self._under_way = 0
        self._working = False
        self._stopped: StorageError | None = None
        self._idle: list[Deferred[None]] = []
        self.outcomes = dict.fromkeys(Outcome, 0)

    @property
    def backlog(self) -> int:
        """Events in line or under way."""
        return len(self._line) + self._under_way

    async def submit(self, events: Sequence[Event]) -> list[Verdict]:
        """See :meth:`IIntake.submit`. Waits for room while the backlog is full."""
        while self._stopped is None and self.backlog >= self._settings.max_backlog:
            room: Deferred[None] = Deferred(self._waiting.remove)
            self._waiting.append(room)
            await room
        if self._stopped is not None:
            raise self._stopped
        if not events:
            return []
        submission = _Submission(len(events))
        self._line.extend(_Entry(event, submission, i) for i, event in enumerate(events))
        self._start()
        await submission.done
        return cast("list[Verdict]", submission.verdicts)

    async def stop(self) -> None:
        """Take nothing more; return when all that was taken has its verdict."""
        self._stopped = StorageError("the daemon is stopping")
        self._make_room()
        if self.backlog:
            idle: Deferred[None] = Deferred()
            self._idle.append(idle)
            await idle

    def _start(self) -> None:
        if not self._working:
            self._working = True
            Deferred.fromCoroutine(self._work())

    async def _work(self) -> None:
        while self._line:
            count = min(self._settings.batch, len(self._line))
            batch = [self._line.popleft() for _ in range(count)]
            self._under_way += count
            await self._commits.acquire()
            try:
                valid = await self._judge(batch)
            except Exception:
                self._finish(batch, Failure())
            else:
                Deferred.fromCoroutine(self._commit(batch, valid))
        self._working = False

    async def _judge(self, batch: list[_Entry]) -> list[tuple[_Entry, Filing]]:
        """Give the verdicts that need no commit; what is left is to be stored."""
        ids = [entry.event.id_bytes for entry in batch]
        known = await self._store.known(ids)
        fresh = []
        for entry, event_id in zip(batch, ids, strict=True):
            if event_id in known:
                self._give(entry, Verdict(Outcome.DUPLICATE))
            else:
                fresh.append(entry)
        checked = await self._check([entry.event for entry in fresh])
        valid = []
        for entry, one in zip(fresh, checked, strict=True):
            if isinstance(one, str):
                self._give(entry, Verdict(Outcome.INVALID, one))
            else:
                valid.append((entry, one))
        return valid

    async def _commit(self, batch: list[_Entry], valid: list[tuple[_Entry, Filing]]) -> None:
        try:
            if valid:
                verdicts = await self._store.ingest([filing for _, filing in valid])
                for (entry, _), verdict in zip(valid, verdicts, strict=True):
                    self._give(entry, verdict)
        except Exception:
            self._finish(batch, Failure())
        else:
            self._finish(batch)

    def _give(self, entry: _Entry, verdict: Verdict) -> None:
        self.outcomes[verdict.outcome] += 1
        entry.submission.judge(entry.place, verdict)

    def _finish(self, batch: list[_Entry], failure: Failure | None = None) -> None:
        """Account for a batch that is through; on a failure its submitters are told."""
        self._commits.release()
        self._under_way -= len(batch)
        if failure is not None:
            told = failure if failure.check(NegdError) else _unexpected(failure)
            for submission in {entry.submission: None for entry in batch}:
                submission.fail(told)
        self._make_room()
        if not self.backlog:
            idle, self._idle = self._idle, []
            for waiter in idle:
                waiter.callback(None)

    def _make_room(self) -> None:
        """Let submitters on: one batch's worth, or all once stopped."""
        while self._waiting and (
            self._stopped is not None or self.backlog < self._settings.max_backlog
        ):
            self._waiting.popleft().callback(None)


def _unexpected(failure: Failure) -> Failure:
    if failure.check(CancelledError):
        return Failure(StorageError("the write was cancelled"))
    return Failure(StorageError(f"the event could not be stored ({type(failure.value).__name__})"))
