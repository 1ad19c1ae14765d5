"""A stretch of sorted records with running sums over their ids."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from negd.reconcile.arrays import Indices, Keys, Rows, as_keys
from negd.reconcile.sums import Lanes, RunningSums

CHUNK = 1 << 15
"""Records in a chunk as a set is built: what one insert copies, against how many chunks a search
for many bounds visits."""

LARGEST_CHUNK = CHUNK * 3 // 2


class Chunk:
    """Sorted, distinct records, never written to again.

    :ivar rows: the records, shape (n, 40); ``keys`` are the same bytes, shape (n,).
    :ivar base: what :meth:`sum_before` is on top of, shape (8,): nothing, but in a part of another
        chunk, which shares its sums.
    """

    __slots__ = ("_begin", "_sums", "base", "keys", "rows")

    def __init__(self, rows: Rows, within: tuple[RunningSums, int] | None = None) -> None:
        """Take over ``rows``.

        :param within: sums of more records, and at which of them these begin.
        """
        self.rows = rows
        self.rows.flags.writeable = False
        self.keys = as_keys(rows)
        self._sums, self._begin = within or (RunningSums(rows), 0)
        self.base = self._sums.before(self._begin)

    def changed(self, rows: Rows) -> Chunk | Rows:
        """A chunk of ``rows``, if they fit one."""
        return Chunk(rows) if len(rows) <= LARGEST_CHUNK else rows

    def part(self, begin: int, end: int) -> Chunk:
        """The records of begin..end, which share everything with these."""
        return Chunk(self.rows[begin:end], (self._sums, self._begin + begin))

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def nbytes(self) -> int:
        """The most that it comes to take."""
        return self.rows.nbytes + RunningSums.most_bytes(len(self))

    @property
    def total(self) -> Lanes:
        """What all ids sum up to, shape (8,)."""
        total: Lanes = self.sum_before(len(self)) - self.base
        return total

    def sum_before(self, index: int) -> Lanes:
        """What the ids before ``index`` (0..n) sum up to, on top of ``base``, shape (8,)."""
        return self._sums.before(self._begin + index)

    def sums_before(self, indices: Indices, out: Lanes) -> None:
        """:meth:`sum_before` of each index, into ``out``, shape (m, 8)."""
        self._sums.before_many(self._begin + indices, out)

    def keys_at(self, indices: Indices, out: Keys) -> None:
        """The keys at ``indices``, into ``out``; clipping spares numpy a buffer."""
        self.keys.take(indices, out=out, mode="clip")


def rechunked(pieces: Iterable[Chunk | Rows], *, copies: bool = True) -> list[Chunk]:
    """Chunks of these consecutive records: small neighbours joined, large ones divided.

    A :class:`Chunk` that is neither stays the object it is.

    :param copies: whether rows that are part of an array leave it, so that it can be freed.
    """
    joined: list[Chunk | Rows] = []
    for piece in pieces:
        if joined and len(joined[-1]) + len(piece) <= CHUNK:
            joined[-1] = np.concatenate((_rows(joined[-1]), _rows(piece)))
        elif len(piece):
            joined.append(piece)
    chunks: list[Chunk] = []
    for piece in joined:
        if isinstance(piece, Chunk):
            chunks.append(piece)
        elif len(piece) <= LARGEST_CHUNK:
            chunks.append(Chunk(piece.copy() if copies and piece.base is not None else piece))
        else:
            parts = np.array_split(piece, -(-len(piece) // CHUNK))
            chunks.extend(Chunk(part.copy() if copies else part) for part in parts)
    return chunks


def _rows(piece: Chunk | Rows) -> Rows:
    return piece.rows if isinstance(piece, Chunk) else piece
