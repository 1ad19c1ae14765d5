"""Byte strings in one: how scripts reply, and what an entry of the feed holds.

One reply of one piece, however many things it tells, is what txredisapi reads quickly with or
without hiredis.
"""

from __future__ import annotations

from collections.abc import Iterable


def frames(data: bytes) -> list[bytes]:
    """The strings in ``data``: each behind its length as a big-endian u32."""
    found = []
    at = 0
    while at < len(data):
        end = at + 4 + int.from_bytes(data[at : at + 4], "big")
        found.append(data[at + 4 : end])
        at = end
    return found


def framed(pieces: Iterable[bytes]) -> bytes:
    """The reverse of :func:`frames`."""
    return b"".join(len(piece).to_bytes(4, "big") + piece for piece in pieces)
