"""How late the reactor is: what a client of this node has to wait beyond its own turn."""

from __future__ import annotations

from collections import deque

from twisted.internet.interfaces import IDelayedCall, IReactorTime

_BEAT = 0.05
"""Seconds between two looks. A stall is seen as the lateness of the look that fell into it."""

_SPAN = 60
"""Seconds that are remembered."""


class Pulse:
    """Looks at the clock again and again, and remembers the worst delay of the last minute."""

    def __init__(self, clock: IReactorTime) -> None:
        self._clock = clock
        self._seconds: deque[tuple[int, float]] = deque(maxlen=_SPAN)
        self._due = 0.0
        self._next: IDelayedCall | None = None

    def start(self) -> None:
        """Begin to look."""
        self._due = self._clock.seconds() + _BEAT
        self._next = self._clock.callLater(_BEAT, self._look)

    def stop(self) -> None:
        """Look no more."""
        if self._next is not None:
            self._next.cancel()
            self._next = None

    @property
    def worst(self) -> float:
        """Seconds by which the reactor was late at most, in the last minute."""
        oldest = self._clock.seconds() - _SPAN
        return max((late for second, late in self._seconds if second >= oldest), default=0.0)

    def _look(self) -> None:
        now = self._clock.seconds()
        late, second = max(0.0, now - self._due), int(now)
        if self._seconds and self._seconds[-1][0] == second:
            late = max(late, self._seconds.pop()[1])
        self._seconds.append((second, late))
        self.start()
