"""Record sets: what one side holds, in protocol order, with fingerprints of any range in O(1)."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterator
from itertools import accumulate, pairwise
from typing import ClassVar, TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt

from negd.reconcile.arrays import (
    KEY,
    RECORD_SIZE,
    Indices,
    Keys,
    Rows,
    as_bytes,
    as_keys,
    as_rows,
    interleaved,
)
from negd.reconcile.chunk import Chunk, rechunked
from negd.reconcile.fingerprint import fingerprint_of, fingerprints_of
from negd.reconcile.ordering import Records, is_ascending, rows_of, sorted_distinct
from negd.reconcile.sums import LANES, Lanes
from negd.reconcile.wire import ID_SIZE, INFINITY

_T = TypeVar("_T", np.int64, np.uint64)

_Stretch: TypeAlias = tuple[int, int, int]
"""Number of a chunk, and which of some sorted items fall to it: begin, end."""

_Change: TypeAlias = Callable[[Chunk, Keys], Chunk | Rows]


def pack(created_at: int, event_id: bytes) -> bytes:
    """One 40-byte record.

    :raises ValueError: ``created_at`` is not in 0..2**64-2, or the id not 32 bytes.
    """
    if not 0 <= created_at < INFINITY:
        raise ValueError(f"created_at {created_at} is not in 0..2**64-2")
    if len(event_id) != ID_SIZE:
        raise ValueError(f"an id has 32 bytes, not {len(event_id)}")
    return created_at.to_bytes(8, "big") + event_id


class RecordSet:
    """Sorted, distinct records. Immutable: a snapshot is a reference.

    Indices count records from the oldest; ranges are half open. A changed set shares with the
    one it came from every chunk that holds no change.
    """

    EMPTY: ClassVar[RecordSet]

    __slots__ = ("_chunks", "_firsts", "_starts", "_totals")
    __hash__ = None  # type: ignore[assignment]

    def __init__(self, chunks: list[Chunk]) -> None:
        """Use :meth:`from_records`."""
        self._chunks = tuple(chunks) or (Chunk(np.empty((0, RECORD_SIZE), np.uint8)),)
        self._starts = [0, *accumulate(map(len, self._chunks))]
        self._totals = np.zeros((len(self._starts), LANES), np.uint64)
        np.cumsum([chunk.total for chunk in self._chunks], axis=0, out=self._totals[1:])
        self._totals[:-1] -= [chunk.base for chunk in self._chunks]
        self._firsts = np.array([bytes(chunk.rows[0]) for chunk in self._chunks[1:]], KEY)

    @classmethod
    def from_records(
        cls, data: Records, *, is_sorted: bool = False, owned: bool = False
    ) -> RecordSet:
        """A set of the records in ``data``: in any order and with duplicates unless ``is_sorted``.

        About 0.03 us a record if sorted, 0.1 us if not.

        :param owned: ``data``, an array that may be written to, is the set's from now on: put in
            order where it is, and all of it kept for as long as a part is in use. For sets that
            are soon dropped.
        :raises ValueError: the size is no multiple of 40, a timestamp is 2**64-1, or it is not
            in strictly ascending order though ``is_sorted``.
        """
        rows = rows_of(data)
        if is_sorted and not is_ascending(rows):
            raise ValueError("records are not sorted and distinct")
        rows = _unreserved(rows if is_sorted else sorted_distinct(rows, owned=owned))
        return cls(rechunked([rows], copies=not owned))

    def __len__(self) -> int:
        return self._starts[-1]

    def __contains__(self, record: object) -> bool:
        if not isinstance(record, bytes) or len(record) != RECORD_SIZE:
            return False
        at = self._find(record)
        return at < len(self) and self.record(at) == record

    def __iter__(self) -> Iterator[bytes]:
        for chunk in self._chunks:
            data = chunk.rows.tobytes()
            yield from (data[at : at + RECORD_SIZE] for at in range(0, len(data), RECORD_SIZE))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, RecordSet):
            return NotImplemented
        return self is other or np.array_equal(self.to_array(), other.to_array())

    def __repr__(self) -> str:
        return f"<RecordSet of {len(self)}>"

    @property
    def nbytes(self) -> int:
        """Memory held, in bytes; what is shared with other sets counts in full."""
        return sum(chunk.nbytes for chunk in self._chunks)

    # Changed sets.

    def insert(self, records: Records) -> RecordSet:
        """This set and ``records``, which come in any order; known ones are no matter.

        :raises ValueError: as :meth:`from_records`.
        """
        return self._changed(_unreserved(sorted_distinct(rows_of(records))), _with)

    def delete(self, records: Records) -> RecordSet:
        """This set without ``records``; unknown ones are no matter."""
        return self._changed(sorted_distinct(rows_of(records)), _without)

    def window(self, since: int | None, until: int | None) -> RecordSet:
        """The records with ``since <= created_at <= until``; None is no bound."""
        lo = 0 if since is None else self.find(since, b"")
        hi = len(self) if until is None else self.find(until + 1, b"")
        if lo == 0 and hi == len(self):
            return self
        return RecordSet(self._cut(lo, hi))

    def newest(self, n: int) -> RecordSet:
        """The ``n`` newest as NIP-01 orders: latest first, in one second the lowest id first."""
        if n >= len(self):
            return self
        if n <= 0:
            return RecordSet.EMPTY
        cut = len(self) - n
        second = int.from_bytes(self.record(cut)[:8], "big")
        begin, end = self.find(second, b""), self.find(second + 1, b"")
        return RecordSet(self._cut(begin, begin + end - cut) + self._cut(end, len(self)))

    # One at a time.

    def find(self, timestamp: int, id_prefix: bytes, lo: int = 0, hi: int | None = None) -> int:
        """Index of the first record in lo..hi not below the bound; ``hi`` if there is none."""
        hi = len(self) if hi is None else hi
        if timestamp >= INFINITY:
            return hi
        if timestamp < 0:
            return lo
        return max(lo, min(hi, self._find(timestamp.to_bytes(8, "big") + id_prefix)))

    def fingerprint(self, lo: int, hi: int) -> bytes:
        """The fingerprint of lo..hi, 16 bytes."""
        return fingerprint_of(self._sum_before(hi) - self._sum_before(lo), hi - lo)

    def ids(self, lo: int, hi: int) -> bytes:
        """The ids of lo..hi, 32 bytes each, one after another."""
        pieces = [chunk.rows[begin:end, 8:] for chunk, begin, end in self._pieces(lo, hi)]
        return b"".join(map(Rows.tobytes, pieces))

    def each_id(self, lo: int, hi: int) -> Iterator[bytes]:
        """The ids of lo..hi one by one; no step of it takes long, however many they are."""
        for chunk, begin, end in self._pieces(lo, hi):
            yield from as_bytes(chunk.rows[begin:end, 8:])

    def held_ids(self, ids: set[bytes], lo: int, hi: int) -> set[bytes]:
        """Those of ``ids`` that a record of lo..hi has; for a few of them some 10 ns a record."""
        held: set[bytes] = set()
        if not ids:
            return held
        beginnings = np.zeros(1 << 16, np.bool_)
        beginnings[[int.from_bytes(event_id[:2], "little") for event_id in ids]] = True
        for chunk, begin, end in self._pieces(lo, hi):
            rows = chunk.rows[begin:end, 8:]
            held |= ids.intersection(as_bytes(rows[beginnings[rows.view("<u2")[:, 0]]]))
        return held

    def record(self, index: int) -> bytes:
        """One 40-byte record."""
        number = self._chunk_of(index)
        return bytes(self._chunks[number].rows[index - self._starts[number]])

    def to_array(self) -> Rows:
        """All records, shape (n, 40); it may be read-only."""
        if len(self._chunks) == 1:
            return self._chunks[0].rows
        return np.concatenate([chunk.rows for chunk in self._chunks])

    # Many at a time: keys and indices are given in ascending order.

    def find_many(self, keys: Keys) -> Indices:
        """For each key, the index of the first record not below it."""
        found = np.empty(len(keys), np.int64)
        stretches = _stretches(keys.searchsorted(self._firsts), len(keys))
        for number, begin, end in stretches:
            found[begin:end] = self._chunks[number].keys.searchsorted(keys[begin:end])
        return found + self._starts_of(stretches)

    def rows(self, indices: Indices) -> Rows:
        """The records at ``indices``, shape (m, 40)."""
        keys = np.empty(len(indices), KEY)
        stretches = self._by_chunk(indices)
        local = indices - self._starts_of(stretches)
        for number, begin, end in stretches:
            self._chunks[number].keys_at(local[begin:end], keys[begin:end])
        return as_rows(keys)

    def fingerprints(self, los: Indices, his: Indices) -> Rows:
        """The fingerprints of the ranges los[i]..his[i], shape (m, 16).

        The ranges come in order and do not overlap: los[i] <= his[i] <= los[i + 1].
        """
        sums = self._sums_before(interleaved(los, his))
        return fingerprints_of(sums[1::2] - sums[0::2], his - los)

    def _sums_before(self, indices: Indices) -> Lanes:
        sums = np.empty((len(indices), LANES), np.uint64)
        stretches = self._by_chunk(indices)
        local = indices - self._starts_of(stretches)
        for number, begin, end in stretches:
            self._chunks[number].sums_before(local[begin:end], sums[begin:end])
        sums += _spread(self._totals, stretches)
        return sums

    def _by_chunk(self, indices: Indices) -> list[_Stretch]:
        return _stretches(indices.searchsorted(self._starts[1:-1]), len(indices))

    def _starts_of(self, stretches: list[_Stretch]) -> Indices:
        return _spread(np.array(self._starts), stretches)

    def _find(self, key: bytes) -> int:
        number = int(np.searchsorted(self._firsts, np.bytes_(key), "right"))
        local = np.searchsorted(self._chunks[number].keys, np.bytes_(key))
        return self._starts[number] + int(local)

    def _chunk_of(self, index: int) -> int:
        return bisect_right(self._starts, index, 0, len(self._chunks)) - 1

    def _sum_before(self, index: int) -> Lanes:
        number = self._chunk_of(index)
        local = self._chunks[number].sum_before(index - self._starts[number])
        total: Lanes = self._totals[number] + local
        return total

    def _pieces(self, lo: int, hi: int) -> Iterator[tuple[Chunk, int, int]]:
        """The chunks of lo..hi and the part of each that lies in it."""
        for number in range(self._chunk_of(lo), len(self._chunks)):
            start, chunk = self._starts[number], self._chunks[number]
            if start >= hi:
                break
            yield chunk, max(lo - start, 0), min(hi - start, len(chunk))

    def _cut(self, lo: int, hi: int) -> list[Chunk]:
        """The chunks of lo..hi, and parts of those it divides."""
        return [
            chunk if end - begin == len(chunk) else chunk.part(begin, end)
            for chunk, begin, end in self._pieces(lo, hi)
            if begin < end
        ]

    def _changed(self, rows: Rows, change: _Change) -> RecordSet:
        keys = as_keys(rows)
        pieces: list[Chunk | Rows] = list(self._chunks)
        for number, begin, end in _stretches(keys.searchsorted(self._firsts), len(keys)):
            pieces[number] = change(self._chunks[number], keys[begin:end])
        if all(old is new for old, new in zip(self._chunks, pieces, strict=True)):
            return self
        return RecordSet(rechunked(pieces))


def _with(chunk: Chunk, keys: Keys) -> Chunk | Rows:
    places, known = _look_up(chunk, keys)
    if known.all():
        return chunk
    places, new = places[~known], as_rows(keys[~known])
    return chunk.changed(np.insert(chunk.rows, places, new, axis=0))


def _without(chunk: Chunk, keys: Keys) -> Chunk | Rows:
    places, known = _look_up(chunk, keys)
    if not known.any():
        return chunk
    return chunk.changed(np.delete(chunk.rows, places[known], axis=0))


def _look_up(chunk: Chunk, keys: Keys) -> tuple[Indices, npt.NDArray[np.bool_]]:
    """Where each key is or would be, and whether it is there."""
    places = np.searchsorted(chunk.keys, keys)
    known = np.zeros(len(keys), np.bool_)
    inside = places < len(chunk)
    known[inside] = chunk.keys[places[inside]] == keys[inside]
    return places, known


def _stretches(cuts: Indices, total: int) -> list[_Stretch]:
    """Which of ``total`` sorted items fall to which chunk."""
    edges = [0, *cuts.tolist(), total]
    return [
        (number, begin, end) for number, (begin, end) in enumerate(pairwise(edges)) if begin < end
    ]


def _spread(of_chunks: npt.NDArray[_T], stretches: list[_Stretch]) -> npt.NDArray[_T]:
    """What belongs to the chunk of each item."""
    numbers = [number for number, _, _ in stretches]
    return np.repeat(of_chunks[numbers], [end - begin for _, begin, end in stretches], axis=0)


def _unreserved(rows: Rows) -> Rows:
    if len(rows) and (rows[-1, :8] == 0xFF).all():
        raise ValueError("created_at 2**64-1 is reserved")
    return rows


RecordSet.EMPTY = RecordSet([])
