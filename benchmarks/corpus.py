"""Signed sample events, made once and kept under benchmarks/cache/: signing takes its time."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from itertools import islice
from multiprocessing import get_context
from pathlib import Path
from shutil import copyfileobj

from negd.testing.events import sample_events

CACHE = Path(__file__).parent / "cache"

SEGMENT = 125_000
"""Events that one process makes at a time; each segment has people of its own."""

_UNTIL = 1_700_000_000
_STEP = 3
"""Seconds from one sample event to the next."""


def corpus(count: int) -> Path:
    """A file of ``count`` events, JSONL, oldest first; the same bytes on every machine."""
    path = CACHE / f"events-{count}.jsonl"
    if not path.exists():
        CACHE.mkdir(exist_ok=True)
        began = time.monotonic()
        unfinished = path.with_suffix(".part")
        with unfinished.open("wb") as target:
            for segment in _segments(count):
                with segment.open("rb") as source:
                    copyfileobj(source, target)
                segment.unlink()
        unfinished.rename(path)
        print(f"{path.name}: {time.monotonic() - began:.0f} s", file=sys.stderr)
    return path


def _segments(count: int) -> Iterator[Path]:
    """Files of the segments, in order, made by as many processes as there are processors."""
    with ProcessPoolExecutor(mp_context=get_context("spawn")) as pool:
        yield from pool.map(partial(_make, count), range(0, count, SEGMENT))


def _make(count: int, start: int) -> Path:
    path = CACHE / f"events-{count}-{start}.part"
    size = min(SEGMENT, count - start)
    until = _UNTIL - _STEP * (count - start - size)
    with path.open("wb") as lines:
        for event in sample_events(size, seed=1 + start // SEGMENT, until=until):
            lines.write(event.encode() + b"\n")
    return path


def lines(path: Path, start: int, stop: int) -> bytes:
    """Some lines of a file, by number."""
    with path.open("rb") as source:
        return b"".join(islice(source, start, stop))
