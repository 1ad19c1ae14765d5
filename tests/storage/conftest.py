"""What the storage tests share."""

from __future__ import annotations

from pathlib import Path

import pytest

from negd.nostr.event import Event, decode

REAL_EVENTS = Path(__file__).parents[2].parent / "shared" / "events" / "real.jsonl"


@pytest.fixture(scope="session")
def real_events() -> list[Event]:
    """Events as public relays serve them, in the order of the file."""
    if not REAL_EVENTS.exists():
        pytest.skip(f"no real events in {REAL_EVENTS}")
    return [decode(line) for line in REAL_EVENTS.read_bytes().splitlines() if line.strip()]
