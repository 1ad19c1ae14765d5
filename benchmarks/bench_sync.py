"""Two daemons on loopback, LMDB, fsync, signatures checked: what one SyncWithPeer call takes.

Times are wall seconds from the call to its last progress.  ``reference`` is what ``strfry sync``
took between two strfry relays with events of the same make, on a machine like the one the goals
are for.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from benchmarks.corpus import corpus, lines
from negd.control.client import ControlClient
from negd.interfaces import SyncProgress
from negd.testing.processes import DaemonProcess, negctl

EVENTS = 100_000
APART = 1_000
ROUNDS = 3


@pytest.fixture(scope="module")
def stores() -> Iterator[Path]:
    """A folder with a daemon's folder of every event but the last, made once and then copied."""
    root = Path(tempfile.mkdtemp(prefix="negd-bench-"))
    load(root / "full", 0, EVENTS)
    load(root / "left", 0, EVENTS - APART)
    shutil.copytree(root / "left", root / "right")
    load(root / "left", EVENTS, EVENTS + APART)
    load(root / "right", EVENTS - APART, EVENTS)
    yield root
    shutil.rmtree(root)


def load(folder: Path, start: int, stop: int) -> None:
    folder.mkdir(exist_ok=True)
    text = lines(corpus(EVENTS + APART), start, stop).decode()
    done = negctl("import", "-", "--store", "lmdb:store", folder=folder, stdin=text)
    assert done.returncode == 0, done.stderr


class Pair:
    """Two running daemons on copies of the named stores, or on empty ones; fresh at each turn."""

    def __init__(self, stores: Path, here: str | None, there: str | None) -> None:
        self.last = SyncProgress("")
        self._stores = stores
        self._held = {"here": here, "there": there}
        self._running = ExitStack()

    def start(self) -> None:
        """Stop what ran before and start anew."""
        self._running.close()
        root = Path(self._running.enter_context(tempfile.TemporaryDirectory(prefix="negd-bench-")))
        for name, held in self._held.items():
            if held is not None:
                shutil.copytree(self._stores / held, root / name)
        ours, theirs = (
            self._running.enter_context(DaemonProcess(root / name)) for name in self._held
        )
        self._client = self._running.enter_context(ControlClient(ours.control, timeout=600))
        self._client.ready()
        self._peer = theirs.url

    def sync(self) -> None:
        """One call of ours, to its last progress."""
        *_, self.last = self._client.sync(self._peer)

    def stop(self) -> None:
        """Stop what runs."""
        self._running.close()


def measure(benchmark: Any, stores: Path, here: str | None, there: str | None) -> SyncProgress:
    """Time some syncs, each of fresh daemons."""
    pair = Pair(stores, here, there)
    try:
        benchmark.pedantic(pair.sync, setup=pair.start, rounds=ROUNDS)
    finally:
        pair.stop()
    benchmark.extra_info.update(moved=pair.last.moved, rounds=pair.last.round)
    if pair.last.moved:
        per_second = pair.last.moved / benchmark.stats.stats.median
        benchmark.extra_info["events/s"] = round(per_second)
    return pair.last


def test_pull_100k_into_an_empty_store(benchmark: Any, stores: Path) -> None:
    benchmark.extra_info.update(goal=EVENTS / 8000, reference=EVENTS / 2600)
    assert measure(benchmark, stores, None, "full").fetched > 0.9 * EVENTS


def test_push_100k_into_an_empty_store(benchmark: Any, stores: Path) -> None:
    benchmark.extra_info.update(goal=EVENTS / 8000, reference=EVENTS / 5500)
    assert measure(benchmark, stores, "full", None).sent > 0.9 * EVENTS


def test_1000_and_1000_differences_over_100k(benchmark: Any, stores: Path) -> None:
    benchmark.extra_info.update(goal=0.5, reference=0.75)
    assert measure(benchmark, stores, "left", "right").moved > 1.5 * APART


def test_identical_100k(benchmark: Any, stores: Path) -> None:
    benchmark.extra_info.update(goal=0.05)
    last = measure(benchmark, stores, "full", "full")
    assert (last.have, last.need) == (0, 0)
