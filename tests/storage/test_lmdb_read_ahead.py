"""The data file is taken into memory after the start, where there is room for it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from twisted.logger import capturedLogs, formatEvent

from negd.storage.lmdb import pace, store
from negd.storage.lmdb import read_ahead as module
from negd.storage.lmdb.read_ahead import available_memory, read_ahead
from negd.storage.lmdb.store import LmdbStorage
from tests.storage.contract import Stand
from tests.storage.test_lmdb import opened

MEGABYTE = 1 << 20


@pytest.fixture
def file(tmp_path: Path) -> str:
    path = tmp_path / "file"
    path.write_bytes(bytes(2 * MEGABYTE + 1))
    return str(path)


def test_all_of_a_file_is_read_with_pauses(file: str) -> None:
    pauses: list[None] = []
    read = read_ahead(file, available_memory(), lambda: pauses.append(None))
    assert (read, len(pauses)) == (2 * MEGABYTE + 1, 3)


@pytest.mark.parametrize(
    ("available", "read"), [(4 * MEGABYTE, 0), (5 * MEGABYTE, 2 * MEGABYTE + 1)]
)
def test_a_file_that_would_take_much_of_the_memory_is_left_alone(
    file: str, available: int, read: int
) -> None:
    assert read_ahead(file, available, lambda: None) == read


def read_ahead_of(stand: Stand) -> None:
    assert isinstance(stand.storage, LmdbStorage)
    stand.clock.wait(stand.storage.read_ahead)


def test_a_store_is_read_ahead(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[int] = []

    def noted(*args: Any) -> int:
        read.append(read_ahead(*args))
        return read[-1]

    monkeypatch.setattr(store, "read_ahead", noted)
    with opened(tmp_path) as stand:
        read_ahead_of(stand)
        assert read == [(tmp_path / "data.mdb").stat().st_size]


def test_a_stop_does_not_wait_for_the_rest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pace, "_WORK", 0)
    monkeypatch.setattr(pace, "_REST", 60)
    with capturedLogs() as told, opened(tmp_path):
        pass
    assert told == []


@pytest.mark.parametrize(
    "content",
    [None, b"", b"MemTotal: 9 kB\n", b"MemAvailable:\n", b"\xff: a\nMemAvailable: b kB\n"],
)
def test_where_a_system_does_not_tell_its_memory_nothing_is_read_and_it_is_said(
    content: bytes | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    meminfo = tmp_path / "meminfo"
    if content is not None:
        meminfo.write_bytes(content)
    monkeypatch.setattr(module, "_MEMORY", str(meminfo))
    assert available_memory() == 0
    with capturedLogs() as told, opened(tmp_path / "store") as stand:
        read_ahead_of(stand)
    (line,) = map(formatEvent, told)
    assert line.startswith(f"store {tmp_path / 'store'} is not read ahead: it has ")
    assert line.endswith("of the memory 0 are known to be available")


def test_a_file_that_cannot_be_read_is_logged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> int:
        raise OSError("a bad block")

    monkeypatch.setattr(store, "read_ahead", broken)
    with capturedLogs() as told, opened(tmp_path) as stand:
        read_ahead_of(stand)
    lines = [formatEvent(event) for event in told]
    assert lines == [f"store {tmp_path} cannot be read ahead: a bad block"]
