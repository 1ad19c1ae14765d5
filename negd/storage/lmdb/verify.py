"""Reading a whole LMDB store: ids, signatures, and indexes held against events both ways.

In pieces, each in a short transaction of its own, so that it can run beside writers.  Where every
event has its entries and no index has more of them than that, the entries need not be read.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from twisted.internet.defer import Deferred, DeferredList

from negd.errors import StorageError
from negd.interfaces import VerifyReport
from negd.nostr.event import Event, InvalidEvent, check, decode
from negd.nostr.lifecycle import address_of
from negd.storage.lmdb.environment import Database, Environment, Transaction
from negd.storage.lmdb.read_pool import ReadPool
from negd.storage.lmdb.shelf import address_key, number_key, posting_keys, stored_json

_PIECE = 500
_MOST_PROBLEMS = 1000
_LISTS = ("kinds", "authors", "tags", "expiry")


@dataclass
class _Piece:
    """What was read of the events at a time.

    :ivar entries: how many entries these events should have in each index.
    :ivar following: the serial to go on with; None at the end.
    """

    read: int = 0
    problems: list[str] = field(default_factory=list)
    entries: Counter[str] = field(default_factory=Counter)
    following: int | None = None


class Verification:
    """One run over a store.

    :param progress: told (events read, events in all) in the reactor thread.
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
        self._unlisted = 0

    async def run(self) -> VerifyReport:
        """Look at everything, as far as LMDB can read its own pages."""
        try:
            await self._run()
        except StorageError as error:
            self._problems.append(error.text)
        if self._unlisted:
            self._problems.append(f"and {self._unlisted} more")
        return VerifyReport(self._read, self._problems)

    async def _run(self) -> None:
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
            await self._list(name)
        await self._pieces(self._check_ids)
        await self._pieces(self._check_addresses)

    def _size(self) -> tuple[int, int]:
        """How many events there are, and the last serial."""
        with self._environment.read() as txn:
            cursor = txn.cursor(self._databases.events)
            last = int.from_bytes(cursor.key(), "big") if cursor.last() else 0
            return txn.stat(self._databases.events)["entries"], last

    def _report(self, problems: Iterable[str]) -> None:
        for problem in problems:
            if len(self._problems) < _MOST_PROBLEMS:
                self._problems.append(problem)
            else:
                self._unlisted += 1

    # --- from events to indexes -----------------------------------------------------------------

    async def _events(self, begin: int, end: int) -> None:
        """Those with serials from ``begin`` up to ``end``."""
        position: int | None = begin
        while position is not None:
            piece = await self._pool(self._check_events, position, end)
            position = piece.following
            self._read += piece.read
            self._entries += piece.entries
            self._report(piece.problems)
            self._progress(self._read, max(self._read, self._total))

    def _check_events(self, begin: int, end: int) -> _Piece:
        piece = _Piece()
        with self._environment.read() as txn:
            cursor = txn.cursor(self._databases.events)
            if not cursor.set_range(number_key(begin)):
                return piece
            for serial, json in islice(cursor, _PIECE):
                number = int.from_bytes(serial, "big")
                if number >= end:
                    return piece
                piece.read += 1
                try:
                    self._check_event(txn, piece, serial, decode(json))
                except InvalidEvent as error:
                    piece.problems.append(f"events: number {number} is {error.text}")
        piece.following = number + 1
        return piece

    def _check_event(self, txn: Transaction, piece: _Piece, serial: bytes, event: Event) -> None:
        faults = [check(event)]
        piece.entries["ids"] += 1
        if txn.get(event.id_bytes, db=self._databases.ids) != serial:
            faults.append("not in ids")
        for database, key in posting_keys(self._databases, event):
            name = self._names[database]
            piece.entries[name] += 1
            if not txn.cursor(database).set_key_dup(key, event.record):
                faults.append(f"not in {name} under {key.hex()}")
        address = address_of(event)
        if address is not None:
            piece.entries["addresses"] += 1
            if txn.get(address_key(address), db=self._databases.addresses) != event.id_bytes:
                faults.append("does not hold its address")
        piece.problems += [f"event {event.id}: {fault}" for fault in faults if fault is not None]

    # --- from indexes to events -----------------------------------------------------------------

    async def _list(self, name: str) -> None:
        position: tuple[bytes, bytes] | None = (b"\0", b"")
        while position is not None:
            problems, position = await self._pool(self._check_entries, name, position)
            self._report(problems)

    def _check_entries(
        self, name: str, position: tuple[bytes, bytes]
    ) -> tuple[list[str], tuple[bytes, bytes] | None]:
        problems: list[str] = []
        database = getattr(self._databases, name)
        with self._environment.read() as txn:
            cursor = txn.cursor(database)
            key, record = position
            if not (cursor.set_range_dup(key, record) or cursor.set_range(key + b"\0")):
                return problems, None
            piece = list(islice(cursor, _PIECE + 1))
            places = {record: self._places(txn, record) for record in {r for _, r in piece}}
        for key, record in piece[:_PIECE]:
            if (database, key) not in places[record]:
                problems.append(f"{name}: lists {record[8:].hex()} wrongly under {key.hex()}")
        return problems, piece[_PIECE] if len(piece) > _PIECE else None

    def _places(self, txn: Transaction, record: bytes) -> set[tuple[Database, bytes]]:
        """Where the record belongs; nowhere if there is no such event."""
        event = self._event(txn, record[8:])
        if event is None or event.record != record:
            return set()
        return set(posting_keys(self._databases, event))

    def _event(self, txn: Transaction, event_id: bytes) -> Event | None:
        json = stored_json(txn, self._databases, event_id)
        try:
            return None if json is None else decode(json)
        except InvalidEvent:
            return None

    async def _pieces(self, check_piece: Callable[[bytes], tuple[list[str], bytes | None]]) -> None:
        position: bytes | None = b"\0"
        while position is not None:
            problems, position = await self._pool(check_piece, position)
            self._report(problems)

    def _check_ids(self, begin: bytes) -> tuple[list[str], bytes | None]:
        problems: list[str] = []
        with self._environment.read() as txn:
            piece = _piece(txn, self._databases.ids, begin)
            for event_id, _ in piece:
                event = self._event(txn, event_id)
                if event is None or event.id_bytes != event_id:
                    problems.append(f"ids: {event_id.hex()} is listed and not stored")
        return problems, _following(piece)

    def _check_addresses(self, begin: bytes) -> tuple[list[str], bytes | None]:
        problems: list[str] = []
        with self._environment.read() as txn:
            piece = _piece(txn, self._databases.addresses, begin)
            for key, event_id in piece:
                event = self._event(txn, event_id)
                address = None if event is None else address_of(event)
                if address is None or address_key(address) != key:
                    problems.append(f"addresses: {event_id.hex()} holds what it has no right to")
        return problems, _following(piece)


def _piece(txn: Transaction, database: Database, begin: bytes) -> list[tuple[bytes, bytes]]:
    cursor = txn.cursor(database)
    return list(islice(cursor, _PIECE)) if cursor.set_range(begin) else []


def _following(piece: list[tuple[bytes, bytes]]) -> bytes | None:
    return piece[-1][0] + b"\0" if len(piece) == _PIECE else None
