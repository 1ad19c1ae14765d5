"""A stretch of sorted records with running sums over their ids."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

RECORD_SIZE = 40
"""``created_at`` as big-endian u64, then the 32-byte id: byte order is protocol order."""

LANES = 8
"""An id is added up as eight little-endian u32 lanes, each summed in u64."""

KEY = np.dtype(f"S{RECORD_SIZE}")
"""numpy compares it as bytes, padded with zeros: the order of the protocol."""

CHUNK = 1 << 15
"""Records in a chunk as a set is built: what one insert copies, against how many chunks a search
for many bounds visits."""

LARGEST_CHUNK = CHUNK * 3 // 2

Rows: TypeAlias = npt.NDArray[np.uint8]
"""Records, shape (n, 40)."""

Keys: TypeAlias = npt.NDArray[np.bytes_]
Lanes: TypeAlias = npt.NDArray[np.uint64]
Indices: TypeAlias = npt.NDArray[np.int64]
Mask: TypeAlias = "npt.NDArray[np.bool_]"


_NOTHING = np.zeros(LANES, np.uint64)


class Chunk:
    """Sorted, distinct records, never written to again.

    :ivar rows: the records, shape (n, 40); ``keys`` are the same bytes, shape (n,).
    :ivar stride: how many records one running sum covers: 1 in the fast form.
    :ivar sums: shape (n // stride + 1, 8): entry k sums the ids of the first k * stride records,
        on top of ``base``.
    :ivar base: shape (8,): nothing, but in a part of another chunk, which shares its sums.
    """

    __slots__ = ("base", "keys", "rows", "stride", "sums")

    def __init__(self, rows: Rows, stride: int, like: Chunk | None = None, same: int = 0) -> None:
        """Take over ``rows``.

        :param like: a chunk of the same stride that begins with the same ``same`` records: what
            it has added up is not added up again.
        """
        self.rows = rows
        self.rows.flags.writeable = False
        self.keys = as_keys(rows)
        self.stride = stride
        self.base: Lanes = _NOTHING if like is None else like.base
        steps, known = len(rows) // stride, same // stride
        self.sums = np.empty((steps + 1, LANES), np.uint64)
        self.sums[: known + 1] = self.base if like is None else like.sums[: known + 1]
        lanes = self._lanes(slice(known * stride, steps * stride))
        if stride > 1:
            lanes = lanes.reshape(-1, stride, LANES).sum(axis=1, dtype=np.uint64)
        self.sums[known + 1 :] = lanes
        np.cumsum(self.sums[known:], axis=0, out=self.sums[known:])

    def changed(self, rows: Rows, same: int) -> Chunk | Rows:
        """A chunk of ``rows``, the first ``same`` of which are ours, if they fit one."""
        return Chunk(rows, self.stride, self, same) if len(rows) <= LARGEST_CHUNK else rows

    def part(self, begin: int, end: int) -> Chunk | Rows:
        """The records of begin..end: shared with this chunk in the fast form, else rows only."""
        if self.stride > 1:
            return self.rows[begin:end]
        part = Chunk.__new__(Chunk)
        part.rows, part.keys, part.stride = self.rows[begin:end], self.keys[begin:end], 1
        part.sums, part.base = self.sums[begin : end + 1], self.sums[begin]
        return part

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def nbytes(self) -> int:
        return self.rows.nbytes + self.sums.nbytes

    @property
    def total(self) -> Lanes:
        """What all ids sum up to, shape (8,)."""
        total: Lanes = self.sum_before(len(self)) - self.base
        return total

    def sum_before(self, index: int) -> Lanes:
        """What the ids before ``index`` (0..n) sum up to, on top of ``base``, shape (8,)."""
        steps, rest = divmod(index, self.stride)
        total: Lanes = self.sums[steps]
        if rest:
            total = total + self._lanes(slice(index - rest, index)).sum(axis=0, dtype=np.uint64)
        return total

    def sums_before(self, indices: Indices, out: Lanes) -> None:
        """:meth:`sum_before` of each index, into ``out``, shape (m, 8)."""
        if self.stride == 1 or not len(self):
            self.sums.take(indices, axis=0, out=out, mode="clip")
            return
        steps, rest = np.divmod(indices, self.stride)
        ahead = np.arange(self.stride - 1)
        rows = np.minimum((steps * self.stride)[:, None] + ahead, len(self) - 1)
        tail = np.where((ahead < rest[:, None])[:, :, None], self._lanes(rows), np.uint32(0))
        np.add(self.sums[steps], tail.sum(axis=1, dtype=np.uint64), out=out)

    def keys_at(self, indices: Indices, out: Keys) -> None:
        """The keys at ``indices``, into ``out``; clipping spares numpy a buffer."""
        self.keys.take(indices, out=out, mode="clip")

    def _lanes(self, rows: slice | Indices) -> npt.NDArray[np.uint32]:
        return self.rows.view("<u4")[rows, 2:]


def as_keys(rows: Rows) -> Keys:
    """Contiguous records as one comparable item each."""
    return rows.reshape(-1).view(KEY)


def as_rows(keys: Keys) -> Rows:
    return keys.view(np.uint8).reshape(-1, RECORD_SIZE)


def as_bytes(rows: Rows) -> list[bytes]:
    """The rows of an array of shape (n, width), one object each; much quicker than slicing.

    Not all in one call, which would hold up all other threads for 0.2 s a million.
    """
    items: list[bytes] = []
    for begin in range(0, len(rows), CHUNK):
        piece = np.ascontiguousarray(rows[begin : begin + CHUNK])
        items += piece.view(f"V{rows.shape[1]}")[:, 0].tolist()
    return items


def interleaved(first: Indices, second: Indices) -> Indices:
    """One of each in turn."""
    both = np.empty(2 * len(first), np.int64)
    both[0::2] = first
    both[1::2] = second
    return both


def rechunked(pieces: Iterable[Chunk | Rows], stride: int, *, copies: bool = True) -> list[Chunk]:
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
            chunks.append(
                Chunk(piece.copy() if copies and piece.base is not None else piece, stride)
            )
        else:
            parts = np.array_split(piece, -(-len(piece) // CHUNK))
            chunks.extend(Chunk(part.copy() if copies else part, stride) for part in parts)
    return chunks


def _rows(piece: Chunk | Rows) -> Rows:
    return piece.rows if isinstance(piece, Chunk) else piece
