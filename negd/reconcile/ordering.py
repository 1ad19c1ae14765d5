"""Records put in protocol order."""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from negd.reconcile.chunk import RECORD_SIZE, Rows, as_keys, as_rows

Records: TypeAlias = bytes | bytearray | memoryview | Rows
"""Records one after another, or a u8 array of shape (n, 40) or (n * 40,)."""


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
    keys = as_keys(rows)
    return bool((keys[1:] > keys[:-1]).all())


def sorted_distinct(rows: Rows) -> Rows:
    """``rows`` in order, each once; the same array if they are."""
    if is_ascending(rows):
        return rows
    keys = as_keys(rows)[np.argsort(_coarse_order(rows))]
    if not (keys[1:] >= keys[:-1]).all():
        keys.sort()
    distinct = np.ones(len(keys), np.bool_)
    distinct[1:] = keys[1:] != keys[:-1]
    return as_rows(keys if distinct.all() else keys[distinct])


def _coarse_order(rows: Rows) -> npt.NDArray[np.uint64]:
    """64 bits of each record that nearly always order it: numpy sorts integers much faster.

    The timestamp's distance from the earliest, then as much of the id as there is room for.
    """
    heads = np.ascontiguousarray(rows[:, :16]).view(">u8").astype(np.uint64)
    offsets = heads[:, 0] - heads[:, 0].min()
    bits = min(max(int(offsets.max()).bit_length(), 1), 63)
    coarse: npt.NDArray[np.uint64] = offsets << np.uint64(64 - bits)
    coarse |= heads[:, 1] >> np.uint64(bits)
    return coarse
