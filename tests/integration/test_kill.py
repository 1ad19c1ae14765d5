"""What was acknowledged is there: writers, daemons and servers die at any moment, over and over."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random

import pytest

from negd.interfaces import IStorage, Outcome
from negd.nostr.event import Event
from negd.nostr.filter import EVERYTHING
from negd.nostr.kinds import is_ephemeral
from negd.storage import open_store
from negd.testing.events import sample_events
from negd.testing.processes import DaemonProcess
from negd.testing.redis_server import OwnReactor, RedisServer
from tests.storage.clients import connected
from tests.storage.redis_nodes import needs_server

ROOT = Path(__file__).parents[2]

_HANDED_IN = 240
"""Events that a writer begins with at once; it is killed somewhere among them."""

_WRITERS = """
import os, signal, sys
import negd.storage.lmdb.store, negd.storage.redis.store
from negd.settings import StoreSettings
from negd.storage import open_store
from negd.testing.events import sample_events
from negd.testing.redis_server import OwnReactor
from twisted.internet.defer import Deferred, gatherResults

store, durability, count, handed_in = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
events = list(sample_events(count))

def write(events):
    reactor = OwnReactor()
    settings = StoreSettings(durability=durability)
    storage = reactor.wait(open_store(store, reactor, False, settings))

    async def hand_in(batch):
        for event, verdict in zip(batch, await storage.events.ingest(batch)):
            os.write(1, f"{event.id} {verdict.outcome.value}\\n".encode())

    batches = [events[n : n + 7] for n in range(0, len(events), 7)]
    reactor.wait(gatherResults([Deferred.fromCoroutine(hand_in(batch)) for batch in batches]))

for line in sys.stdin:
    writer = os.fork()
    if not writer:
        write(events[int(line) : int(line) + handed_in])
        while True:
            signal.pause()
    os.write(1, f"writer {writer}\\n".encode())
    os.waitpid(writer, 0)
    os.write(1, b"ended\\n")
"""
"""Forks a writer for each line that says where in the events it begins."""


class Acknowledged:
    """The events that must be there, and what is known to have made room for others."""

    def __init__(self, events: Iterable[Event]) -> None:
        self._events = {event.id: event for event in events}
        self._left: set[str] = set()
        self.ids: set[str] = set()

    def assert_kept(self, storage: IStorage, reactor: OwnReactor, when: str) -> None:
        """All of it is held, or was replaced or deleted; and every index agrees."""
        report = reactor.wait(storage.events.verify(lambda read, total: None))
        assert report.problems == [], when
        held = {record[8:].hex() for record in reactor.wait(storage.events.snapshot(EVERYTHING))}
        missing = [self._events[event_id] for event_id in self.ids - held - self._left]
        for verdict in reactor.wait(storage.events.ingest(missing)):
            assert verdict.outcome in (Outcome.DELETED, Outcome.SUPERSEDED), when
        self._left.update(event.id for event in missing)


@contextmanager
def opened(store: str, reactor: OwnReactor) -> Iterator[IStorage]:
    storage = reactor.wait(open_store(store, reactor))
    try:
        yield storage
    finally:
        reactor.wait(storage.close())


def kill_writers(
    store: str,
    reactor: OwnReactor,
    seed: int,
    rounds: int,
    *,
    durability: str = "fsync",
    killing: Callable[[], None] = lambda: None,
    killed: Callable[[], None] = lambda: None,
) -> None:
    """Have writers killed at random moments, and look at the store after each of them.

    :param killing: done just before a writer is killed, and ``killed`` when it is dead.
    """
    random = Random(seed)
    count = 60 * rounds + _HANDED_IN
    acknowledged = Acknowledged(sample_events(count))
    arguments = [store, durability, str(count), str(_HANDED_IN)]
    with subprocess.Popen(
        [sys.executable, "-c", _WRITERS, *arguments],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as writers:
        assert writers.stdin is not None and writers.stdout is not None
        for number in range(rounds):
            print(60 * number, file=writers.stdin, flush=True)
            writer = int(writers.stdout.readline().split()[1])
            lines = [writers.stdout.readline() for _ in range(random.randrange(_HANDED_IN))]
            time.sleep(random.uniform(0, 0.02))
            killing()
            os.kill(writer, signal.SIGKILL)
            while (line := writers.stdout.readline()) != "ended\n":
                lines.append(line)
            killed()
            outcomes = [line.split() for line in lines]
            acknowledged.ids |= {name for name, outcome in outcomes if outcome == "stored"}
            with opened(store, reactor) as storage:
                acknowledged.assert_kept(storage, reactor, f"seed {seed}, round {number}")
        writers.stdin.close()
    assert acknowledged.ids


@pytest.mark.parametrize("durability, rounds", [("fsync", 24), ("batched", 12)])
def test_killed_writers_lose_nothing_they_acknowledged(
    tmp_path: Path, reactor: OwnReactor, durability: str, rounds: int
) -> None:
    kill_writers(f"lmdb:{tmp_path / 'store'}", reactor, 1, rounds, durability=durability)


@needs_server
def test_killed_nodes_lose_nothing_they_acknowledged(
    reactor: OwnReactor, server: RedisServer
) -> None:
    kill_writers(server.store, reactor, 2, 12)


@needs_server
def test_killed_servers_lose_nothing_they_acknowledged(
    reactor: OwnReactor, server: RedisServer
) -> None:
    """The server, which syncs always, and the node that writes to it."""
    kill_writers(server.store, reactor, 3, 12, killing=server.kill, killed=server.start)


# --- the whole daemon ---------------------------------------------------------------------------


_BATCHED = """
[storage]
durability = "batched"
standing = [{kinds = [1]}, {"#t" = ["nostr"]}]
"""


def kill_daemons(store: str, folder: Path, reactor: OwnReactor, seed: int, rounds: int) -> None:
    """Have daemons killed while a client sends to them, and look at the store after each."""
    random = Random(seed)
    folder.mkdir()
    (folder / "negd.toml").write_text(_BATCHED)
    options = ["--config", "negd.toml"]
    events = list(sample_events(500 * rounds, seed))
    lasting = {event.id for event in events if not is_ephemeral(event.kind)}
    acknowledged = Acknowledged(events)
    for number in range(rounds):
        daemon = DaemonProcess(folder, store=store, options=options if number % 2 else ())
        daemon.start()
        with connected(reactor, daemon.url) as client:
            client.send(events[500 * number : 500 * (number + 1)])
            client.until_answered(random.randrange(1, 400))
            daemon.kill()
        acknowledged.ids |= client.accepted & lasting
        with opened(store, reactor) as storage:
            acknowledged.assert_kept(storage, reactor, f"seed {seed}, round {number}")


def test_killed_daemons_lose_nothing_they_answered_with_ok(
    tmp_path: Path, reactor: OwnReactor
) -> None:
    kill_daemons(f"lmdb:{tmp_path / 'store'}", tmp_path / "negd", reactor, 4, 4)


@needs_server
def test_killed_daemons_on_redis_lose_nothing_they_answered_with_ok(
    tmp_path: Path, reactor: OwnReactor, server: RedisServer
) -> None:
    kill_daemons(server.store, tmp_path / "negd", reactor, 5, 2)
