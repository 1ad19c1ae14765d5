"""Sorted arrays of 40-byte records: slices, unions and intersections with numpy."""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from negd.reconcile import RECORD_SIZE, RecordSet

Records: TypeAlias = "npt.NDArray[np.bytes_]"
"""Sorted, distinct; dtype S40, whose order is that of the bytes."""

KEY = np.dtype(f"S{RECORD_SIZE}")

EMPTY: Records = np.empty(0, KEY)


def keys_of(records: RecordSet) -> Records:
    """The records of a set."""
    return np.ascontiguousarray(records.to_array()).reshape(-1).view(KEY)


def between(records: Records, since: int | None, until: int | None) -> Records:
    """Those with ``since <= created_at <= until``; None is no bound."""
    lo = 0 if since is None else _first_at(records, since)
    hi = len(records) if until is None else _first_at(records, until + 1)
    return records[lo : max(lo, hi)]


def _first_at(records: Records, second: int) -> int:
    if second > 2**64 - 1:
        return len(records)
    return int(np.searchsorted(records, np.bytes_(second.to_bytes(8, "big"))))


def intersection(few: Records, many: Records) -> Records:
    """Those of ``few`` that are among ``many``."""
    if not len(many):
        return EMPTY
    at = np.searchsorted(many, few)
    at[at == len(many)] = 0
    found: Records = few[many[at] == few]
    return found


def difference(records: Records, gone: Records) -> Records:
    """Those of ``records`` that are not among ``gone``."""
    if not len(gone):
        return records
    at = np.searchsorted(gone, records)
    at[at == len(gone)] = 0
    left: Records = records[gone[at] != records]
    return left


def to_set(records: Records) -> RecordSet:
    """The records as an immutable set."""
    flat = np.ascontiguousarray(records).view(np.uint8).reshape(-1, RECORD_SIZE)
    return RecordSet.from_records(flat, is_sorted=True)


def as_list(records: Records) -> list[bytes]:
    """The records one by one, 40 bytes each; numpy's own items lose trailing zeros."""
    data = records.tobytes()
    return [data[at : at + RECORD_SIZE] for at in range(0, len(data), RECORD_SIZE)]
