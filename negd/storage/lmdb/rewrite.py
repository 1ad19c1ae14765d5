"""Making a whole store anew out of its events, in a file beside it that then takes its place.

So a store of an older layout is upgraded, a damaged one repaired and a loose one compacted: every
event is stored again under the rules, and indexes need no repair.  Until the new file is complete
and on the disk the old one is what there is; what a crash leaves of the new one is removed when
the store is opened again.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator
from contextlib import contextmanager
from itertools import islice

from negd.nostr.event import Event, InvalidEvent, decode
from negd.nostr.filing import Filing
from negd.nostr.packed import unpack
from negd.storage.lmdb.book import BOOK, is_readable
from negd.storage.lmdb.environment import FIRST_MAP, Cursor, Environment, Sync
from negd.storage.lmdb.postings import SERIAL
from negd.storage.lmdb.shelf import LmdbShelf

_PIECE = 5000
_PIECE_BYTES = 32 << 20
"""Events that are stored together, or the bytes that fewer of them have."""

_AT_ONCE = 200_000
_AT_ONCE_BYTES = 256 << 20
"""Events, and bytes of the file, up to which a store is written in one transaction, which leaves no
pages unused and takes as much memory; larger ones get a transaction for every piece."""

_COPIED = ("deleted_ids", "deleted_addresses", *BOOK)
"""Databases that say what no event does."""

_ROOM = 4
"""How much more room the new map has than the old file took."""


def rewrite(
    environment: Environment,
    progress: Callable[[int, int], None],
    without: Container[int] = (),
    if_smaller: bool = False,
) -> None:
    """Make the store anew, in the layout of now. Serials are other ones then.

    LMDB reads all of it, so its pages must be whole: see :meth:`Environment.look`.

    :param progress: told (events done, events in all).
    :param without: serials of events to leave out; what cannot be decoded is left out anyway.
    :param if_smaller: leave the store as it is where that would not make it smaller.
    :raises StorageError: it failed. The store is as it was.
    """

    def make(folder: str) -> bool:
        with made_in(folder, environment.bytes) as target:
            total = _copy_others(environment, target)
            events = _events(environment, without)
            fill(target, events, total, environment.bytes, progress)
            target.sync()
            return not if_smaller or target.bytes < environment.bytes

    environment.replace(make)


@contextmanager
def made_in(folder: str, size: int) -> Iterator[Environment]:
    """An empty store to be filled, which is not safe on the disk before its :meth:`sync`.

    :param size: bytes of the file in whose place it is to come.
    """
    room = max(FIRST_MAP, _ROOM * size)
    target = Environment(folder, read_only=False, first_map=room, sync=Sync.NONE)
    try:
        yield target
    finally:
        target.close()


def fill(
    target: Environment,
    events: Iterator[Event | None],
    total: int,
    size: int,
    progress: Callable[[int, int], None],
) -> None:
    """Store events again under the rules.

    :param events: None stands for each that there is no more.
    :param total: how many there will be.
    :param size: bytes of the file that they are from.
    :param progress: told (events done, events in all).
    """
    at_once = total <= _AT_ONCE and size <= _AT_ONCE_BYTES
    done = 0
    while piece := _piece(events):
        with target.write() as txn:
            while piece:
                shelf = LmdbShelf(txn, target)
                shelf.ingest([filing for filing in piece if filing is not None], now=0)
                shelf.settle()
                done += len(piece)
                progress(done, max(done, total))
                piece = _piece(events) if at_once else []


def _piece(events: Iterator[Event | None]) -> list[Filing | None]:
    """The next events to be stored together; none at the end."""
    piece: list[Filing | None] = []
    length = 0
    for event in events:
        filing = None if event is None else Filing.of(event)
        piece.append(filing)
        length += 0 if filing is None else len(filing.packed)
        if len(piece) == _PIECE or length >= _PIECE_BYTES:
            break
    return piece


def _copy_others(source: Environment, target: Environment) -> int:
    """Copy what is no event; how many events there are."""
    with source.read() as old, target.write() as new:
        for name in _COPIED:
            values = sorted(old.cursor(getattr(source.databases, name)))
            if name in BOOK:
                values = [entry for entry in values if is_readable(name, *entry)]
            new.cursor(getattr(target.databases, name)).putmulti(values)
        entries: int = old.stat(source.databases.events)["entries"]
    return entries


def _events(source: Environment, without: Container[int]) -> Iterator[Event | None]:
    """All events, each read in a transaction that ends before the next piece is asked for."""
    width = 8 if source.schema == 1 else SERIAL
    begin = 0
    while True:
        with source.read() as txn:
            piece = _read(txn.cursor(source.databases.events), begin.to_bytes(width, "big"))
        if not piece:
            return
        for key, value in piece:
            number = int.from_bytes(key, "big")
            yield None if number in without else _decoded(value, source.schema)
        begin = number + 1


def _read(cursor: Cursor, begin: bytes) -> list[tuple[bytes, bytes]]:
    """The entries from a key on that are read together; none at the end."""
    piece: list[tuple[bytes, bytes]] = []
    length = 0
    if cursor.set_range(begin):
        for key, value in islice(cursor, _PIECE):
            piece.append((key, value))
            length += len(value)
            if length >= _PIECE_BYTES:
                break
    return piece


def _decoded(value: bytes, schema: int) -> Event | None:
    try:
        return decode(value if schema == 1 else unpack(value))
    except InvalidEvent:
        return None
