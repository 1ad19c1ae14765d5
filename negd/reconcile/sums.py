"""Running sums over the ids of sorted records: what makes a fingerprint of any range cheap."""

from __future__ import annotations

from typing import NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from negd.reconcile.arrays import Indices, Rows

LANES = 8
"""An id is added up as eight little-endian u32 lanes, each summed in u64."""

_WORDS = 10
"""u32 words of a record, the last eight of which are its id's lanes."""

_COARSE = 8
"""Records to one sum at first."""

_REFINED_AT = 64
"""A set that was asked for one sum in so many records keeps all of them from then on: until then
what it took to add up the records between costs less than to keep all."""

Lanes: TypeAlias = npt.NDArray[np.uint64]


class _Kept(NamedTuple):
    """``sums[k]`` is of the first ``k * stride`` records, shape (n // stride + 1, 8)."""

    stride: int
    sums: Lanes

    @classmethod
    def of(cls, words: npt.NDArray[np.uint32], stride: int) -> _Kept:
        """Add up column by column, which numpy does three times as fast as group by group."""
        steps = len(words) // stride
        groups = words[: steps * stride].reshape(steps, stride * _WORDS)
        sums = np.zeros((steps + 1, LANES), np.uint64)
        for first in range(_WORDS - LANES, stride * _WORDS, _WORDS):
            sums[1:] += groups[:, first : first + LANES]
        np.cumsum(sums, axis=0, out=sums)
        return cls(stride, sums)


class RunningSums:
    """The sum of the ids of the first n of some records, for any n.

    Every 8th is kept at first, in 8 bytes a record; all of them, in 64 bytes a record, where many
    are asked for. Threads may use them side by side.
    """

    __slots__ = ("_asked", "_kept", "_words")

    def __init__(self, rows: Rows) -> None:
        """Of these contiguous records, shape (n, 40), which never change."""
        self._words = rows.view("<u4")
        self._kept = _Kept.of(self._words, _COARSE)
        self._asked = 0

    @staticmethod
    def most_bytes(records: int) -> int:
        """What the sums over so many records take at most."""
        return (records + 1) * LANES * 8

    def before(self, index: int) -> Lanes:
        """What the ids before ``index`` (0..n) sum up to, shape (8,)."""
        kept = self._kept
        steps, rest = divmod(index, kept.stride)
        total: Lanes = kept.sums[steps].copy()
        if rest:
            total += self._words[index - rest : index, -LANES:].sum(axis=0, dtype=np.uint64)
        return total

    def before_many(self, indices: Indices, out: Lanes) -> None:
        """:meth:`before` of each index, into ``out``, shape (m, 8)."""
        kept = self._asked_for(len(indices))
        if kept.stride == 1:
            kept.sums.take(indices, axis=0, out=out, mode="clip")  # clipping spares a buffer
            return
        steps, rest = np.divmod(indices, kept.stride)
        ahead = np.arange(kept.stride - 1)
        near = np.minimum((indices - rest)[:, None] + ahead, len(self._words) - 1)
        lanes = self._words[near, -LANES:] * (ahead < rest[:, None])[:, :, None]
        np.add(kept.sums[steps], lanes.sum(axis=1, dtype=np.uint64), out=out)

    def _asked_for(self, count: int) -> _Kept:
        """What to find that many sums in."""
        self._asked += count
        if self._kept.stride > 1 and self._asked * _REFINED_AT >= len(self._words):
            self._kept = _Kept.of(self._words, 1)
        return self._kept
