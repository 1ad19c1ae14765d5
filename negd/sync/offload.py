"""Work that would hold up the reactor goes to threads, through one small door."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol, TypeVar

from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.threads import deferToThreadPool
from twisted.python.threadpool import ThreadPool

T = TypeVar("T")


class Offload(Protocol):
    """Calls a function somewhere else; the Deferred fires in the reactor thread."""

    def __call__(self, work: Callable[..., T], /, *args: Any) -> Deferred[T]: ...


class ThreadOffload:
    """An :class:`Offload` over threads of its own.

    :param reactor: an IReactorFromThreads.
    :param threads: how many calls run at a time; more wait in line.
    """

    def __init__(self, reactor: Any, threads: int, name: str) -> None:
        self._reactor = reactor
        self._pool = ThreadPool(1, threads, name)

    def __call__(self, work: Callable[..., T], /, *args: Any) -> Deferred[T]:
        if not self._pool.started:
            self._pool.start()
        return deferToThreadPool(self._reactor, self._pool, work, *args)

    def stop(self) -> None:
        """Finish the calls that run or wait, then end the threads. Blocks until then."""
        if self._pool.started:
            self._pool.stop()


def inline(work: Callable[..., T], /, *args: Any) -> Deferred[T]:
    """An :class:`Offload` that calls at once, for tests and tools without a reactor."""
    return maybeDeferred(work, *args)
