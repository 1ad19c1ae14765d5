"""Signed sample events, made once and kept under benchmarks/cache/: signing takes its time."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

from negd.testing.events import sample_events

_CACHE = Path(__file__).parent / "cache"


def corpus(count: int) -> Path:
    """A file of ``count`` events, JSONL, oldest first; the same bytes on every machine."""
    path = _CACHE / f"events-{count}.jsonl"
    if not path.exists():
        _CACHE.mkdir(exist_ok=True)
        unfinished = path.with_suffix(".part")
        with unfinished.open("wb") as lines:
            for event in sample_events(count):
                lines.write(event.encode() + b"\n")
        unfinished.rename(path)
    return path


def lines(path: Path, start: int, stop: int) -> bytes:
    """Some lines of a file, by number."""
    with path.open("rb") as source:
        return b"".join(islice(source, start, stop))
