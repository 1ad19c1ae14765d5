"""A reactor for tests of what works in threads: time stands still, threads report when asked."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from queue import SimpleQueue
from typing import Any, TypeVar

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorFromThreads
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from zope.interface import implementer

T = TypeVar("T")

_PATIENCE = 60.0


@implementer(IReactorFromThreads)
class ThreadedClock(Clock):
    """A :class:`Clock` to which threads can hand calls; :meth:`wait` carries them out."""

    def __init__(self, now: float = 0.0) -> None:
        super().__init__()
        self.rightNow = now
        self._calls: SimpleQueue[Callable[[], Any]] = SimpleQueue()

    def callFromThread(self, callable: Callable[..., Any], *args: Any, **kwargs: Any) -> None:
        """See IReactorFromThreads."""
        self._calls.put(lambda: callable(*args, **kwargs))

    def wait(self, awaitable: Awaitable[T]) -> T:
        """Its result, once the calls from threads have brought it about.

        :raises queue.Empty: no thread has called for a minute.
        """
        results: list[T | Failure] = []
        Deferred.fromCoroutine(_awaiting(awaitable)).addBoth(results.append)
        while not results:
            self._calls.get(timeout=_PATIENCE)()
        if isinstance(results[0], Failure):
            results[0].raiseException()
        return results[0]


async def _awaiting(awaitable: Awaitable[T]) -> T:
    return await awaitable
