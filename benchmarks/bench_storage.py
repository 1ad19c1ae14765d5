"""The embedded store: import, export, start, snapshots with their first fingerprints, fetches.

Goals are for a machine of two cores; ``reference`` is what strfry took on one like it, with the
same corpus.  The store of ``STORED`` events is made once, from events taken as checked, and kept
under benchmarks/cache/.  Nothing that was found is kept between calls; every call but those for
everything reads the lists anew.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import count, islice
from pathlib import Path
from random import Random
from threading import Event as Flag
from threading import Thread
from typing import Any

import numpy as np
import pytest
from twisted.internet.defer import Deferred, gatherResults

from benchmarks.corpus import CACHE, corpus
from benchmarks.memory import memory_of
from negd.nostr.event import decode
from negd.nostr.filter import EVERYTHING, Filter
from negd.reconcile import RecordSet
from negd.storage.lmdb.environment import SCHEMA
from negd.storage.lmdb.store import LmdbStorage
from negd.testing.threads import ThreadedClock

STORED = int(os.environ.get("NEGD_BENCH_EVENTS", 1_000_000))
IMPORTED = min(STORED, 100_000)
ROUNDS = 3
IMPORTS = 5
FETCHED = 500
BUCKETS = 16
"""Ranges whose fingerprints a first message has."""

NOW = 1_700_000_000
_BATCH = 1000
_IN_FLIGHT = 8


class Stand:
    """An opened store."""

    def __init__(self, folder: Path) -> None:
        self.clock = ThreadedClock(NOW)
        self.folder = folder
        self.storage = self.clock.wait(LmdbStorage.open(str(folder), self.clock))
        self.events = self.storage.events

    def close(self) -> None:
        self.clock.wait(self.storage.close())

    def snapshot(self, wanted: Filter) -> RecordSet:
        """What a session needs for its first message: the records, and their fingerprints."""
        records = self.clock.wait(self.events.snapshot(wanted))
        edges = np.linspace(0, len(records), BUCKETS + 1).astype(np.int64)
        records.fingerprints(edges[:-1], edges[1:])
        return records

    def fill(self, lines: Iterable[bytes]) -> None:
        """Store events as checked."""
        rest = iter(lines)

        async def work() -> None:
            while batch := [decode(line) for line in islice(rest, _BATCH)]:
                await self.events.ingest(batch)

        works = [Deferred.fromCoroutine(work()) for _ in range(_IN_FLIGHT)]
        self.clock.wait(gatherResults(works))


def stored() -> Path:
    """The folder of the store of ``STORED`` events, which is made where it is missing."""
    folder = CACHE / f"store-{STORED}-{SCHEMA}"
    if not folder.exists():
        source = corpus(STORED)
        with tempfile.TemporaryDirectory(dir=CACHE) as unfinished:
            began = time.monotonic()
            stand = Stand(Path(unfinished, "store"))
            with source.open("rb") as lines:
                stand.fill(lines)
            stand.close()
            Path(unfinished, "store").rename(folder)
            print(f"{folder.name}: {time.monotonic() - began:.0f} s", file=sys.stderr)
    return folder


@pytest.fixture(scope="module")
def stand() -> Iterator[Stand]:
    """Open for the seconds that reading ahead takes; longer, where a benchmark was killed."""
    stand = Stand(stored())
    stand.clock.wait(stand.storage.read_ahead)
    stand.clock.wait(stand.storage.looked_through)
    yield stand
    stand.close()


@pytest.fixture(scope="module")
def writer(stand: Stand) -> bytes:
    """Whoever wrote most."""
    with stand.storage._environment.read() as txn:
        cursor = txn.cursor(stand.storage._environment.databases.authors)
        return max((cursor.count(), key) for key in cursor.iternext_nodup(values=False))[1]


# --- import and export --------------------------------------------------------------------------


class Memory(Thread):
    """The most memory that a process and those it started took together, each page counted once.

    :ivar peak: bytes.
    """

    def __init__(self, process: int) -> None:
        super().__init__(daemon=True)
        self.peak = 0
        self._process = process
        self._ended = Flag()

    def run(self) -> None:
        while not self._ended.wait(0.5):
            self.peak = max(self.peak, memory_of(self._process))

    def stop(self) -> int:
        self._ended.set()
        self.join()
        return self.peak


@contextmanager
def importing(source: Path, folder: Path) -> Iterator[int]:
    """``negctl import`` as long as it runs: its process id."""
    command = [sys.executable, "-m", "negd.cli", "import", str(source), "--store", f"lmdb:{folder}"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    yield process.pid
    output, _ = process.communicate()
    assert process.returncode == 0, output.decode()


def import_lines(source: Path, folder: Path) -> None:
    with importing(source, folder):
        pass


def memory_of_import(source: Path, folder: Path) -> int:
    """Bytes. Looking takes time: not to be done where time is measured."""
    with importing(source, folder) as process:
        memory = Memory(process)
        memory.start()
    return memory.stop()


def test_import(benchmark: Any, tmp_path: Path) -> None:
    """Signatures verified, fsync on, a fresh store each time."""
    source = corpus(IMPORTED)
    folders = (tmp_path / str(number) for number in count())
    benchmark.extra_info.update(goal=IMPORTED / 20_000, reference=IMPORTED / 14_000)
    benchmark.pedantic(lambda: import_lines(source, next(folders)), rounds=IMPORTS)
    benchmark.extra_info["events/s"] = round(IMPORTED / benchmark.stats.stats.median)
    memory = memory_of_import(source, next(folders))
    benchmark.extra_info["MB of memory (goal 300)"] = round(memory / 1e6)
    ratio = disk(tmp_path / "0") / source.stat().st_size
    benchmark.extra_info["disk / JSON (goal 1.6, strfry 2.2)"] = round(ratio, 2)


def test_export(benchmark: Any, tmp_path: Path) -> None:
    """All of a store that another process could be writing to."""
    import_lines(corpus(IMPORTED), tmp_path / "store")
    command = [sys.executable, "-m", "negd.cli", "export", "--store", f"lmdb:{tmp_path / 'store'}"]

    def export() -> None:
        subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=True)

    benchmark.pedantic(export, rounds=ROUNDS)
    benchmark.extra_info["events/s"] = round(IMPORTED / benchmark.stats.stats.median)


def disk(folder: Path) -> int:
    return sum(path.stat().st_blocks * 512 for path in folder.iterdir())


# --- start --------------------------------------------------------------------------------------

_START = """
import sys
from negd.storage.lmdb.store import LmdbStorage
from negd.testing.threads import ThreadedClock
clock = ThreadedClock(1_700_000_000)
storage = clock.wait(LmdbStorage.open(sys.argv[1], clock))
print("open", flush=True)
sys.stdin.read()
clock.wait(storage.close())
"""


def test_start(benchmark: Any) -> None:
    """From the start of a process to an open store."""
    folder = stored()

    def once() -> None:
        command = [sys.executable, "-c", _START, str(folder)]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        started.append(process)
        assert process.stdout is not None
        assert process.stdout.readline() == b"open\n"

    def end() -> None:
        while started:
            started.pop().communicate()

    started: list[subprocess.Popen[bytes]] = []
    benchmark.extra_info["goal"] = 2.0
    benchmark.pedantic(once, setup=end, rounds=ROUNDS)
    end()
    ratio = disk(folder) / corpus(STORED).stat().st_size
    benchmark.extra_info["disk / JSON (goal 1.6)"] = round(ratio, 2)


# --- reading ------------------------------------------------------------------------------------


def measure(benchmark: Any, stand: Stand, wanted: Filter, goal: float, reference: float) -> None:
    benchmark.extra_info.update(goal=goal, reference=reference)
    records = benchmark.pedantic(stand.snapshot, args=(wanted,), rounds=11)
    benchmark.extra_info["records"] = len(records)


def test_snapshot_of_everything(benchmark: Any, stand: Stand) -> None:
    measure(benchmark, stand, EVERYTHING, 0.001, 0.001)


def test_snapshot_of_a_window(benchmark: Any, stand: Stand) -> None:
    live = stand.snapshot(EVERYTHING)
    since, until = (
        int.from_bytes(live.record(len(live) * part // 10)[:8], "big") for part in (3, 8)
    )
    measure(benchmark, stand, Filter.build(since=since, until=until), 0.001, 0.001)


def test_snapshot_of_a_kind(benchmark: Any, stand: Stand) -> None:
    measure(benchmark, stand, Filter.build(kinds=[1]), 0.08, 0.253)


def test_snapshot_of_a_tag(benchmark: Any, stand: Stand) -> None:
    measure(benchmark, stand, Filter.build(tags={"t": ["nostr"]}), 0.03, 0.144)


def test_snapshot_of_an_author(benchmark: Any, stand: Stand, writer: bytes) -> None:
    measure(benchmark, stand, Filter.build(authors=[writer]), 0.002, 0.002)


def test_fetch_random_ids(benchmark: Any, stand: Stand) -> None:
    """Others each time."""
    dice, live = Random(1), stand.snapshot(EVERYTHING)

    def some() -> tuple[list[list[bytes]], dict[str, Any]]:
        return [[live.record(at)[8:] for at in dice.sample(range(len(live)), FETCHED)]], {}

    def fetch(ids: list[bytes]) -> dict[bytes, bytes]:
        return stand.clock.wait(stand.events.fetch(ids))

    benchmark.extra_info["goal"] = 0.005
    assert len(benchmark.pedantic(fetch, setup=some, rounds=21)) == FETCHED


def test_known_of_random_ids(benchmark: Any, stand: Stand) -> None:
    """Half of them are."""
    dice, live = Random(2), stand.snapshot(EVERYTHING)
    ids = [live.record(at)[8:] for at in dice.sample(range(len(live)), FETCHED)]
    others = [dice.randbytes(32) for _ in range(FETCHED)]
    known = benchmark.pedantic(
        lambda: stand.clock.wait(stand.events.known(ids + others)), rounds=21
    )
    assert len(known) == FETCHED
