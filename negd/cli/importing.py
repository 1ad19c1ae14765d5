"""From lines to stored events: read in a thread, submitted a few batches at a time, counted."""

from __future__ import annotations

import os
import stat
from typing import Any, BinaryIO, NamedTuple, TextIO

from twisted.internet.defer import Deferred, DeferredSemaphore
from twisted.internet.threads import deferToThreadPool

from negd.cli.lines import LineReader
from negd.cli.meter import Meter
from negd.cli.output import count
from negd.interfaces import IEventStore, IIntake, Outcome, Verdict
from negd.nostr.event import Event, InvalidEvent, decode
from negd.settings import IntakeSettings
from negd.sync.intake import Intake
from negd.sync.offload import ThreadOffload

IN_FLIGHT = 16
"""Batches submitted and not yet committed, so that reading, checking and storing overlap."""

NAMED = 10
"""Bad lines that are named on stderr; further ones are counted."""


class Report:
    """What became of the lines.

    :ivar bad: lines that hold no valid event.
    :param rejects: where every bad line is noted, if anywhere.
    """

    def __init__(self, shown: Meter, rejects: TextIO | None = None) -> None:
        self._shown = shown
        self._rejects = rejects
        self.outcomes = dict.fromkeys(Outcome, 0)

    @property
    def bad(self) -> int:
        """Lines that hold no valid event."""
        return self.outcomes[Outcome.INVALID]

    def judged(self, number: int, verdict: Verdict) -> None:
        """Count a line; name it if it is one of the first bad ones."""
        self.outcomes[verdict.outcome] += 1
        if verdict.outcome is not Outcome.INVALID:
            return
        if self._rejects is not None:
            self._rejects.write(f"line {number}: {verdict.reason}\n")
        if self.bad <= NAMED:
            self._shown.say(f"negctl: line {number}: {verdict.reason}")
        elif self.bad == NAMED + 1:
            self._shown.say("negctl: further bad lines are only counted")

    def show(self, read: int, total: int | None) -> None:
        """Show progress, in bytes."""
        self._shown.show(read, total, count(sum(self.outcomes.values()), "line"))

    def text(self, name: str, seconds: float) -> str:
        """The summary."""
        lines = count(sum(self.outcomes.values()), "line")
        width = max(len(f"{number:,}") for number in self.outcomes.values())
        return "\n".join(
            [f"imported {name}: {lines} in {seconds:.1f} s"]
            + [f"  {outcome.value:10}  {n:{width},}" for outcome, n in self.outcomes.items()]
        )


async def import_events(reactor: Any, store: IEventStore, file: BinaryIO, report: Report) -> None:
    """Submit every line of a file; what was submitted is stored even if it is cancelled.

    :param reactor: an IReactorFromThreads with a thread pool.
    :raises negd.errors.StorageError: the store failed; nothing further was submitted.
    :raises OSError: the file cannot be read.
    """
    threads = os.cpu_count() or 1
    offload = ThreadOffload(reactor, threads, "verify")
    intake = Intake(store, IntakeSettings(), offload, threads)
    reader = LineReader(file)
    try:
        await _Submissions(reactor, intake, report).run(reader, _size(file))
    finally:
        reader.stop()
        await intake.stop()
        await offload.stop()


class _Batch(NamedTuple):
    """:ivar events: with their line numbers. :ivar faults: those of the bad lines."""

    events: list[tuple[int, Event]]
    faults: list[tuple[int, str]]


class _Submissions:
    """Batches on their way into the store, a few at a time."""

    def __init__(self, reactor: Any, intake: IIntake, report: Report) -> None:
        self._reactor = reactor
        self._intake = intake
        self._report = report
        self._places = DeferredSemaphore(IN_FLIGHT)
        self._failure: Exception | None = None

    async def run(self, reader: LineReader, total: int | None) -> None:
        """Submit all that is read; return when each line has its verdict."""
        while self._failure is None:
            await self._places.acquire()
            batch = await deferToThreadPool(
                self._reactor, self._reactor.getThreadPool(), _read, reader
            )
            if batch is None:
                self._places.release()
                break
            Deferred.fromCoroutine(self._submit(batch))
            self._report.show(reader.read, total)
        for _ in range(IN_FLIGHT):
            await self._places.acquire()
        if self._failure is not None:
            raise self._failure

    async def _submit(self, batch: _Batch) -> None:
        for number, fault in batch.faults:
            self._report.judged(number, Verdict(Outcome.INVALID, fault))
        try:
            verdicts = await self._intake.submit([event for _, event in batch.events])
            for (number, _), verdict in zip(batch.events, verdicts, strict=True):
                self._report.judged(number, verdict)
        except Exception as error:
            self._failure = self._failure or error
        finally:
            self._places.release()


def _read(reader: LineReader) -> _Batch | None:
    """The events of a batch of lines; None at the end."""
    lines = reader.batch()
    batch = _Batch([], [])
    for number, line in lines:
        try:
            batch.events.append((number, _event(line)))
        except InvalidEvent as error:
            batch.faults.append((number, error.text))
    return batch if lines else None


def _event(line: bytes | None) -> Event:
    if line is None:
        raise InvalidEvent("line is too long")
    return decode(line)


def _size(file: BinaryIO) -> int | None:
    """The size of a plain file; a pipe has none."""
    found = os.fstat(file.fileno())
    return found.st_size if stat.S_ISREG(found.st_mode) else None
