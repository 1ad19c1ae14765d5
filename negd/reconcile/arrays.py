"""Records and ids as numpy arrays."""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
import numpy.typing as npt

RECORD_SIZE = 40
"""``created_at`` as big-endian u64, then the 32-byte id: byte order is protocol order."""

KEY = np.dtype(f"S{RECORD_SIZE}")
"""numpy compares it as bytes, padded with zeros: the order of the protocol."""

PIECE = 1 << 15
"""Rows that one call of numpy goes through where it holds the interpreter: some 5 ms."""

Rows: TypeAlias = npt.NDArray[np.uint8]
"""Records, shape (n, 40), or ids, shape (n, 32)."""

Keys: TypeAlias = npt.NDArray[np.bytes_]
Indices: TypeAlias = npt.NDArray[np.int64]
Mask: TypeAlias = npt.NDArray[np.bool_]


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
    for begin in range(0, len(rows), PIECE):
        piece = np.ascontiguousarray(rows[begin : begin + PIECE])
        items += piece.view(f"V{rows.shape[1]}")[:, 0].tolist()
    return items


def interleaved(first: Indices, second: Indices) -> Indices:
    """One of each in turn."""
    both = np.empty(2 * len(first), np.int64)
    both[0::2] = first
    both[1::2] = second
    return both
