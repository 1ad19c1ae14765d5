"""The store on a Redis server of its own, on loopback: what ingest, snapshots and reads take.

Events come as checked, in batches of 500, four at a time, as the intake hands them in.  ``goal`` is
5,000 events a second.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.defer import Deferred, gatherResults

from benchmarks.corpus import corpus
from negd.nostr.event import Event, decode
from negd.nostr.filter import EVERYTHING, Filter
from negd.storage.redis.address import parse_address
from negd.storage.redis.store import RedisStorage
from negd.testing.redis_server import OwnReactor, RedisServer

EVENTS = 20_000
BATCH = 500
IN_FLIGHT = 4
GOAL = 5_000


@pytest.fixture(scope="module")
def events() -> list[Event]:
    return [decode(line) for line in corpus(EVENTS).read_bytes().split(b"\n") if line]


class Stand:
    """A server, a reactor to reach it, and a fresh store at every turn."""

    def __init__(self, folder: Path, durability: str) -> None:
        self.reactor = OwnReactor()
        self.server = RedisServer(folder, "--appendfsync", durability)
        self._numbers = count()
        self.server.start()

    def open(self) -> RedisStorage:
        text = f"127.0.0.1:{self.server.port}:prefix=bench-{next(self._numbers)}"
        return self.reactor.wait(RedisStorage.open(parse_address(text), self.reactor))

    def load(self, storage: RedisStorage, events: list[Event]) -> None:
        batches = iter([events[at : at + BATCH] for at in range(0, len(events), BATCH)])

        async def hand_in() -> None:
            for batch in batches:
                await storage.events.ingest(batch)

        workers = [Deferred.fromCoroutine(hand_in()) for _ in range(IN_FLIGHT)]
        self.reactor.wait(gatherResults(workers), within=600)

    def close(self) -> None:
        self.server.kill()
        self.reactor.close()


@pytest.fixture(params=["everysec", "always"])
def stand(request: pytest.FixtureRequest) -> Iterator[Stand]:
    folder = tempfile.mkdtemp(prefix="negd-bench-")
    stand = Stand(Path(folder), request.param)
    yield stand
    stand.close()
    shutil.rmtree(folder)


def test_ingest(stand: Stand, events: list[Event], benchmark: Any) -> None:
    opened: list[RedisStorage] = []

    def setup() -> tuple[tuple[RedisStorage, list[Event]], dict[str, Any]]:
        opened.append(stand.open())
        return (opened[-1], events), {}

    benchmark.extra_info["goal"] = EVENTS / GOAL
    benchmark.pedantic(stand.load, setup=setup, rounds=3)
    benchmark.extra_info["events/s"] = round(EVENTS / benchmark.stats["median"])
    for storage in opened:
        stand.reactor.wait(storage.close())


@pytest.mark.parametrize(
    "wanted",
    [
        EVERYTHING,
        Filter.build(kinds=[1]),
        Filter.build(tags={"t": ["nostr"]}),
        Filter.build(kinds=[1], limit=500),
    ],
    ids=["everything", "kind 1", "tag", "newest 500 of kind 1"],
)
@pytest.mark.parametrize("stand", ["everysec"], indirect=True)
def test_snapshot(stand: Stand, events: list[Event], wanted: Filter, benchmark: Any) -> None:
    storage = stand.open()
    stand.load(storage, events)
    found = benchmark(lambda: stand.reactor.wait(storage.events.snapshot(wanted)))
    benchmark.extra_info["records"] = len(found)
    stand.reactor.wait(storage.close())


@pytest.mark.parametrize("stand", ["everysec"], indirect=True)
def test_fetch_500(stand: Stand, events: list[Event], benchmark: Any) -> None:
    storage = stand.open()
    stand.load(storage, events)
    ids = [event.id_bytes for event in events[::40]]
    benchmark(lambda: stand.reactor.wait(storage.events.fetch(ids)))
    stand.reactor.wait(storage.close())
