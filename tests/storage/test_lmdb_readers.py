"""Readers that were killed: what they saw is not kept, so the writer's file does not grow."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest

from tests.storage.contract import ALICE, Stand
from tests.storage.test_lmdb import opened, run_python

_READER = """
import sys
from negd.storage.lmdb.environment import Environment
environment = Environment(sys.argv[1], read_only=True)
print("open", flush=True)
for line in sys.stdin:
    with environment.read() as txn:
        txn.get(b"schema", db=environment.databases.meta)
        print("reading", flush=True)
        sys.stdin.readline()
"""

_ROUNDS = 20
_seconds = count(1_600_000_000)


def reader(folder: Path) -> subprocess.Popen[str]:
    """A process that has the store open."""
    process = run_python(_READER, folder)
    assert process.stdout is not None
    assert process.stdout.readline() == "open\n"
    return process


def begin_to_read(process: subprocess.Popen[str]) -> None:
    """Have a :func:`reader` in the middle of a read."""
    assert process.stdin is not None and process.stdout is not None
    process.stdin.write("read\n")
    process.stdin.flush()
    assert process.stdout.readline() == "reading\n"


def kill_a_reader(folder: Path) -> None:
    process = reader(folder)
    begin_to_read(process)
    process.kill()
    process.communicate()


def size(stand: Stand) -> int:
    return stand.wait(stand.events.statistics()).bytes


def replace_all(stand: Stand) -> None:
    """Write 120 KB in the place of as much."""
    for _ in range(_ROUNDS):
        second = next(_seconds)
        stand.ingest(
            *(
                ALICE.sign(created_at=second, kind=30000 + n, tags=[["d", ""]], content="x" * 3000)
                for n in range(40)
            )
        )


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Path]:
    """A store whose file has all the room that it needs."""
    with opened(tmp_path) as stand:
        replace_all(stand)
    yield tmp_path


def test_a_killed_reader_keeps_nothing_for_longer_than_ten_seconds(store: Path) -> None:
    with opened(store) as stand:
        before = size(stand)
        kill_a_reader(store)
        stand.clock.advance(10)
        replace_all(stand)
        assert size(stand) < 1.5 * before


def test_a_reader_that_was_killed_before_the_start_keeps_nothing(store: Path) -> None:
    """Another one had the store open with it, so that LMDB's table of readers is not a new one."""
    with reader(store) as other:
        kill_a_reader(store)
        with opened(store) as stand:
            before = size(stand)
            replace_all(stand)
            assert size(stand) < 1.5 * before
        other.communicate()


def test_a_full_map_takes_first_what_killed_readers_kept(tmp_path: Path) -> None:
    with opened(tmp_path, first_map=1 << 21) as stand:
        replace_all(stand)
        kill_a_reader(tmp_path)
        for _ in range(3):
            replace_all(stand)
        assert size(stand) <= 1 << 21


def test_a_living_reader_is_let_be(store: Path) -> None:
    with opened(store) as stand, reader(store) as other:
        before = size(stand)
        begin_to_read(other)
        stand.clock.advance(10)
        replace_all(stand)
        assert size(stand) > 2 * before
        other.communicate()
