"""Reading a file of lines in pieces, in a thread, with bounded memory."""

from __future__ import annotations

import os
import select
from collections.abc import Iterator
from typing import BinaryIO

MAX_LINE = 4 * 1024 * 1024
"""Bytes of one line; a longer one is given up, and the next one is read."""

BATCH_LINES = 1000
BATCH_BYTES = 4 * 1024 * 1024

_PIECE = 256 * 1024
_PATIENCE = 0.2
"""Seconds after which a read that waits for a pipe looks whether it is to stop."""


class LineReader:
    """Numbered lines of a file or pipe, batch by batch; empty lines are counted and left out.

    :ivar read: bytes read so far.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._descriptor = file.fileno()
        self._stopped = False
        self._lines = self._numbered()
        self.read = 0

    def batch(self) -> list[tuple[int, bytes | None]]:
        """Further lines and their numbers, from 1; None is a line that is too long.

        An empty list is the end. Blocks while there is nothing to read.

        :raises OSError: the file cannot be read.
        """
        found: list[tuple[int, bytes | None]] = []
        size = 0
        for number, line in self._lines:
            found.append((number, line))
            size += len(line or b"")
            if len(found) >= BATCH_LINES or size >= BATCH_BYTES:
                break
        return found

    def stop(self) -> None:
        """Let a :meth:`batch` that waits in another thread return. For any thread."""
        self._stopped = True

    def _numbered(self) -> Iterator[tuple[int, bytes | None]]:
        for number, line in enumerate(self._split(), 1):
            if line is None or line.strip():
                yield number, line

    def _split(self) -> Iterator[bytes | None]:
        rest = b""
        too_long = False
        while piece := self._piece():
            *whole, rest = (rest + piece).split(b"\n")
            for line in whole:
                yield None if too_long or len(line) > MAX_LINE else line
                too_long = False
            if len(rest) > MAX_LINE:
                rest, too_long = b"", True
        if rest or too_long:
            yield None if too_long else rest

    def _piece(self) -> bytes:
        while not self._stopped:
            ready, _, _ = select.select([self._descriptor], [], [], _PATIENCE)
            if ready:
                piece = os.read(self._descriptor, _PIECE)
                self.read += len(piece)
                return piece
        return b""
