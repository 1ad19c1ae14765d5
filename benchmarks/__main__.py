"""Run benchmark suites, print one table and keep the figures as JSON under benchmarks/results/.

A suite is a module ``bench_<suite>.py`` of tests that use pytest-benchmark. What a benchmark puts
into ``extra_info`` goes into its row; ``goal`` and ``reference``, in seconds, become ratios.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).parent
RESULTS = HERE / "results"
SUITES = sorted(path.stem.removeprefix("bench_") for path in HERE.glob("bench_*.py"))
COLUMNS = ("benchmark", "median", "goal", "of goal", "reference", "of ref.", "more")


class NoHostName:
    """Keeps the name of the machine out of the results."""

    def pytest_benchmark_update_machine_info(self, machine_info: dict[str, Any]) -> None:
        machine_info.pop("node", None)


def run(suite: str) -> tuple[int, list[dict[str, Any]]]:
    """Run one suite; pytest's exit status and the benchmarks as pytest-benchmark describes them."""
    RESULTS.mkdir(exist_ok=True)
    result = RESULTS / f"{suite}.json"
    result.unlink(missing_ok=True)
    options = ["-q", "-p", "no:cacheprovider", "-o", "python_files=bench_*.py", "-o", "timeout=0"]
    figures = [f"--benchmark-json={result}", "--benchmark-quiet", "--benchmark-disable-gc"]
    status = pytest.main(
        [str(HERE / f"bench_{suite}.py"), *options, *figures], plugins=[NoHostName()]
    )
    if not result.exists():
        return int(status), []
    benchmarks: list[dict[str, Any]] = json.loads(result.read_text())["benchmarks"]
    return int(status), benchmarks


def row(benchmark: dict[str, Any]) -> list[str]:
    """One line of the table."""
    median: float = benchmark["stats"]["median"]
    info = dict(benchmark["extra_info"])
    ratios = [cell for key in ("goal", "reference") for cell in ratio(median, info.pop(key, None))]
    more = ", ".join(f"{key} {value}" for key, value in info.items())
    return [benchmark["name"].removeprefix("test_"), seconds(median), *ratios, more]


def ratio(median: float, other: float | None) -> list[str]:
    return ["", ""] if other is None else [seconds(other), f"{median / other:.2f}"]


def seconds(value: float) -> str:
    for unit, factor in (("s", 1.0), ("ms", 1e3), ("us", 1e6)):
        if value * factor >= 1:
            return f"{value * factor:.3g} {unit}"
    return f"{value * 1e9:.3g} ns"


def print_table(rows: Iterable[list[str]]) -> None:
    table = [list(COLUMNS), *rows]
    widths = [max(len(line[column]) for line in table) for column in range(len(COLUMNS))]
    for line in table:
        cells = [cell.ljust(width) for cell, width in zip(line, widths, strict=True)]
        print("  ".join(cells).rstrip())


def main() -> int:
    if find_spec("pytest_benchmark") is None:
        sys.exit("the benchmarks need pytest-benchmark: pip install pytest-benchmark")
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("suites", nargs="*", metavar="suite", help=", ".join(SUITES))
    parser.add_argument(
        "--events", type=int, metavar="N", help="events in the store of 'storage': 1000000 if not N"
    )
    given = parser.parse_args()
    suites: list[str] = given.suites or SUITES
    if unknown := set(suites) - set(SUITES):
        parser.error(f"no suite {', '.join(sorted(unknown))}; there are {', '.join(SUITES)}")
    if given.events is not None:
        os.environ["NEGD_BENCH_EVENTS"] = str(given.events)
    outcomes = {suite: run(suite) for suite in suites}
    print()
    print_table(row(benchmark) for _, benchmarks in outcomes.values() for benchmark in benchmarks)
    print(f"\nall figures: {HERE.name}/{RESULTS.name}/*.json")
    return max(status for status, _ in outcomes.values())


if __name__ == "__main__":
    sys.exit(main())
