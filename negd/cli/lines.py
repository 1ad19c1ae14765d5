"""Reading a file of lines in pieces, in a thread, with bounded memory."""

from __future__ import annotations

import os
import select
from codecs import BOM_UTF8
from collections.abc import Iterator
from typing import BinaryIO

MAX_LINE = 4 * 1024 * 1024
"""Bytes of one line; a longer one is given up, and the next one is read."""

_PIECE = 256 * 1024
_PATIENCE = 0.2
"""Seconds after which a read that waits for a pipe looks whether it is to stop."""

Line = tuple[int, bytes | None]
"""A line's number, from 1, and its text; None where it is too long."""


class LineReader:
    """Numbered lines of a file or pipe, as they come; empty lines are counted and left out.

    A byte order mark, which some editors put before the first line, is no part of it.

    :ivar read: bytes read so far.
    :ivar number: that of the last line that was read.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._descriptor = file.fileno()
        self._rest = b""
        self._too_long = False
        self.number = 0
        self._ended = False
        self.read = 0

    def batch(self) -> list[Line]:
        """Some further lines; an empty list is the end. Blocks while there is nothing to read.

        :raises OSError: the file cannot be read.
        """
        while piece := self._piece():
            if found := list(self._split(piece)):
                return found
        return list(self._split(b"\n")) if self._rest or self._too_long else []

    def stop(self) -> None:
        """Let a :meth:`batch` that waits in another thread return. For any thread."""
        self._ended = True

    def _split(self, piece: bytes) -> Iterator[Line]:
        *whole, self._rest = (self._rest + piece).split(b"\n")
        for line in whole:
            self.number += 1
            if self.number == 1:
                line = line.removeprefix(BOM_UTF8)
            if self._too_long or len(line) > MAX_LINE:
                yield self.number, None
            elif line.strip():
                yield self.number, line
            self._too_long = False
        if len(self._rest) > MAX_LINE:
            self._rest, self._too_long = b"", True

    def _piece(self) -> bytes:
        while not self._ended:
            ready, _, _ = select.select([self._descriptor], [], [], _PATIENCE)
            if ready:
                piece = os.read(self._descriptor, _PIECE)
                self.read += len(piece)
                self._ended = not piece
                return piece
        return b""
