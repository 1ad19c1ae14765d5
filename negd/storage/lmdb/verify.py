"""Reading a whole LMDB store: ids, signatures, indexes held against events both ways, and
deletions.

First without LMDB, which ends the process where a page is damaged: only if all pages are whole is
it asked to read them.  Then in pieces, each in a short transaction of its own, so that it can run
beside writers.  Where every event has its entries and no index has more of them than that, the
entries need not be read.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, TypeAlias

from twisted.internet.defer import Deferred, DeferredList

from negd.errors import StorageError
from negd.interfaces import VerifyReport
from negd.nostr.event import Event, InvalidEvent, check
from negd.nostr.filing import Filing
from negd.nostr.kinds import DELETION
from negd.nostr.lifecycle import deletions_of
from negd.nostr.packed import event_of
from negd.storage.lmdb.book import BOOK, is_readable
from negd.storage.lmdb.environment import Environment, Transaction
from negd.storage.lmdb.postings import serial_key
from negd.storage.lmdb.read_pool import ReadPool
from negd.storage.lmdb.shelf import (
    IDS,
    LmdbShelf,
    address_key,
    entries_of,
    last_serial,
    serial_of,
)
from negd.storage.rules import is_deletable

_PIECE = 500
_MOST_PROBLEMS = 1000
_LISTS = ("kinds", "authors", "tags", "expiry")

_FaultFinder: TypeAlias = Callable[[Transaction, str, bytes, bytes], str | None]
"""What is wrong with an entry: called with the name of the index, a key and a value."""


@dataclass
class _Piece:
    """What was read of the events at a time.

    :ivar entries: how many entries these events should have in each index.
    :ivar following: the serial to go on with; None at the end.
    """

    read: int = 0
    problems: list[str] = field(default_factory=list)
    broken: set[int] = field(default_factory=set)
    entries: Counter[str] = field(default_factory=Counter)
    following: int | None = None


class Verification:
    """One run over a store.

    :param progress: told (events read, events in all) in the reactor thread.
    :ivar broken: the serials of what is no valid event.
    :ivar damaged: whether pages are damaged; nothing else was looked at then.
    :ivar found: how many problems were found, listed or not.
    """

    def __init__(
        self, environment: Environment, pool: ReadPool, progress: Callable[[int, int], None]
    ) -> None:
        self._environment = environment
        self._databases = environment.databases
        self._pool = pool
        self._progress = progress
        self._names = {database: name for name, database in vars(self._databases).items()}
        self._read = 0
        self._total = 0
        self._entries: Counter[str] = Counter()
        self._problems: list[str] = []
        self.broken: set[int] = set()
        self.damaged = False
        self.found = 0

    async def run(self) -> VerifyReport:
        """Look at everything, or at the pages only where some are damaged."""
        try:
            state = await self._pool(self._environment.look)
            if state.faults:
                self.damaged, self._read = True, state.events
                self._report(state.faults)
            else:
                await self._run()
        except StorageError as error:
            self._report([error.text])
        if self.found > len(self._problems):
            self._problems.append(f"and {self.found - len(self._problems)} more")
        return VerifyReport(self._read, self._problems)

    async def _run(self) -> None:
        self._report(await self._pool(self._book_faults))
        self._total, last = await self._pool(self._size)
        middle = last // 2 + 1
        halves = [(0, middle), (middle, last + 1)]
        reading: list[Deferred[Any]] = [
            Deferred.fromCoroutine(self._events(*half)) for half in halves
        ]
        for done, result in await DeferredList(reading, consumeErrors=True):
            if not done:
                result.raiseException()
        counts = await self._pool(self._count_entries)
        if self._problems or counts != self._entries:
            await self._search_entries()

    def _book_faults(self) -> list[str]:
        with self._environment.read() as txn:
            return [
                f"{name}: the entry under {key.hex()} cannot be read"
                for name in BOOK
                for key, value in txn.cursor(getattr(self._databases, name))
                if not is_readable(name, key, value)
            ]

    def _count_entries(self) -> Counter[str]:
        """How many entries each index has."""
        with self._environment.read() as txn:
            return Counter(
                {
                    name: txn.stat(getattr(self._databases, name))["entries"]
                    for name in (*_LISTS, "ids", "addresses")
                }
            )

    async def _search_entries(self) -> None:
        """Find the entries that should not be there, or that came while this was running."""
        for name in _LISTS:
            await self._search(name, self._posting_fault)
        await self._search("ids", self._id_fault)
        await self._search("addresses", self._address_fault)

    def _size(self) -> tuple[int, int]:
        """How many events there are, and the last serial."""
        with self._environment.read() as txn:
            return txn.stat(self._databases.events)["entries"], last_serial(txn, self._databases)

    def _report(self, problems: Iterable[str]) -> None:
        for problem in problems:
            self.found += 1
            if len(self._problems) < _MOST_PROBLEMS:
                self._problems.append(problem)

    # --- from events to indexes -----------------------------------------------------------------

    async def _events(self, begin: int, end: int) -> None:
        """Those with serials from ``begin`` up to ``end``."""
        position: int | None = begin
        while position is not None:
            piece = await self._pool(self._check_events, position, end)
            position = piece.following
            self._read += piece.read
            self._entries += piece.entries
            self.broken |= piece.broken
            self._report(piece.problems)
            self._progress(self._read, max(self._read, self._total))

    def _check_events(self, begin: int, end: int) -> _Piece:
        stop = min(end, begin + _PIECE)
        piece = _Piece(following=stop if stop < end else None)
        with self._environment.read() as txn:
            for number in range(begin, stop):
                packed = txn.get(serial_key(number), db=self._databases.events)
                if packed is not None:
                    self._check_packed(txn, piece, number, packed)
        return piece

    def _check_packed(self, txn: Transaction, piece: _Piece, number: int, packed: bytes) -> None:
        piece.read += 1
        try:
            self._check_event(txn, piece, serial_key(number), event_of(packed))
        except InvalidEvent as error:
            piece.broken.add(number)
            piece.problems.append(f"events: number {number} is {error.text}")

    def _check_event(self, txn: Transaction, piece: _Piece, serial: bytes, event: Event) -> None:
        faults = []
        fault = check(event)
        if fault is not None:
            piece.broken.add(int.from_bytes(serial, "big"))
            faults.append(fault)
        piece.entries["ids"] += 1
        if serial_of(txn.cursor(self._databases.ids), event.id_bytes) != serial:
            faults.append("not in ids")
        filing = Filing.of(event)
        lists = entries_of(self._databases, {serial: filing})
        del lists[self._databases.ids]
        for database, entries in lists.items():
            name = self._names[database]
            piece.entries[name] += len(entries)
            for key, value in entries:
                if not txn.cursor(database).set_key_dup(key, value):
                    faults.append(f"not in {name} under {key.hex()}")
        faults += self._deletion_faults(txn, filing)
        if filing.address is not None:
            piece.entries["addresses"] += 1
            if txn.get(address_key(filing.address), db=self._databases.addresses) != serial:
                faults.append("does not hold its address")
        piece.problems += [f"event {event.id}: {fault}" for fault in faults]

    def _deletion_faults(self, txn: Transaction, filing: Filing) -> list[str]:
        """Whether a deletion is remembered, or another event deleted."""
        shelf = LmdbShelf(txn, self._environment)
        if filing.kind != DELETION:
            return ["is deleted"] if shelf.is_forbidden(filing) else []
        asked, author = deletions_of(filing.event), filing.author
        ids = [i for i in asked.ids if not shelf.forbids_id(i, author)]
        ids = [i for i in ids if _may_be_deleted(shelf.held(i), author)]
        missing = [a for a in asked.addresses if not shelf.forbids_address(a.key, filing.record)]
        return [
            *(f"{event_id.hex()} is not in deleted_ids" for event_id in ids),
            *(f"{address.key.hex()} is not in deleted_addresses" for address in missing),
        ]

    # --- from indexes to events -----------------------------------------------------------------

    async def _search(self, name: str, fault: _FaultFinder) -> None:
        position: tuple[bytes, bytes] | None = (b"\0", b"")
        while position is not None:
            problems, position = await self._pool(self._check_entries, name, position, fault)
            self._report(problems)

    def _check_entries(
        self, name: str, position: tuple[bytes, bytes], fault: _FaultFinder
    ) -> tuple[list[str], tuple[bytes, bytes] | None]:
        with self._environment.read() as txn:
            cursor = txn.cursor(getattr(self._databases, name))
            key, value = position
            if not value or name == "addresses":
                found = cursor.set_range(key)
            else:
                found = cursor.set_range_dup(key, value) or cursor.set_range(key + b"\0")
            if not found:
                return [], None
            piece = list(islice(cursor, _PIECE + 1))
            faults = [fault(txn, name, key, value) for key, value in piece[:_PIECE]]
        problems = [f"{name}: {fault}" for fault in faults if fault is not None]
        return problems, piece[_PIECE] if len(piece) > _PIECE else None

    def _posting_fault(self, txn: Transaction, name: str, key: bytes, value: bytes) -> str | None:
        serial = value[8:]
        filing = self._filing(txn, serial)
        if filing is None:
            return f"lists number {_number(serial)} wrongly under {key.hex()}"
        lists = entries_of(self._databases, {serial: filing})
        if (key, value) in lists[getattr(self._databases, name)]:
            return None
        return f"lists {filing.id_bytes.hex()} wrongly under {key.hex()}"

    def _id_fault(self, txn: Transaction, name: str, key: bytes, value: bytes) -> str | None:
        event_id, serial = value[:32], value[32:]
        filing = self._filing(txn, serial)
        if key == IDS and filing is not None and filing.id_bytes == event_id:
            return None
        return f"{event_id.hex()} is listed and not stored"

    def _address_fault(self, txn: Transaction, name: str, key: bytes, serial: bytes) -> str | None:
        filing = self._filing(txn, serial)
        address = None if filing is None else filing.address
        if address is not None and address_key(address) == key:
            return None
        return f"number {_number(serial)} holds what it has no right to"

    def _filing(self, txn: Transaction, serial: bytes) -> Filing | None:
        packed = txn.get(serial, db=self._databases.events)
        try:
            return None if packed is None else Filing.of(event_of(packed))
        except InvalidEvent:
            return None


def _may_be_deleted(held: Filing | None, author: bytes) -> bool:
    """Whether it matters that a deletion is forgotten: older stores remember no others."""
    return held is None or is_deletable(held, author)


def _number(serial: bytes) -> int:
    return int.from_bytes(serial, "big")
