"""Kind ranges of NIP-01: what a relay keeps of each kind."""

from __future__ import annotations

DELETION = 5
"""The kind of a deletion request (NIP-09)."""

RELAY_AUTH = 22242
"""The kind of a client's answer to an ``AUTH`` challenge (NIP-42)."""

MAX_KIND = 65535


def is_replaceable(kind: int) -> bool:
    """Of one author, only the latest event of this kind is kept."""
    return kind in (0, 3) or 10000 <= kind < 20000


def is_ephemeral(kind: int) -> bool:
    """Passed to watchers, never stored."""
    return 20000 <= kind < 30000


def is_addressable(kind: int) -> bool:
    """Of one author and one ``d`` tag, only the latest event of this kind is kept."""
    return 30000 <= kind < 40000
