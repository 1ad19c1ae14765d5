"""Several coroutines that succeed or fail as one, and such as are not left half done."""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any, TypeVar

from twisted.internet.defer import CancelledError, Deferred, DeferredList, FirstError, gatherResults

T = TypeVar("T")


async def together(*works: Coroutine[Deferred[Any], Any, Any]) -> None:
    """Run all to the end; the first failure, or being cancelled, cancels the others.

    Whatever becomes of them, all have ended when this has.

    :raises Exception: the first failure, as it was raised.
    """
    running = [Deferred.fromCoroutine(work) for work in works]
    try:
        await gatherResults(running, consumeErrors=True)
    except FirstError as first:
        first.subFailure.raiseException()
    finally:
        for work in running:
            work.cancel()
        await seen_through(DeferredList(running, consumeErrors=True))


async def seen_through(work: Deferred[T]) -> T:
    """What comes of work that is not cancelled with whoever waits for it.

    :raises CancelledError: the waiting was cancelled, and the work has ended since.
    :raises Exception: as the work raised it.
    """
    ended = _Uncancelled[T]()
    work.chainDeferred(ended)
    try:
        return await ended
    finally:
        if ended.was_cancelled:
            raise CancelledError


class _Uncancelled(Deferred[T]):
    """Fires in its own time.

    :ivar was_cancelled: whether it should have been before.
    """

    was_cancelled = False

    def cancel(self) -> None:
        self.was_cancelled = True
