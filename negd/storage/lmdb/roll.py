"""The roll: record and kind of every event by its serial, in memory (58 bytes an event).

Posting lists name events by serials; this is what makes records of them without a look at the
events.  Serials are never given out twice, so an entry is right for readers of any transaction; an
event that is not here yet, or no longer, is found in the store itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from negd.nostr.filing import Filing
from negd.reconcile import RECORD_SIZE
from negd.storage.lmdb.postings import Mask, Rows, Serials, serials_in

_RECORD = np.dtype(f"V{RECORD_SIZE}")
"""A record in one piece: taken six times as fast as a row of bytes."""

_ROOM = 1 << 12
"""Entries for which there is room at first; it doubles when it is full."""

_MANY_GONE = 1 << 16
"""Removed events that may stay on the roll, however few there are besides."""

_SPARSE = 4
"""Serials to an entry, above which there is no table of their places."""

Kinds: TypeAlias = "npt.NDArray[np.uint16]"
Places: TypeAlias = "npt.NDArray[np.int32]"


class _Columns(NamedTuple):
    """Arrays with room at their ends. What is within ``length`` is never written to again.

    :ivar places: where each serial from the first one on has its entry; None where so many are
        gone that the serials are searched instead.
    """

    serials: Serials
    records: Rows
    kinds: Kinds
    length: int
    places: Places | None = None

    def widened(self, room: int) -> _Columns:
        """The same entries in arrays of another size."""
        wider = _Columns(
            np.empty(room, np.int64),
            np.empty((room, RECORD_SIZE), np.uint8),
            np.empty(room, np.uint16),
            self.length,
            self.places,
        )
        wider.serials[: self.length] = self.serials[: self.length]
        wider.records[: self.length] = self.records[: self.length]
        wider.kinds[: self.length] = self.kinds[: self.length]
        return wider

    def only(self, places: Serials) -> _Columns:
        """Some of the entries."""
        count = len(places)
        return _Columns(
            self.serials[places], self.records[places], self.kinds[places], count
        ).with_places(0)

    def with_places(self, old_length: int) -> _Columns:
        """With ``places`` right for all entries, where they were for the first ones."""
        serials = self.serials[: self.length]
        offsets = serials[old_length:] - serials[0]
        span = int(offsets[-1]) + 1
        if self.places is not None and span <= len(self.places):
            self.places[offsets] = np.arange(old_length, self.length)
            return self
        if span > _SPARSE * self.length + _ROOM:
            return self._replace(places=None)
        places = np.zeros(2 * span, np.int32)
        places[serials - serials[0]] = np.arange(self.length)
        return self._replace(places=places)

    def find(self, serials: Serials) -> Serials | Places:
        """Where the entries are, if they are there at all."""
        known = self.serials[: self.length]
        if self.places is None:
            return np.minimum(known.searchsorted(serials), self.length - 1)
        places: Places = self.places.take(serials - known[0], mode="clip")
        return places


class Roll:
    """Entries in ascending order of serials. One thread changes it, any may read it."""

    EMPTY: ClassVar[Roll]

    def __init__(self, serials: Serials, records: Rows, kinds: Kinds) -> None:
        """Take over these arrays; ``records`` has the shape (n, 40), ``serials`` ascend."""
        columns = _Columns(serials, records, kinds, len(serials))
        self._columns = columns.with_places(0) if len(serials) else columns
        self._gone: list[bytes] = []

    def find(self, serials: Serials) -> tuple[Rows, Kinds, Mask]:
        """Records and kinds of those events, and which of them are known; the others' mean
        nothing."""
        columns = self._columns
        if not columns.length:
            count = len(serials)
            return (
                np.empty((count, RECORD_SIZE), np.uint8),
                np.empty(count, np.uint16),
                np.zeros(count, bool),
            )
        places = columns.find(serials)
        found = columns.serials.take(places) == serials
        records = columns.records.view(_RECORD)[:, 0].take(places, mode="clip")
        return records.view(np.uint8).reshape(-1, RECORD_SIZE), columns.kinds.take(places), found

    def take(self, other: Roll) -> None:
        """Have the other's entries in place of these."""
        self._columns, self._gone = other._columns, []

    def add(self, new: Mapping[bytes, Filing]) -> None:
        """Enter new events by their serials, which are above all that were entered before."""
        if not new:
            return
        old = self._columns
        length = old.length + len(new)
        columns = old if length <= len(old.serials) else old.widened(max(_ROOM, 2 * length))
        records = b"".join([filing.record for filing in new.values()])
        columns.serials[old.length : length] = serials_in(new)
        rows = np.frombuffer(records, np.uint8).reshape(-1, RECORD_SIZE)
        columns.records[old.length : length] = rows
        columns.kinds[old.length : length] = [filing.kind for filing in new.values()]
        self._columns = columns._replace(length=length).with_places(old.length)

    def drop(self, gone: list[bytes]) -> None:
        """Say which events are removed, by serials; they leave the roll when they are as many as
        the rest."""
        self._gone += gone
        columns = self._columns
        if len(self._gone) > max(_MANY_GONE, columns.length // 2):
            serials = columns.serials[: columns.length]
            stay = np.flatnonzero(np.isin(serials, serials_in(self._gone), invert=True))
            self._columns = columns.only(stay) if len(stay) else Roll.EMPTY._columns
            self._gone = []


Roll.EMPTY = Roll(
    np.empty(0, np.int64), np.empty((0, RECORD_SIZE), np.uint8), np.empty(0, np.uint16)
)
