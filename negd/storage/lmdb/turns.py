"""What the writer's thread has the reactor do, a little at a time."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from time import monotonic
from typing import TypeAlias

from twisted.internet.interfaces import IReactorFromThreads
from twisted.logger import Logger

_TURN = 0.005
"""Seconds after which others have their turn before the next call."""

Call: TypeAlias = Callable[[], object]

log = Logger()


class Turns:
    """Calls in the reactor's thread, in the order in which they came.

    What threads hand to a reactor is done in one go, however much it is: the results of one large
    transaction, and all that follows from them, kept everybody else waiting for up to 50 ms.
    """

    def __init__(self, reactor: IReactorFromThreads) -> None:
        self._reactor = reactor
        self._line: deque[Call] = deque()
        self._is_going_on = False

    def add(self, calls: Iterable[Call]) -> None:
        """Have these called. For any thread."""
        self._reactor.callFromThread(self._take, calls)

    def _take(self, calls: Iterable[Call]) -> None:
        self._line.extend(calls)
        if not self._is_going_on:
            self._go_on()

    def _go_on(self) -> None:
        ends = monotonic() + _TURN
        while self._line:
            call = self._line.popleft()
            try:
                call()
            except Exception:
                log.failure("what follows from a write failed")
            if monotonic() >= ends:
                break
        self._is_going_on = bool(self._line)
        if self._is_going_on:
            self._reactor.callFromThread(self._go_on)
