"""The ranges of an answer laid out as columns, and written as bytes."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from negd.reconcile.arrays import Indices, Mask, Rows, interleaved
from negd.reconcile.blocks import Block
from negd.reconcile.output import BUCKETS, FEW
from negd.reconcile.records import RecordSet
from negd.reconcile.varints import encode_varints
from negd.reconcile.wire import (
    FINGERPRINT,
    FINGERPRINT_SIZE,
    ID_LIST,
    ID_SIZE,
    INFINITY,
    SKIP,
)


class Layout(NamedTuple):
    """Consecutive ranges of an answer; every column has one entry for each.

    :ivar los: index of the first record of a range, ``his`` of the first behind it.
    :ivar bounds: upper bounds, shape (t, 40).
    :ivar prefix_sizes: how many bytes of the bound's id are written.
    :ivar offsets: what is written for the bound's timestamp: varints, shape (t, longest).
    :ivar counts: what is written for the count of ids.
    """

    modes: Indices
    los: Indices
    his: Indices
    bounds: Rows
    prefix_sizes: Indices
    offsets: Rows
    offset_sizes: Indices
    counts: Rows
    count_sizes: Indices

    def head(self, length: int) -> Layout:
        """The first ``length`` ranges."""
        heads = (column[:length] for column in self)
        return Layout(*heads)  # type: ignore[arg-type]

    def last_timestamp(self) -> int:
        return int.from_bytes(bytes(self.bounds[-1, :8]), "big")

    def sizes(self) -> Indices:
        """How many bytes each range takes."""
        ids = self.count_sizes + (self.his - self.los) * ID_SIZE
        sizes: Indices = self.offset_sizes + self.prefix_sizes + 2
        sizes += (self.modes == FINGERPRINT) * FINGERPRINT_SIZE + (self.modes == ID_LIST) * ids
        return sizes


def lay_out(
    records: RecordSet, block: Block, edges: Indices, spoken: Indices, after_skip: Mask, last: int
) -> tuple[Layout, Indices]:
    """How the ranges ``spoken`` of ``block`` are answered, and where each one's answer ends.

    :param edges: between which records the ranges of the block lie, shape (m + 1,).
    :param after_skip: of the ranges spoken, which need a skip before them.
    :param last: the timestamp of the bound written last.
    """
    counts = edges[spoken + 1] - edges[spoken]
    divided = (block.modes[spoken] == FINGERPRINT) & (counts >= FEW)
    pieces = np.where(divided, BUCKETS, 1)
    ends = np.cumsum(pieces + after_skip)
    of = np.repeat(np.arange(len(spoken)), pieces + after_skip)
    piece = np.arange(len(of)) - (ends - pieces)[of]  # -1 is the skip
    los, his = (edges[spoken][of] + part for part in _divide(counts, pieces, of, piece))
    modes = np.where(piece < 0, SKIP, np.where(divided[of], FINGERPRINT, ID_LIST))
    bound_of = spoken[of] + (piece >= 0)
    bounds, prefix_sizes = block.bounds[bound_of], block.prefix_sizes[bound_of]
    inner = np.flatnonzero((piece >= 0) & (piece < pieces[of] - 1))
    bounds[inner], prefix_sizes[inner] = _bounds_before(records, his[inner])
    offsets, offset_sizes = encode_varints(_offsets(bounds, last))
    ids, id_sizes = encode_varints(np.where(modes == ID_LIST, his - los, 0))
    layout = Layout(modes, los, his, bounds, prefix_sizes, offsets, offset_sizes, ids, id_sizes)
    return layout, ends


def encode(records: RecordSet, layout: Layout) -> bytes:
    """The bytes of the ranges."""
    is_fingerprint, is_list = layout.modes == FINGERPRINT, layout.modes == ID_LIST
    fingerprints = np.zeros((len(layout.modes), FINGERPRINT_SIZE), np.uint8)
    fingerprints[is_fingerprint] = records.fingerprints(
        layout.los[is_fingerprint], layout.his[is_fingerprint]
    )
    longest = int(layout.prefix_sizes.max())
    always = np.ones((len(layout.modes), 1), np.bool_)
    columns: list[tuple[Rows, Mask]] = [
        (layout.offsets, _at_right(layout.offsets, layout.offset_sizes)),
        (layout.prefix_sizes[:, None].astype(np.uint8), always),
        (layout.bounds[:, 8 : 8 + longest], np.arange(longest) < layout.prefix_sizes[:, None]),
        (layout.modes[:, None].astype(np.uint8), always),
        (fingerprints, np.broadcast_to(is_fingerprint[:, None], fingerprints.shape)),
        (layout.counts, _at_right(layout.counts, is_list * layout.count_sizes)),
    ]
    table = np.concatenate([values for values, _ in columns], axis=1)
    written = np.concatenate([mask for _, mask in columns], axis=1)
    heads: bytes = table[written].tobytes()
    if not is_list.any():
        return heads
    ends = np.cumsum(written.sum(axis=1))[is_list]
    return _with_ids(records, heads, ends, layout.los[is_list], layout.his[is_list])


def id_rows(records: RecordSet, los: Indices, his: Indices) -> Rows:
    """The ids of several ranges, one after another, shape (sum of his - los, 32)."""
    counts = his - los
    shifts = los - (np.cumsum(counts) - counts)
    indices = np.arange(counts.sum()) + np.repeat(shifts, counts)
    return records.rows(indices)[:, 8:]


def _with_ids(records: RecordSet, heads: bytes, ends: Indices, los: Indices, his: Indices) -> bytes:
    """``heads`` with the ids of each list put in where its head ends."""
    ids = id_rows(records, los, his).tobytes()
    ids_ends = (np.cumsum(his - los) * ID_SIZE).tolist()
    parts: list[bytes] = []
    at = ids_at = 0
    for end, ids_end in zip(ends.tolist(), ids_ends, strict=True):
        parts += heads[at:end], ids[ids_at:ids_end]
        at, ids_at = end, ids_end
    parts.append(heads[at:])
    return b"".join(parts)


def _at_right(values: Rows, sizes: Indices) -> Mask:
    width = values.shape[1]
    mask: Mask = np.arange(width) >= width - sizes[:, None]
    return mask


def _divide(
    counts: Indices, pieces: Indices, of: Indices, piece: Indices
) -> tuple[Indices, Indices]:
    """Where pieces begin and end: the first ``counts % pieces`` of a range are larger by one."""
    sizes, larger = np.divmod(counts, pieces)
    begins = piece * sizes[of] + np.minimum(piece, larger[of])
    ends = (piece + 1) * sizes[of] + np.minimum(piece + 1, larger[of])
    return begins, ends


def _bounds_before(records: RecordSet, indices: Indices) -> tuple[Rows, Indices]:
    """:func:`bound_before` of each: the record's row, and how much of its id is needed."""
    rows = records.rows(interleaved(indices - 1, indices))
    before, after = rows[0::2], rows[1::2]
    differs = (before != after).argmax(axis=1)
    return after, np.maximum(differs - 7, 0)


def _offsets(bounds: Rows, last: int) -> npt.NDArray[np.uint64]:
    timestamps = np.ascontiguousarray(bounds[:, :8]).view(">u8")[:, 0].astype(np.uint64)
    before = np.concatenate((np.array([last], np.uint64), timestamps[:-1]))
    offsets = timestamps - before + np.uint64(1)
    return np.where(timestamps == np.uint64(INFINITY), np.uint64(0), offsets)
