"""Ids on their way from the reconciliation to the transfer of their events."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

from twisted.internet.defer import Deferred


class Differences:
    """A line of distinct ids with one producer and any number of takers.

    An id is let in once, however often it is found: with a frame limit a peer may report an id
    in several rounds (DESIGN: collect in sets).
    """

    def __init__(self) -> None:
        self._found: set[bytes] = set()
        self._line: deque[bytes] = deque()
        self._finished = False
        self._takers: deque[Deferred[None]] = deque()

    def add(self, ids: Iterable[bytes]) -> int:
        """Put ids in line; how many of them were new."""
        before = len(self._found)
        for event_id in ids:
            if event_id not in self._found:
                self._found.add(event_id)
                self._line.append(event_id)
        self._wake()
        return len(self._found) - before

    def put_back(self, ids: Iterable[bytes]) -> None:
        """Put ids that were taken in line once more."""
        self._line.extend(ids)
        self._wake()

    def finish(self) -> None:
        """Nothing is added any more: takers get what is left, then nothing."""
        self._finished = True
        self._wake()

    async def take(self, most: int) -> list[bytes]:
        """Up to ``most`` ids; waits for the first, and is empty once all is taken."""
        while not self._line and not self._finished:
            ready: Deferred[None] = Deferred(self._takers.remove)
            self._takers.append(ready)
            await ready
        return self.take_ready(most)

    def take_ready(self, most: int) -> list[bytes]:
        """Up to ``most`` ids of those in line now."""
        return [self._line.popleft() for _ in range(min(most, len(self._line)))]

    def _wake(self) -> None:
        while self._takers and (self._line or self._finished):
            self._takers.popleft().callback(None)
