"""The bound on a peer's ledger, the same in every storage."""

from __future__ import annotations

from collections.abc import Mapping
from heapq import nsmallest

MAX_ENTRIES = 100_000
"""Ledger entries kept of one peer; a lost one costs one more try."""


def surplus(retries: Mapping[bytes, float], most: int = MAX_ENTRIES) -> list[bytes]:
    """The ids to drop so that ``most`` stay: those next to be retried.

    :param retries: the ``retry_at`` of each entry by its id.
    """
    excess = max(0, len(retries) - most)
    return nsmallest(excess, retries, key=lambda event_id: (retries[event_id], event_id))
