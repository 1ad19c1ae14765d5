"""The order in which relays list events (NIP-01): newest first, in one second the lowest id."""

from __future__ import annotations

_LATEST = 2**64 - 1


def listing_key(record: bytes) -> bytes:
    """40 bytes that sort records newest first, ties by the lower id. Its own inverse."""
    return (_LATEST - int.from_bytes(record[:8], "big")).to_bytes(8, "big") + record[8:]
