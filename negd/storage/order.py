"""The order in which relays list events (NIP-01): newest first, in one second the lowest id."""

from __future__ import annotations

from negd.reconcile import RecordSet

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
        found = [records.record(at) for at in range(begin, min(end, begin + most))]
        end = records.find(second, b"")
    while end and len(found) < most:
        begin = records.find(int.from_bytes(records.record(end - 1)[:8], "big"), b"")
        found += [records.record(at) for at in range(begin, min(end, begin + most - len(found)))]
        end = begin
    return found
