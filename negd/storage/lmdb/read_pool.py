"""A few threads in which a store reads."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from threading import Thread
from typing import Any, TypeVar

import lmdb
from twisted.internet.defer import Deferred, DeferredList
from twisted.internet.threads import deferToThreadPool
from twisted.python.failure import Failure
from twisted.python.threadpool import ThreadPool

from negd.errors import StorageError

T = TypeVar("T")


class _Pool(ThreadPool):
    """Its threads do not keep alive a process that forgot to close its store."""

    threadFactory = partial(Thread, daemon=True)  # type: ignore[assignment]


class ReadPool:
    """Runs reads in threads.

    :param reactor: an IReactorFromThreads.
    :param name: of the store, for what LMDB complains of.
    """

    def __init__(self, reactor: Any, name: str, threads: int) -> None:
        self._reactor = reactor
        self._name = name
        self._pool = _Pool(0, threads, "negd-lmdb-reader")
        self._pool.start()
        self._running: set[Deferred[Any]] = set()

    def __call__(self, work: Callable[..., T], *args: Any) -> Deferred[T]:
        """The result of ``work(*args)``; a StorageError where LMDB fails or all is closed."""
        done: Deferred[T] = Deferred(lambda _: None)
        if not self._pool.started:
            done.errback(StorageError(f"store {self._name} is closed"))
            return done
        running = deferToThreadPool(self._reactor, self._pool, work, *args)
        self._running.add(running)
        running.addBoth(self._finish, running, done)
        return done

    def _finish(self, result: T | Failure, running: Deferred[T], done: Deferred[T]) -> None:
        self._running.discard(running)
        if isinstance(result, Failure) and result.check(lmdb.Error):
            result = Failure(StorageError(f"store {self._name}: {result.getErrorMessage()}"))
        if not done.called:
            done.callback(result)

    async def stop(self) -> None:
        """Return once the reads under way are done; later ones fail."""
        self._pool.started = False
        await DeferredList(list(self._running))
        self._pool.stop()
