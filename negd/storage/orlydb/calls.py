"""The threads in which the database is called, and work that several callers wait for."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterable
from functools import partial
from threading import Thread
from typing import Any, TypeVar, cast

from twisted.internet.defer import Deferred, DeferredList
from twisted.internet.threads import deferToThreadPool
from twisted.python.failure import Failure
from twisted.python.threadpool import ThreadPool

from negd.storage.orlydb.database import Away

T = TypeVar("T")


class _Pool(ThreadPool):
    """Its threads do not keep alive a process that forgot to close its store."""

    threadFactory = partial(Thread, daemon=True)  # type: ignore[assignment]


class Calls:
    """Runs blocking functions in threads.

    :param reactor: an IReactorFromThreads.
    """

    def __init__(self, reactor: Any, threads: int) -> None:
        self._reactor = reactor
        self._pool = _Pool(0, threads, "negd-orlydb")
        self._pool.start()
        self._running: set[Deferred[Any]] = set()

    def __call__(self, work: Callable[..., T], *args: Any) -> Deferred[T]:
        """The result of ``work(*args)``; an error where all is closed."""
        done: Deferred[T] = Deferred(lambda _: None)
        if not self._pool.started:
            done.errback(Away("the store is closed"))
            return done
        running = deferToThreadPool(self._reactor, self._pool, work, *args)
        self._running.add(running)
        running.addBoth(self._finish, running, done)
        return done

    def _finish(self, result: T | Failure, running: Deferred[T], done: Deferred[T]) -> None:
        self._running.discard(running)
        if not done.called:
            done.callback(result)

    async def stop(self) -> None:
        """Return once the calls under way are done; later ones fail."""
        self._pool.started = False
        await DeferredList(list(self._running))
        self._pool.stop()


class Shared:
    """Work of which one run serves all who asked before it began.

    A caller that gives up waiting leaves the run alone.
    """

    def __init__(self, work: Callable[[], Coroutine[Deferred[Any], Any, None]]) -> None:
        self._work = work
        self._waiting: list[Deferred[None]] = []
        self._running = False

    def __call__(self) -> Deferred[None]:
        """Fires once a run that began after this call is done, with its error if it failed."""
        waiter: Deferred[None] = Deferred(lambda _: None)
        self._waiting.append(waiter)
        if not self._running:
            self._running = True
            Deferred.fromCoroutine(self._run())
        return waiter

    async def _run(self) -> None:
        while self._waiting:
            served, self._waiting = self._waiting, []
            result: Failure | None = None
            try:
                await self._work()
            except Exception:
                result = Failure()
            for waiter in served:
                if not waiter.called:
                    waiter.callback(result)
        self._running = False


async def gathered(works: Iterable[Coroutine[Deferred[Any], Any, T]]) -> list[T]:
    """What coroutines return that run side by side, in order; all are run to their ends.

    :raises Exception: the first failure, as it was raised.
    """
    running = [Deferred.fromCoroutine(work) for work in works]
    results: list[T] = []
    for succeeded, outcome in await DeferredList(running, consumeErrors=True):
        if not succeeded:
            cast(Failure, outcome).raiseException()
        results.append(outcome)
    return results
