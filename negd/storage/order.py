"""The order in which relays list events (NIP-01): newest first, in one second the lowest id."""

from __future__ import annotations

import numpy as np

from negd.reconcile import RECORD_SIZE, RecordSet

LATEST = 2**64 - 1
"""No record is of a later second than this."""


def listing_key(record: bytes) -> bytes:
    """40 bytes that sort records newest first, ties by the lower id. Its own inverse."""
    return (LATEST - int.from_bytes(record[:8], "big")).to_bytes(8, "big") + record[8:]


def newest_first(records: RecordSet, after: bytes | None, most: int) -> list[bytes]:
    """Up to ``most`` records in listing order, those after ``after`` only.

    :param after: a record; it need not be in the set.
    """
    found: list[bytes] = []
    end = len(records)
    if after is not None:
        second = int.from_bytes(after[:8], "big")
        begin, end = records.find(second, after[8:]), records.find(second + 1, b"")
        if begin < end and records.record(begin) == after:
            begin += 1
        found = _rows(records, begin, min(end, begin + most))
        end = records.find(second, b"")
    most -= len(found)
    if most > 0 and end > 0:
        oldest = int.from_bytes(records.record(max(0, end - most))[:8], "big")
        begin, rest = records.find(oldest, b""), min(end, records.find(oldest + 1, b""))
        found += sorted(_rows(records, rest, end), key=listing_key)
        found += _rows(records, begin, min(rest, begin + most - (end - rest)))
    return found


def _rows(records: RecordSet, begin: int, end: int) -> list[bytes]:
    data = records.rows(np.arange(begin, max(begin, end))).tobytes()
    return [data[at : at + RECORD_SIZE] for at in range(0, len(data), RECORD_SIZE)]
