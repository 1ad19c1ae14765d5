"""Syncs of 1,000,000 events between two daemons on loopback: LMDB, fsync, signatures checked.

``late`` is the worst delay of the reactor that each daemon saw itself (``/metrics``, looked at
every second), on a machine that runs both of them and this; ``memory`` is what each daemon and
its processes held of their own, without LMDB's pages in the system's cache, after a tenth of the
events, half of them, and all.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from threading import Event, Thread
from typing import Any
from urllib.parse import urlsplit

import pytest

from benchmarks.bench_storage import STORED, stored
from benchmarks.memory import memory_of
from benchmarks.wire import CountingWire
from negd.control.client import ControlClient
from negd.testing.processes import DaemonProcess

ROUNDS = 20


@pytest.fixture(scope="module")
def full() -> Iterator[Path]:
    """A daemon's folder with every event of the storage suite."""
    root = Path(tempfile.mkdtemp(prefix="negd-bench-"))
    shutil.copytree(stored(), root / "full" / "store")
    yield root / "full"
    shutil.rmtree(root)


def test_identical_1m(benchmark: Any, full: Path) -> None:
    """From the call to its end; bytes of the whole connection, WebSocket handshake included."""
    with ExitStack() as running:
        root = Path(running.enter_context(tempfile.TemporaryDirectory(prefix="negd-bench-")))
        daemons = []
        for name in ("ours", "theirs"):
            shutil.copytree(full, root / name)
            daemons.append(running.enter_context(DaemonProcess(root / name)))
        port = urlsplit(daemons[1].url).port
        assert port is not None
        wire = running.enter_context(CountingWire(port))
        client = running.enter_context(ControlClient(daemons[0].control, timeout=600))
        url = f"ws://127.0.0.1:{wire.port}"

        def sync() -> None:
            wire.up = wire.down = 0
            *_, last = client.sync(url)
            assert (last.have, last.need, last.complete) == (0, 0, True)

        sync()
        benchmark.pedantic(sync, rounds=ROUNDS)
    benchmark.extra_info.update(goal=0.05, up=wire.up, down=wire.down)


class Watch(Thread):
    """Looks at two daemons every second until it is told to stop."""

    def __init__(self, daemons: list[DaemonProcess]) -> None:
        super().__init__(daemon=True)
        self._daemons = daemons
        self._over = Event()
        self.late = [0.0, 0.0]
        self.memory: list[list[int]] = []

    def run(self) -> None:
        while not self._over.wait(1.0):
            late = [daemon.metric("negd_reactor_late_seconds") for daemon in self._daemons]
            self.late = [max(*two) for two in zip(self.late, late, strict=True)]
            self.memory.append([memory_of(d.pid, "Pss_Anon") >> 20 for d in self._daemons])

    def stop(self) -> None:
        self._over.set()
        self.join()

    def at(self, part: float) -> str:
        """The memory of both, when so much of the time was over."""
        return "+".join(map(str, self.memory[int(part * (len(self.memory) - 1))])) + " MB"


@pytest.mark.parametrize("direction", ["pull", "push"])
def test_1m_into_an_empty_store(benchmark: Any, full: Path, direction: str) -> None:
    with ExitStack() as running:
        root = Path(running.enter_context(tempfile.TemporaryDirectory(prefix="negd-bench-")))
        names = ("ours", "theirs")
        shutil.copytree(full, root / names[direction == "pull"])
        daemons = [running.enter_context(DaemonProcess(root / name)) for name in names]
        client = running.enter_context(ControlClient(daemons[0].control, timeout=7200))
        watch = Watch(daemons)
        watch.start()
        moved: list[int] = []

        def sync() -> None:
            *_, last = client.sync(daemons[1].url)
            moved.append(last.moved)

        benchmark.pedantic(sync, rounds=1)
        watch.stop()
    benchmark.extra_info.update(
        goal=STORED / 8000,
        reference=STORED / (2600 if direction == "pull" else 5500),
        moved=moved[0],
        late="+".join(f"{worst * 1000:.0f}" for worst in watch.late) + " ms",
        memory=", ".join(watch.at(part) for part in (0.1, 0.5, 1.0)),
    )
    benchmark.extra_info["events/s"] = round(moved[0] / benchmark.stats.stats.median)
    assert moved[0] > 0.9 * STORED
