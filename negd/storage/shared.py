"""Work that several ask for while it is being done."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure


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
