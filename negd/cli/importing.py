"""From lines to stored events: read in a thread, checked in processes, stored, counted."""

from __future__ import annotations

import gc
import os
import stat
from collections import deque
from collections.abc import Callable
from typing import Any, BinaryIO, Protocol

from twisted.internet.defer import Deferred, DeferredLock, DeferredSemaphore
from twisted.internet.threads import deferToThreadPool

from negd.cli.lines import Line, LineReader
from negd.cli.meter import Meter
from negd.cli.output import count
from negd.interfaces import IEventStore, Outcome, Verdict
from negd.nostr.filing import Filing
from negd.sync.checker import Checked
from negd.sync.checking import Checkers

IN_FLIGHT = 40
"""Batches read and not yet told of, so that reading, checking and storing overlap."""

TOGETHER = 4000
"""Lines that a store is handed at a time, where so many are under way. With the thousand that are
checked while it stores others, LMDB writes twice as much, and an import takes a tenth longer."""

NAMED = 10
"""Bad lines that are named on stderr; further ones are counted."""


class Notes(Protocol):
    """Where bad lines are noted."""

    def write(self, text: str, /) -> object:
        """Write some text; it may raise OSError."""


class Report:
    """What became of the lines.

    :ivar lines: lines of the file that were told of, blank ones among them.
    :param rejects: where every bad line is noted, if anywhere.
    """

    def __init__(self, shown: Meter, rejects: Notes | None = None) -> None:
        self._shown = shown
        self._rejects = rejects
        self.outcomes = dict.fromkeys(Outcome, 0)
        self.lines = 0

    @property
    def bad(self) -> int:
        """Lines that hold no valid event."""
        return self.outcomes[Outcome.INVALID]

    def judged(self, number: int, verdict: Verdict) -> None:
        """Count a line, and blank ones before it; name it if it is one of the first bad ones.

        :raises OSError: it cannot be named or noted; it is counted.
        """
        self.lines = number
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
        self._shown.show(read, total, count(self.lines, "line"))

    def text(self, name: str, seconds: float) -> str:
        """The summary."""
        rows = {outcome.value: number for outcome, number in self.outcomes.items()}
        if blank := self.lines - sum(rows.values()):
            rows["blank"] = blank
        width = max(len(f"{number:,}") for number in rows.values())
        return "\n".join(
            [f"imported {name}: {count(self.lines, 'line')} in {seconds:.1f} s"]
            + [f"  {word:10}  {number:{width},}" for word, number in rows.items()]
        )


async def import_events(reactor: Any, store: IEventStore, file: BinaryIO, report: Report) -> None:
    """Store every line of a file; what was read is stored even if it is cancelled.

    :param reactor: an IReactorFromThreads and IReactorTime with a thread pool.
    :raises negd.errors.StorageError: the store failed; nothing further was handed to it.
    :raises OSError: the file cannot be read, or what became of it not be told.
    """
    gc.freeze()  # the modules stay: looking through them for garbage takes a tenth of the time
    checkers = Checkers(reactor)
    checkers.start()
    reader, total = LineReader(file), _size(file)
    pipeline = _Pipeline(store, checkers, report, lambda: report.show(reader.read, total))
    try:
        while await pipeline.room():
            lines = await deferToThreadPool(reactor, reactor.getThreadPool(), reader.batch)
            if not lines:
                break
            pipeline.add(lines)
        await pipeline.through()
        if pipeline.failure is None:
            report.lines = reader.number  # blank ones at the end have no verdict after them
    finally:
        reader.stop()
        await pipeline.through()
        await checkers.stop()
    if pipeline.failure is not None:
        raise pipeline.failure


class _Pipeline:
    """Batches of lines, checked side by side, then stored and told of in the order of the file.

    What is checked is handed to the store once it is :data:`TOGETHER`, or all that was read.

    :param told: called when batches have been told of.
    :ivar failure: why nothing further is stored: the first of what went wrong.
    """

    def __init__(
        self, store: IEventStore, checkers: Checkers, report: Report, told: Callable[[], None]
    ) -> None:
        self._store = store
        self._checkers = checkers
        self._report = report
        self._told = told
        self._line: deque[tuple[list[int], Deferred[Checked]]] = deque()
        self._is_working = False
        self._places = DeferredSemaphore(IN_FLIGHT)
        self._telling = DeferredLock()
        self.failure: Exception | None = None

    async def room(self) -> bool:
        """Return when there is room for a batch; False where nothing further is stored."""
        await self._places.acquire()
        self._places.release()
        return self.failure is None

    def add(self, lines: list[Line]) -> None:
        """Take a batch; there is room."""
        self._places.acquire()
        numbers = [number for number, _ in lines]
        self._line.append((numbers, Deferred.fromCoroutine(self._judge(lines))))
        if not self._is_working:
            self._is_working = True
            Deferred.fromCoroutine(self._work())

    async def through(self) -> None:
        """Return when all that was added has been told of."""
        for _ in range(IN_FLIGHT):
            await self._places.acquire()
        for _ in range(IN_FLIGHT):
            self._places.release()

    async def _judge(self, lines: list[Line]) -> Checked:
        """The event on each line, filed, or what is wrong with it."""
        judged = iter(await self._checkers.lines([text for _, text in lines if text is not None]))
        return ["line is too long" if text is None else next(judged) for _, text in lines]

    async def _work(self) -> None:
        """Put batches together as they are checked; the store takes the next while it stores."""
        while self._line:
            numbers: list[int] = []
            judged: Checked = []
            batches = 0
            while self._line and len(judged) < TOGETHER:
                of_batch, judging = self._line.popleft()
                batches += 1
                try:
                    judged += await judging
                except Exception as error:
                    self.failure = self.failure or error
                else:
                    numbers += of_batch
            Deferred.fromCoroutine(self._take(batches, numbers, judged))
        self._is_working = False

    async def _take(self, batches: int, numbers: list[int], judged: Checked) -> None:
        """Store what some batches hold, and tell of it when its turn comes."""
        turn = self._telling.acquire()
        verdicts: list[Verdict] = []
        try:
            if self.failure is None:
                verdicts = await self._verdicts(judged)
        except Exception as error:
            self.failure = self.failure or error
        await turn
        for number, verdict in zip(numbers, verdicts, strict=False):
            self._try(self._report.judged, number, verdict)
        self._try(self._told)
        self._telling.release()
        for _ in range(batches):
            self._places.release()

    def _try(self, tell: Callable[..., None], *what: object) -> None:
        """Whoever does not get told, all that was stored is counted."""
        try:
            tell(*what)
        except Exception as error:
            self.failure = self.failure or error

    async def _verdicts(self, judged: Checked) -> list[Verdict]:
        """One for each line, once what is valid is stored."""
        stored = iter(await self._store.ingest([one for one in judged if isinstance(one, Filing)]))
        return [
            Verdict(Outcome.INVALID, one) if isinstance(one, str) else next(stored)
            for one in judged
        ]


def _size(file: BinaryIO) -> int | None:
    """The size of a plain file; a pipe has none."""
    found = os.fstat(file.fileno())
    return found.st_size if stat.S_ISREG(found.st_mode) else None
