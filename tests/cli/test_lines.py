"""Lines of files and pipes: numbered, bounded, and never a reader that cannot be stopped."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from negd.cli import lines
from negd.cli.lines import LineReader


def read_all(path: Path) -> list[tuple[int, bytes | None]]:
    found = []
    with path.open("rb") as file:
        reader = LineReader(file)
        while batch := reader.batch():
            found += batch
        assert reader.read == path.stat().st_size
    return found


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("lines") / "file"


@given(data=st.binary().map(lambda data: data.replace(b"7", b"\n")), piece=st.integers(1, 9))
def test_lines_are_those_between_line_feeds(path: Path, data: bytes, piece: int) -> None:
    path.write_bytes(data)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lines, "_PIECE", piece)
        found = read_all(path)
    assert found == [(n, line) for n, line in enumerate(data.split(b"\n"), 1) if line.strip()]


@pytest.mark.parametrize("piece", [64, 1000, 2**20])
def test_a_line_that_is_too_long_is_given_up_and_the_next_is_read(
    path: Path, piece: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lines, "MAX_LINE", 1000)
    monkeypatch.setattr(lines, "_PIECE", piece)
    path.write_bytes(b"\n".join([b"a" * 1000, b"b" * 1001, b"c", b"d" * 5000]))
    assert read_all(path) == [(1, b"a" * 1000), (2, None), (3, b"c"), (4, None)]


def test_lines_come_as_they_are_written() -> None:
    receiving, sending = os.pipe()
    with os.fdopen(receiving, "rb") as file, os.fdopen(sending, "wb", buffering=0) as end:
        reader = LineReader(file)
        end.write(b"one\ntwo\nthr")
        assert reader.batch() == [(1, b"one"), (2, b"two")]
        end.write(b"ee\n")
        assert reader.batch() == [(3, b"three")]


def test_a_batch_is_no_more_than_one_read(path: Path) -> None:
    path.write_bytes(b"x\n" * 2**20)
    with path.open("rb") as file:
        reader = LineReader(file)
        assert 0 < len(reader.batch()) <= 2**17
        assert reader.read <= 2**18


def test_a_reader_that_waits_for_a_pipe_can_be_stopped() -> None:
    receiving, sending = os.pipe()
    with os.fdopen(receiving, "rb") as file, os.fdopen(sending, "wb"):
        reader = LineReader(file)
        waiting = threading.Thread(target=reader.batch)
        waiting.start()
        reader.stop()
        waiting.join(10)
        assert not waiting.is_alive()


def test_a_byte_order_mark_is_no_part_of_the_first_line(path: Path) -> None:
    path.write_bytes(b"\xef\xbb\xbffirst\n\xef\xbb\xbfsecond\n")
    assert read_all(path) == [(1, b"first"), (2, b"\xef\xbb\xbfsecond")]
