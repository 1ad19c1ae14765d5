"""Records put in protocol order."""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from negd.reconcile.arrays import RECORD_SIZE, Indices, Keys, Rows, as_keys, as_rows

Records: TypeAlias = bytes | bytearray | memoryview | Rows
"""Records one after another, or a u8 array of shape (n, 40) or (n * 40,)."""

Seconds: TypeAlias = npt.NDArray[np.uint64]


def rows_of(data: Records) -> Rows:
    """``data`` as an array of shape (n, 40), which shares its memory.

    :raises ValueError: it is no array of bytes, or its size no multiple of 40.
    """
    flat = data if isinstance(data, np.ndarray) else np.frombuffer(data, np.uint8)
    if flat.dtype != np.uint8 or flat.size % RECORD_SIZE:
        raise ValueError("records are 40 bytes each")
    return np.ascontiguousarray(flat).reshape(-1, RECORD_SIZE)


def is_ascending(rows: Rows) -> bool:
    """Whether ``rows`` are sorted and distinct."""
    seconds = _seconds(rows)
    return _ascends(seconds) and _is_strict(as_keys(rows)[_tied(seconds)])


def sorted_distinct(rows: Rows, *, owned: bool = False) -> Rows:
    """``rows`` in order, each once; the same array if they are.

    :param owned: whether they may be moved within their array.

    Quickest where the seconds ascend, in whatever order the ids of one second are.
    """
    seconds = _seconds(rows)
    if not _ascends(seconds):
        rows = as_rows(as_keys(rows)[np.argsort(_coarse_order(rows))])
        seconds = _seconds(rows)
    tied = _tied(seconds)
    doubtful = as_keys(rows)[tied]
    if _is_strict(doubtful):
        return rows
    ordered = doubtful[np.argsort(_coarse_order(as_rows(doubtful)))]
    if not _is_strict(ordered):
        ordered.sort()
    keys = as_keys(rows if owned else rows.copy())
    keys[tied] = ordered
    distinct = np.ones(len(keys), np.bool_)
    distinct[tied[1:][ordered[1:] == ordered[:-1]]] = False
    return as_rows(keys if distinct.all() else keys[distinct])


def _seconds(rows: Rows) -> Seconds:
    """The timestamps as numbers of this machine: compared ten times as fast as keys."""
    seconds: Seconds = rows.view(">u8")[:, 0].astype(np.uint64)
    return seconds


def _ascends(seconds: Seconds) -> bool:
    return bool((seconds[1:] >= seconds[:-1]).all())


def _is_strict(keys: Keys) -> bool:
    return bool((keys[1:] > keys[:-1]).all())


def _tied(seconds: Seconds) -> Indices:
    """Where a neighbour has the same second: only there the ids decide."""
    same = seconds[1:] == seconds[:-1]
    tied = np.zeros(len(seconds), np.bool_)
    tied[1:] = same
    tied[:-1] |= same
    return np.flatnonzero(tied)


def _coarse_order(rows: Rows) -> Seconds:
    """64 bits of each record that order the seconds, and nearly always the ids.

    The timestamp's distance from the earliest, then as much of the id as there is room for: numpy
    sorts integers much faster.
    """
    coarse = _seconds(rows)
    coarse -= coarse.min()
    bits = int(coarse.max()).bit_length()
    coarse <<= np.uint64(64 - bits)  # numpy shifts all bits out where they are 64
    coarse |= rows.view(">u8")[:, 1].astype(np.uint64) >> np.uint64(bits)
    return coarse
