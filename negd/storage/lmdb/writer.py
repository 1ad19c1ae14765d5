"""The one thread that writes to LMDB, many writes to a transaction (group commit).

Work that comes in while a transaction is being committed goes into the next one, so that a burst
of single events costs a few fsyncs, and a lone event waits for nobody.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from queue import Empty, SimpleQueue
from threading import Thread
from time import monotonic
from typing import Any, Generic, TypeVar

import lmdb
from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from negd.errors import StorageError
from negd.nostr.event import Event
from negd.nostr.filing import Filing
from negd.storage.lmdb.changes import Changes
from negd.storage.lmdb.environment import Environment, Transaction
from negd.storage.lmdb.shelf import LmdbShelf, weight_of
from negd.storage.lmdb.turns import Call, Turns

T = TypeVar("T")

log = Logger()

_FULL = 4000
"""Weight after which a transaction takes no further work. Each event touches some five pages at
random places, less where pages are shared, and LMDB keeps what it wrote anew for two transactions
more: small ones cost waiting for the disk, large ones room on it and memory."""

_SECONDS = 0.2
"""Age after which a transaction takes no further work."""

Work = Callable[[Transaction, LmdbShelf], T]
"""Called in the writer's thread; again from the start if its transaction has to be redone."""


@dataclass(eq=False)
class _Job(Generic[T]):
    work: Work[T]
    weight: int
    done: Deferred[T]


@dataclass(eq=False)
class _Alone(Generic[T]):
    work: Callable[[], T]
    done: Deferred[T]


def pieces(
    events: Sequence[Event | Filing],
) -> Iterator[tuple[Sequence[Event | Filing], int]]:
    """Events in parts that each fill a transaction at most, and the weights of these.

    Other work has its turn between them: events of thousands of tags can take long to write.
    """
    begin = weight = 0
    for place, event in enumerate(events, 1):
        weight += weight_of(event)
        if weight >= _FULL:
            yield events[begin:place], weight
            begin, weight = place, 0
    if begin < len(events):
        yield events[begin:], weight


class Writer:
    """Runs works in order, each wholly or not at all.

    Its line has no bound of its own: every work has somebody waiting for its result.

    :param turns: in which results are given out.
    :param committed: called in the writer's thread after each commit, with what changed; what it
        returns is called in the reactor thread before the results are given out.
    """

    def __init__(
        self,
        environment: Environment,
        turns: Turns,
        committed: Callable[[Changes], list[Call]],
    ) -> None:
        self._environment = environment
        self._turns = turns
        self._committed = committed
        self._line: SimpleQueue[_Job[Any] | _Alone[Any] | None] = SimpleQueue()
        self._next_alone: _Alone[Any] | None = None
        self._stopped: Deferred[None] | None = None
        self._thread = Thread(target=self._run, name="negd-lmdb-writer", daemon=True)
        self._thread.start()

    def submit(self, work: Work[T], weight: int = 1) -> Deferred[T]:
        """Have ``work`` done; its result comes after the commit.

        The Deferred fails with StorageError where nothing was written, or with what ``work``
        raised. Cancelling it does not take the work back.

        :param weight: of the events that the work is about, see :func:`weight_of`.
        """
        done: Deferred[T] = Deferred(lambda _: None)
        return self._put(_Job(work, weight, done))

    def submit_alone(self, work: Callable[[], T]) -> Deferred[T]:
        """Have something done while no transaction is open; otherwise as :meth:`submit`."""
        return self._put(_Alone(work, Deferred(lambda _: None)))

    def _put(self, job: _Job[T] | _Alone[T]) -> Deferred[T]:
        if self._stopped is not None:
            job.done.errback(StorageError("the store is closed"))
        else:
            self._line.put(job)
        return job.done

    async def stop(self) -> None:
        """Finish what was submitted, then end the thread."""
        if self._stopped is None:
            self._stopped = Deferred()
            self._line.put(None)
        await self._stopped
        self._thread.join()

    # --- in the writer's thread -----------------------------------------------------------------

    def _run(self) -> None:
        while (job := self._line.get()) is not None:
            if isinstance(job, _Job):
                self._serve([job])
            else:
                self._next_alone = job
            if self._next_alone is not None:
                self._serve_alone(self._next_alone)
                self._next_alone = None
        assert self._stopped is not None
        self._turns.add([partial(self._stopped.callback, None)])

    def _serve(self, jobs: list[_Job[Any]], others: bool = True) -> None:
        """Commit the jobs, with ``others`` those in line too as long as the transaction is open."""
        try:
            results, changes = self._commit(jobs, others)
            changes.last = changes.last or self._line.empty()
            first = self._committed(changes)
        except lmdb.Error:
            self._fail(jobs, Failure())
        except Exception:
            self._blame(jobs, Failure())
        else:
            self._turns.add([*first, *map(_giving, jobs, results)])

    def _serve_alone(self, job: _Alone[Any]) -> None:
        try:
            result = job.work()
        except Exception:
            self._fail([job], Failure())
        else:
            self._turns.add([_giving(job, result)])

    def _blame(self, jobs: list[_Job[Any]], failure: Failure) -> None:
        """The fault is in one of the works: only that one is to fail."""
        if len(jobs) > 1:
            for job in jobs:
                self._serve([job], others=False)
        else:
            self._fail(jobs, failure)

    def _fail(self, jobs: Sequence[_Job[Any] | _Alone[Any]], failure: Failure) -> None:
        explained = self._explained(failure)
        self._turns.add([_giving(job, explained) for job in jobs])

    def _explained(self, failure: Failure) -> Failure:
        if failure.check(StorageError):
            return failure
        if failure.check(lmdb.Error):
            return Failure(StorageError(f"store {self._environment.folder}: {failure.value}"))
        log.failure("a write failed", failure)
        return Failure(StorageError(f"the write failed: {failure.value!r}"))

    def _commit(self, jobs: list[_Job[Any]], others: bool) -> tuple[list[Any], Changes]:
        while True:
            try:
                return self._attempt(jobs, others)
            except lmdb.MapFullError:
                self._environment.grow()

    def _attempt(self, jobs: list[_Job[Any]], others: bool) -> tuple[list[Any], Changes]:
        """One transaction; ``jobs`` grows by those that join it."""
        closes = monotonic() + _SECONDS
        weight = sum(job.weight for job in jobs)
        with self._environment.write() as txn:
            shelf = LmdbShelf(txn, self._environment)
            results = [job.work(txn, shelf) for job in jobs]
            while others and weight < _FULL and monotonic() < closes:
                job = self._next()
                if job is None:
                    break
                jobs.append(job)
                weight += job.weight
                results.append(job.work(txn, shelf))
            shelf.settle()
        return results, shelf.changes

    def _next(self) -> _Job[Any] | None:
        """The next in line that can join a transaction, if there is one."""
        if self._next_alone is not None:
            return None  # an attempt before this one met it: what comes after it waits
        try:
            job = self._line.get_nowait()
        except Empty:
            return None
        if isinstance(job, _Job):
            return job
        if job is None:
            self._line.put(None)
        else:
            self._next_alone = job
        return None


def _giving(job: _Job[T] | _Alone[T], result: T | Failure) -> Call:
    """A call that gives out the result, unless nobody wants it any more."""

    def give() -> None:
        if not job.done.called:
            job.done.callback(result)

    return give
