"""Several coroutines that succeed or fail as one."""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any

from twisted.internet.defer import Deferred, FirstError, gatherResults


async def together(*works: Coroutine[Deferred[Any], Any, Any]) -> None:
    """Run all to the end; the first failure, or being cancelled, cancels the others.

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
