"""What the storage tests share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from negd.nostr.event import Event, decode
from negd.testing.redis_server import OwnReactor, RedisServer

REAL_EVENTS = Path(__file__).parents[2].parent / "shared" / "events" / "real.jsonl"


@pytest.fixture(scope="session")
def real_events() -> list[Event]:
    """Events as public relays serve them, in the order of the file."""
    if not REAL_EVENTS.exists():
        pytest.skip(f"no real events in {REAL_EVENTS}")
    return [decode(line) for line in REAL_EVENTS.read_bytes().splitlines() if line.strip()]


@pytest.fixture
def reactor() -> Iterator[OwnReactor]:
    reactor = OwnReactor()
    yield reactor
    reactor.close()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisServer]:
    with RedisServer(tmp_path / "redis", "--appendfsync", "always") as server:
        yield server
