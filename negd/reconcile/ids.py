"""Many ids in one piece of memory."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import overload

from negd.reconcile.arrays import PIECE, Mask, Rows

ID = 32
_PIECE = 1 << 10


class Ids(Sequence[bytes]):
    """A sequence of 32-byte ids, which are objects only while somebody looks at them.

    A million objects in a list take 100 MB, and the interpreter's search for garbage passes over
    them again and again, for 40 ms each time in which nothing else runs.
    """

    def __init__(self, ids: Iterable[bytes] = ()) -> None:
        self._data = bytearray(b"".join(ids))

    def append(self, event_id: bytes) -> None:
        """Add an id."""
        self._data += event_id

    def extend(self, ids: Iterable[bytes]) -> None:
        """Add ids."""
        self._data += b"".join(ids)

    def add_rows(self, rows: Rows, which: Mask) -> None:
        """Add ids that are rows of an array of shape (n, 32).

        Not all in one call, which would hold up all other threads for 0.1 s a million.
        """
        for begin in range(0, len(rows), PIECE):
            piece = slice(begin, begin + PIECE)
            self._data += rows[piece][which[piece]].tobytes()

    def __len__(self) -> int:
        return len(self._data) // ID

    def __iter__(self) -> Iterator[bytes]:
        for begin in range(0, len(self), _PIECE):
            yield from self[begin : begin + _PIECE]

    @overload
    def __getitem__(self, place: int) -> bytes: ...
    @overload
    def __getitem__(self, place: slice) -> list[bytes]: ...
    def __getitem__(self, place: int | slice) -> bytes | list[bytes]:
        if isinstance(place, slice):
            return [self._at(i) for i in range(*place.indices(len(self)))]
        return self._at(range(len(self))[place])

    def _at(self, place: int) -> bytes:
        return bytes(self._data[place * ID : (place + 1) * ID])

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and list(self) == list(other)

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"<{len(self)} ids>"
