"""Progress on stderr: a live bar for a person, a line now and then for a log."""

from __future__ import annotations

import sys
from collections.abc import Callable
from time import monotonic
from typing import TYPE_CHECKING, Any, Protocol, TextIO

if TYPE_CHECKING:
    from tqdm import tqdm

LINE_INTERVAL = 5.0
"""Seconds between lines where no person is watching."""

_BAR = "{desc}: {percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} [{rate_noinv_fmt}{postfix}]"


class Meter(Protocol):
    """Shows how far something has come."""

    def show(self, done: int, total: int | None, note: str = "") -> None:
        """:param total: of the same unit as ``done``; None where it is not known."""

    def say(self, text: str) -> None:
        """A line of its own, which stays."""

    def close(self) -> None:
        """Nothing more is shown."""


def meter(title: str, unit: str, stream: TextIO | None = None) -> Meter:
    """A bar where ``stream`` (stderr by default) is a terminal, else lines."""
    stream = stream or sys.stderr
    return Bar(title, unit, stream) if stream.isatty() else Lines(title, unit, stream, monotonic)


class Bar:
    """A live bar."""

    def __init__(self, title: str, unit: str, stream: TextIO) -> None:
        from tqdm import tqdm

        self._stream = stream
        self._bar: tqdm[Any] = tqdm(
            desc=title,
            unit=f" {unit}",
            unit_scale=unit == "B",
            bar_format=_BAR,
            file=stream,
            dynamic_ncols=True,
        )

    def show(self, done: int, total: int | None, note: str = "") -> None:
        """See :class:`Meter`."""
        self._bar.total = total
        self._bar.set_postfix_str(note, refresh=False)
        self._bar.update(done - self._bar.n)

    def say(self, text: str) -> None:
        """See :class:`Meter`."""
        self._bar.write(text, file=self._stream)

    def close(self) -> None:
        """See :class:`Meter`."""
        self._bar.close()


class Lines:
    """Plain lines, at most one every :data:`LINE_INTERVAL` seconds."""

    def __init__(self, title: str, unit: str, stream: TextIO, clock: Callable[[], float]) -> None:
        self._title = title
        self._unit = unit
        self._stream = stream
        self._clock = clock
        self._next = clock() + LINE_INTERVAL

    def show(self, done: int, total: int | None, note: str = "") -> None:
        """See :class:`Meter`."""
        if self._clock() < self._next:
            return
        self._next = self._clock() + LINE_INTERVAL
        of = "" if total is None else f" of {total:,}"
        self.say(f"{self._title}: {done:,}{of} {self._unit}{note and f', {note}'}")

    def say(self, text: str) -> None:
        """See :class:`Meter`."""
        print(text, file=self._stream, flush=True)

    def close(self) -> None:
        """See :class:`Meter`."""
