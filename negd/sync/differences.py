"""Ids on their way from the reconciliation to the transfer of their events."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Iterable, Sequence

from twisted.internet.defer import Deferred

from negd.reconcile import Ids
from negd.sync.budget import Allowance

_REMEMBERED = 400
"""Ids that begin with the same byte and of which it is known that they have been found: of all,
some 100,000. A table of that size takes 50 ms each time that it has to be made anew; 256 of them
do so one by one."""

_BLOCK = 1000
"""Ids of a block of a line, to which no further ones are joined."""


class Line:
    """Ids in line for any number of takers.

    :param allowance: how many may be taken; without one, all.
    :ivar is_deserted: whether nobody takes any more.
    """

    def __init__(self, allowance: Allowance | None = None) -> None:
        self._allowance = allowance or Allowance()
        self._line: deque[Ids] = deque()
        self._taken = 0
        self._length = 0
        self._finished = False
        self.is_deserted = False
        self._takers: deque[Deferred[None]] = deque()
        self._putters: list[Deferred[None]] = []
        self._roomy = 0

    def __len__(self) -> int:
        return self._length

    def put(self, ids: Iterable[bytes]) -> None:
        """Put ids in line."""
        block = Ids(ids)
        if block:
            self._length += len(block)
            if self._line and len(self._line[-1]) < _BLOCK:
                self._line[-1].extend(block)
            else:
                self._line.append(block)
        self._wake()

    def put_back(self, ids: Sequence[bytes]) -> None:
        """Put ids in line once more that were taken, and have not moved."""
        self._allowance.give_back(len(ids))
        self.put(ids)

    def take_back(self) -> list[bytes]:
        """All that is left in line, whatever may be taken."""
        return self._first(self._length)

    def finish(self) -> None:
        """Nothing new comes any more: takers get what is left, then nothing."""
        self._finished = True
        self._wake()

    async def take(self, most: int) -> list[bytes]:
        """Up to ``most`` ids; waits for the first. Empty once all is taken that may be."""
        while not self._length and not self._finished:
            ready: Deferred[None] = Deferred(self._takers.remove)
            self._takers.append(ready)
            await ready
        return self.take_ready(most)

    def take_ready(self, most: int) -> list[bytes]:
        """Up to ``most`` ids of those in line now."""
        granted = self._allowance.grant(min(most, self._length))
        taken = self._first(granted)
        if not granted or self._length <= self._roomy:
            self._make_room()
        return taken

    def _first(self, count: int) -> list[bytes]:
        """Take that many ids off the line, which has them."""
        first: list[bytes] = []
        while len(first) < count:
            block = self._line[0]
            part = block[self._taken : self._taken + count - len(first)]
            first += part
            self._taken += len(part)
            if self._taken == len(block):
                self._line.popleft()
                self._taken = 0
        self._length -= count
        return first

    def desert(self) -> None:
        """Nobody takes any more: there is no use in waiting for room."""
        self.is_deserted = True
        self._make_room()

    async def drained(self, most: int) -> None:
        """Return once no more than so many ids are in line, or no more will be taken.

        For one waiter at a time.
        """
        if self._length > most and not self.is_deserted:
            self._roomy = most
            room: Deferred[None] = Deferred(self._putters.remove)
            self._putters.append(room)
            await room

    def _make_room(self) -> None:
        putters, self._putters = self._putters, []
        for putter in putters:
            putter.callback(None)

    def _wake(self) -> None:
        while self._takers and (self._length or self._finished):
            self._takers.popleft().callback(None)


class Differences(Line):
    """A line that an id enters once, even if it is found again soon.

    With a frame limit a peer may report an id in more than one round.  Only the latest so many
    are remembered, so that memory stays bounded: an id that comes back later is fetched or sent
    once more, which does no harm.

    :param moves: whether events are to move this way; else ids are only counted.
    """

    def __init__(self, allowance: Allowance | None = None, moves: bool = True) -> None:
        super().__init__(allowance)
        self._moves = moves
        self._found: list[OrderedDict[bytes, None]] = [OrderedDict() for _ in range(256)]

    def add(self, ids: Iterable[bytes]) -> int:
        """Put the ids in line that were not found before; how many that were."""
        fresh = [event_id for event_id in ids if self._is_new(event_id)]
        if self._moves:
            self.put(fresh)
        return len(fresh)

    def _is_new(self, event_id: bytes) -> bool:
        found = self._found[event_id[0]]
        if event_id in found:
            return False
        found[event_id] = None
        if len(found) > _REMEMBERED:
            found.popitem(last=False)
        return True
