"""Record sets and reconciliation at a million records, against the goals set for them.

Reconciliation is measured in CPU seconds of both sides together. ``reference`` is what the C++
implementation (``Vector`` storage) took on a machine of two cores like the one the goals are for;
the rows of the plain walk can be compared with those above them in the same run.
"""

from __future__ import annotations

import time
import tracemalloc
from collections.abc import Callable
from functools import lru_cache, partial
from statistics import median
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from negd.reconcile import Initiator, RecordSet, Responder, reconciler
from negd.reconcile.walk import Walk

RECORDS = 1_000_000
YEAR = 365 * 24 * 3600
FRAME = 60_000
SESSIONS = 1000

Rows = npt.NDArray[np.uint8]


@lru_cache(maxsize=1)
def rows_of(differences: int) -> tuple[Rows, Rows]:
    """Two unsorted sets of RECORDS over a year; each side lacks half of the differences."""
    dice = np.random.default_rng(7)
    half = differences // 2
    rows = np.empty((RECORDS + half, 40), np.uint8)
    times = 1_700_000_000 + dice.integers(0, YEAR, len(rows))
    rows[:, :8] = times.astype(">u8").view(np.uint8).reshape(-1, 8)
    rows[:, 8:] = dice.integers(0, 256, (len(rows), 32), np.uint8)
    return rows[:RECORDS], rows[half:]


@lru_cache(maxsize=1)
def sets_of(differences: int) -> tuple[RecordSet, RecordSet]:
    ours, theirs = map(RecordSet.from_records, rows_of(differences))
    return ours, theirs


def fresh(records: RecordSet) -> RecordSet:
    """The same records in a set of which nothing was asked yet."""
    return RecordSet.from_records(records.to_array(), is_sorted=True)


class Run:
    """A whole reconciliation: CPU seconds of each side, round trips, bytes each way."""

    def __init__(self, ours: RecordSet, theirs: RecordSet, limit: int) -> None:
        self.cpu = {"initiator": 0.0, "responder": 0.0}
        self.rounds = self.up = self.down = 0
        self.learned: set[bytes] = set()
        initiator, responder = Initiator(ours, limit), Responder(theirs, limit)
        message: bytes | None = self.timed("initiator", initiator.initiate)
        while message is not None:
            answer = self.timed("responder", partial(responder.reconcile, message)).reply
            step = self.timed("initiator", partial(initiator.reconcile, answer))
            self.rounds += 1
            self.up += len(message)
            self.down += len(answer)
            self.learned.update(step.have, step.need)
            message = step.reply

    def timed(self, side: str, step: Callable[[], Any]) -> Any:
        begin = time.process_time()
        result = step()
        self.cpu[side] += time.process_time() - begin
        return result


@pytest.mark.parametrize("order", ["sorted", "unsorted"])
def test_build(benchmark: Any, order: str) -> None:
    data = rows_of(100)[0]
    if order == "sorted":
        data = RecordSet.from_records(data).to_array()
        benchmark.extra_info["goal"] = 0.15
    built = benchmark.pedantic(
        RecordSet.from_records, (data,), {"is_sorted": order == "sorted"}, rounds=9
    )
    assert len(built) == RECORDS
    benchmark.extra_info["bytes a record"] = round(built.nbytes / RECORDS, 1)


@pytest.mark.parametrize("count", [1, 1000, 100_000])
def test_insert(benchmark: Any, count: int) -> None:
    records = sets_of(200_000)[0]
    added = rows_of(200_000)[1][-count:]
    if count == 1:
        benchmark.extra_info["goal"] = 0.002
    assert len(benchmark.pedantic(records.insert, (added,), rounds=9)) == RECORDS + count


GOALS = {
    (100, 0): {"goal": 0.015, "reference": 0.15},
    (20_000, 0): {"goal": 0.5, "reference": 1.4},
    (20_000, FRAME): {"goal": 1.8, "reference": 9.8},
    (200_000, 0): {"goal": 1.0, "reference": 2.9},
}


@pytest.mark.parametrize("limit", [0, FRAME])
@pytest.mark.parametrize("differences", [100, 20_000, 200_000])
def test_reconcile(benchmark: Any, differences: int, limit: int) -> None:
    benchmark.extra_info.update(GOALS.get((differences, limit), {}))
    """Over sets in use: so much was asked of them that they keep all their sums."""
    sets = sets_of(differences)
    bounds = np.arange(RECORDS + 1)
    for records in sets:
        records.fingerprints(bounds[:-1], bounds[1:])
    measure(benchmark, sets, limit, differences)


@pytest.mark.parametrize("differences", [100, 20_000])
def test_reconcile_first(benchmark: Any, differences: int) -> None:
    """Over sets of which nothing was asked before."""
    measure(benchmark, sets_of(differences), 0, differences, made=fresh)


@pytest.mark.parametrize("differences", [100, 20_000])
def test_reconcile_plain_walk(
    benchmark: Any, differences: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reconciler, "BatchWalk", Walk)
    measure(benchmark, sets_of(differences), 0, differences)


def measure(
    benchmark: Any,
    sets: tuple[RecordSet, RecordSet],
    limit: int,
    ids: int,
    made: Callable[[RecordSet], RecordSet] = lambda records: records,
) -> None:
    """CPU seconds, for which pytest-benchmark is given that clock."""
    benchmark._timer = time.process_time
    runs: list[Run] = []
    rounds = 15 if ids == 100 else 5
    benchmark.pedantic(
        lambda ours, theirs: runs.append(Run(ours, theirs, limit)),
        setup=lambda: (tuple(map(made, sets)), {}),
        rounds=rounds,
        warmup_rounds=1,
    )
    run = runs[-1]
    assert len(run.learned) == ids
    for side in run.cpu:
        benchmark.extra_info[side] = f"{median(run.cpu[side] for run in runs):.4f} s"
    benchmark.extra_info.update(rounds=run.rounds, up=run.up, down=run.down)


def opened(records: RecordSet) -> list[Responder]:
    return [Responder(records, FRAME) for _ in range(SESSIONS)]


def test_thousand_sessions_opened(benchmark: Any) -> None:
    """The goal is 100 us and 4 KB for each."""
    records = sets_of(100)[0]
    benchmark.extra_info["goal"] = SESSIONS * 100e-6
    benchmark.pedantic(opened, (records,), rounds=9)
    benchmark.extra_info["bytes a session"] = bytes_for(lambda: opened(records)) // SESSIONS


def test_thousand_sessions_opened_and_first_message_answered(benchmark: Any) -> None:
    ours, theirs = sets_of(100)
    message = Initiator(theirs).initiate()
    benchmark.pedantic(
        lambda: [session.reconcile(message).reply for session in opened(ours)], rounds=3
    )


def bytes_for(make: Callable[[], object]) -> int:
    tracemalloc.start()
    try:
        made = make()
        return tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
        del made
