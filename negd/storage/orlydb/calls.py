"""The threads in which the database is called, and work that several callers wait for."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterable
from typing import Any, TypeVar, cast

from twisted.internet.defer import Deferred, DeferredList
from twisted.python.failure import Failure

from negd.storage.orlydb.database import Away
from negd.sync.offload import Stopped, ThreadOffload

T = TypeVar("T")


class Calls:
    """Runs blocking functions in threads.

    :param reactor: an IReactorFromThreads.
    """

    def __init__(self, reactor: Any, threads: int) -> None:
        self._offload = ThreadOffload(reactor, threads, "negd-orlydb")

    def __call__(self, work: Callable[..., T], *args: Any) -> Deferred[T]:
        """The result of ``work(*args)``; an error where all is closed."""
        return self._offload(work, *args).addErrback(self._explain)

    def _explain(self, failure: Failure) -> Failure:
        return Failure(Away("the store is closed")) if failure.check(Stopped) else failure

    async def stop(self) -> None:
        """Return once the calls under way are done; later ones fail."""
        await self._offload.stop()


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
