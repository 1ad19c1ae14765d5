"""Many id lists compared at once."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from negd.reconcile.arrays import Indices, Mask, Rows

_SPREAD = np.uint64(0x9E3779B97F4A7C15)
"""Odd, so that no two lists shift the ids they hold alike."""


def match(
    ours: Rows, our_lists: Indices, theirs: Rows, their_lists: Indices
) -> tuple[Mask, Mask] | None:
    """Which ids, shape (p, 32) and (q, 32), stand in the same list on both sides.

    Ids are matched by 64 of their bits and then compared whole.

    :returns: a mask over ours and one over theirs; None if some id shares its 64 bits with
        another, as a hostile list may have it: compare them one by one then.
    """
    hashes = np.concatenate((_hash(ours, our_lists), _hash(theirs, their_lists)))
    order = np.argsort(hashes)
    in_order = hashes[order]
    pairs = np.flatnonzero(in_order[1:] == in_order[:-1])
    first = np.minimum(order[pairs], order[pairs + 1])
    second = np.maximum(order[pairs], order[pairs + 1]) - len(ours)
    if (pairs[1:] == pairs[:-1] + 1).any() or (first >= len(ours)).any() or (second < 0).any():
        return None
    partners = np.full(len(theirs), -1)
    partners[second] = first
    theirs_matched = partners >= 0
    partners = partners[theirs_matched]
    if (our_lists[partners] != their_lists[theirs_matched]).any():
        return None
    if (_words(ours)[partners] != _words(theirs)[theirs_matched]).any():
        return None
    ours_matched = np.zeros(len(ours), np.bool_)
    ours_matched[partners] = True
    return ours_matched, theirs_matched


def _hash(ids: Rows, lists: Indices) -> npt.NDArray[np.uint64]:
    hashes: npt.NDArray[np.uint64] = _words(ids)[:, 0] + lists.astype(np.uint64) * _SPREAD
    return hashes


def _words(ids: Rows) -> npt.NDArray[np.uint64]:
    return ids.view(np.uint64)
