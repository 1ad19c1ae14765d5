"""The roll: id and kind of every event by its serial, in memory (42 bytes an event).

Posting lists name events by serials; this is what makes records of them without a look at the
events.  Serials are never given out twice, so an entry is right for readers of any transaction; an
event that is not here yet, or no longer, is found in the store itself.
"""

from __future__ import annotations

from typing import ClassVar, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from negd.storage.lmdb.postings import Mask, Rows, Serials

_ROOM = 1 << 12
"""Entries for which there is room at first; it doubles when it is full."""

_MANY_GONE = 1 << 16
"""Removed events that may stay on the roll, however few there are besides."""


Kinds: TypeAlias = "npt.NDArray[np.uint16]"


class _Columns(NamedTuple):
    """Arrays with room at their ends. What is within ``length`` is never written to again."""

    serials: Serials
    ids: Rows
    kinds: Kinds
    length: int

    def widened(self, room: int) -> _Columns:
        """The same entries in arrays of another size."""
        wider = _Columns(
            np.empty(room, np.int64),
            np.empty((room, 32), np.uint8),
            np.empty(room, np.uint16),
            self.length,
        )
        wider.serials[: self.length] = self.serials[: self.length]
        wider.ids[: self.length] = self.ids[: self.length]
        wider.kinds[: self.length] = self.kinds[: self.length]
        return wider

    def only(self, places: Serials) -> _Columns:
        """Some of the entries."""
        return _Columns(self.serials[places], self.ids[places], self.kinds[places], len(places))


class Roll:
    """Entries in ascending order of serials. One thread changes it, any may read it."""

    EMPTY: ClassVar[Roll]

    def __init__(self, serials: Serials, ids: Rows, kinds: Kinds) -> None:
        """Take over these arrays; ``ids`` has the shape (n, 32), ``serials`` ascend."""
        self._columns = _Columns(serials, ids, kinds, len(serials))
        self._gone: list[int] = []

    def find(self, serials: Serials) -> tuple[Rows, Kinds, Mask]:
        """Ids and kinds of those events, and which of them are known; the others' mean nothing."""
        columns = self._columns
        if not columns.length:
            count = len(serials)
            return (
                np.empty((count, 32), np.uint8),
                np.empty(count, np.uint16),
                np.zeros(count, bool),
            )
        known = columns.serials[: columns.length]
        places = np.minimum(known.searchsorted(serials), columns.length - 1)
        found = known[places] == serials
        return columns.ids.take(places, axis=0), columns.kinds.take(places), found

    def take(self, other: Roll) -> None:
        """Have the other's entries in place of these."""
        self._columns, self._gone = other._columns, []

    def add(self, new: list[tuple[int, bytes, int]]) -> None:
        """Enter new events: serial, id and kind of each, above all that were entered before."""
        if not new:
            return
        old = self._columns
        length = old.length + len(new)
        columns = old if length <= len(old.serials) else old.widened(max(_ROOM, 2 * length))
        serials, ids, kinds = zip(*new, strict=True)
        columns.serials[old.length : length] = serials
        columns.ids[old.length : length] = np.frombuffer(b"".join(ids), np.uint8).reshape(-1, 32)
        columns.kinds[old.length : length] = kinds
        self._columns = columns._replace(length=length)

    def drop(self, gone: list[int]) -> None:
        """Say which events are removed; they leave the roll when they are as many as the rest."""
        self._gone += gone
        columns = self._columns
        if len(self._gone) > max(_MANY_GONE, columns.length // 2):
            serials = columns.serials[: columns.length]
            stay = np.flatnonzero(np.isin(serials, self._gone, invert=True))
            self._columns = columns.only(stay)
            self._gone = []


Roll.EMPTY = Roll(np.empty(0, np.int64), np.empty((0, 32), np.uint8), np.empty(0, np.uint16))
