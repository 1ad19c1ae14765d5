"""Making a whole store anew out of its events, in a file beside it that then takes its place.

So a store of an older layout is upgraded, a damaged one repaired and a loose one compacted: every
event is stored again under the rules, and indexes need no repair.  Until the new file is complete
and on the disk the old one is what there is; what a crash leaves of the new one is removed when
the store is opened again.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator
from dataclasses import dataclass

import lmdb

from negd.nostr.event import Event, InvalidEvent, decode
from negd.nostr.packed import unpack
from negd.storage.lmdb.environment import (
    FIRST_MAP,
    Environment,
    Sync,
)
from negd.storage.lmdb.postings import SERIAL
from negd.storage.lmdb.shelf import LmdbShelf, last_serial

_PIECE = 5000
"""Events that are stored together."""

_AT_ONCE = 200_000
"""Events up to which a store is written in one transaction, which leaves no pages unused and takes
some 200 MB of memory; larger ones get a transaction for every piece."""

_COPIED = ("deleted_ids", "deleted_addresses", "peers", "residues", "ledger", "ledger_due")
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

    :param progress: told (events done, events in all).
    :param without: serials of events to leave out; what cannot be decoded is left out anyway.
    :param if_smaller: leave the store as it is where that would not make it smaller.
    :raises StorageError: it failed. The store is as it was.
    """

    def make(folder: str) -> bool:
        room = max(FIRST_MAP, _ROOM * environment.bytes)
        target = Environment(folder, read_only=False, first_map=room, sync=Sync.NONE)
        try:
            _Copy(environment, target).run(progress, without)
            target.sync()
            return not if_smaller or target.bytes < environment.bytes
        finally:
            target.close()

    environment.replace(make)


@dataclass(frozen=True)
class _Copy:
    source: Environment
    target: Environment

    def run(self, progress: Callable[[int, int], None], without: Container[int]) -> None:
        total, last = self._others()
        done = 0
        pieces = list(range(1, last + 1, _PIECE))
        steps = [pieces] if total <= _AT_ONCE else [[begin] for begin in pieces]
        for step in steps:
            with self.target.write() as txn:
                for begin in step:
                    piece = list(self._events(begin, min(begin + _PIECE, last + 1)))
                    events = [event for number, event in piece if event and number not in without]
                    shelf = LmdbShelf(txn, self.target.databases)
                    shelf.ingest(events, now=0)
                    shelf.settle()
                    done += len(piece)
                    progress(done, total)

    def _others(self) -> tuple[int, int]:
        """Copy what is no event; how many events there are, and the last serial."""
        old = self.source.databases
        with self.source.read() as source, self.target.write() as target:
            for name in _COPIED:
                values = list(source.cursor(getattr(old, name)))
                target.cursor(getattr(self.target.databases, name)).putmulti(values, append=True)
            return source.stat(old.events)["entries"], last_serial(source, old)

    def _events(self, begin: int, end: int) -> Iterator[tuple[int, Event | None]]:
        """Numbers and events; None for what cannot be read, after which LMDB wants a new start."""
        width = 8 if self.source.schema == 1 else SERIAL
        number = begin
        while number < end:
            try:
                with self.source.read() as txn:
                    while number < end:
                        key = number.to_bytes(width, "big")
                        value = txn.get(key, db=self.source.databases.events)
                        if value is not None:
                            yield number, self._decoded(value)
                        number += 1
            except lmdb.Error:
                yield number, None
                number += 1

    def _decoded(self, value: bytes) -> Event | None:
        try:
            return decode(value if self.source.schema == 1 else unpack(value))
        except InvalidEvent:
            return None
