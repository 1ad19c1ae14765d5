"""Events inside one LMDB write transaction: where they are filed, putting and removing them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from hashlib import sha256
from typing import TypeAlias

from negd.interfaces import Outcome, Verdict
from negd.nostr.event import Event, InvalidEvent
from negd.nostr.filing import Filing, filing_of
from negd.nostr.packed import event_of
from negd.storage.lmdb.changes import Changes
from negd.storage.lmdb.environment import (
    Cursor,
    Database,
    Databases,
    Environment,
    Transaction,
)
from negd.storage.lmdb.postings import posting, serial_key
from negd.storage.rules import take

Lists: TypeAlias = defaultdict[bytes, list[bytes]]
"""Some lists of a database by their keys."""

IDS = b"\0"
"""The key under which all ids are listed."""

_LAST = b"serial"
"""Where ``meta`` has the last serial that was given out."""

_PLACE = 34
"""Bytes of an address before its identifier."""

_DIGEST = 16

_TAGS, _BYTES = 20, 1 << 14
"""To write so many tags or bytes costs about as much as an event besides, or twice as much."""

_VERDICTS = {outcome: Verdict(outcome) for outcome in Outcome}


def weight_of(event: Event | Filing) -> int:
    """How many usual events are as much to write."""
    content = event.packed if isinstance(event, Filing) else event.content
    return 1 + len(event.tags) // _TAGS + len(content) // _BYTES


def kind_key(kind: int) -> bytes:
    """The key of a kind's posting list."""
    return kind.to_bytes(2, "big")


def number_key(number: int) -> bytes:
    """A second as a key."""
    return number.to_bytes(8, "big")


def address_key(address: bytes) -> bytes:
    """The key of an address, whatever the length of its identifier."""
    return address[:_PLACE] + sha256(address[_PLACE:]).digest()[:_DIGEST]


def entries_of(
    databases: Databases, filings: Mapping[bytes, Filing]
) -> dict[Database, list[tuple[bytes, bytes]]]:
    """What the lists hold for these events, which are given by their serials, in order of lists.

    Records are sorted once, then the keys that there are: entries themselves would take longer.
    """
    ids: list[bytes] = []
    kinds: Lists = defaultdict(list)
    authors: Lists = defaultdict(list)
    tags: Lists = defaultdict(list)
    expiry: Lists = defaultdict(list)
    for serial, filing in sorted(filings.items(), key=_record):
        value = posting(filing.record, serial)
        ids.append(filing.id_bytes + serial)
        kinds[kind_key(filing.kind)].append(value)
        authors[filing.author].append(value)
        for key in filing.tags:
            tags[key].append(value)
        if filing.expiration is not None:
            expiry[number_key(filing.expiration)].append(value)
    return {
        databases.ids: [(IDS, value) for value in sorted(ids)],
        databases.kinds: _in_order(kinds),
        databases.authors: _in_order(authors),
        databases.tags: _in_order(tags),
        databases.expiry: _in_order(expiry),
    }


def _record(item: tuple[bytes, Filing]) -> bytes:
    return item[1].record


def _in_order(lists: Lists) -> list[tuple[bytes, bytes]]:
    return [(key, value) for key in sorted(lists) for value in lists[key]]


def serial_of(ids: Cursor, event_id: bytes) -> bytes | None:
    """The serial of a stored event.

    :param ids: a cursor of the database.
    """
    if not ids.set_range_dup(IDS, event_id):
        return None
    entry = ids.value()
    return entry[32:] if entry[:32] == event_id else None


def stored_event(environment: Environment, serial: bytes, packed: bytes) -> Event | None:
    """A stored event decoded; None, and a line in the log, where it is damaged."""
    try:
        return event_of(packed)
    except InvalidEvent as error:
        environment.tell_of_damage(serial, error.text)
        return None


def last_serial(txn: Transaction, databases: Databases) -> int:
    """The last serial that was given out, or that an event has."""
    cursor = txn.cursor(databases.events)
    last = cursor.key() if cursor.last() else b""
    return int.from_bytes(max(last, txn.get(_LAST, b"", db=databases.meta)), "big")


class LmdbShelf:
    """A :class:`negd.storage.rules.Shelf` on a write transaction, noting what it changes.

    New events and their entries in lists wait until :meth:`settle`: put together, in the order of
    the keys, they cost less.  A damaged event is taken for none: what it says is not known, and
    nobody else's event is to be refused for it.

    :ivar changes: what was done.
    """

    def __init__(self, txn: Transaction, environment: Environment) -> None:
        databases = environment.databases
        self.changes = Changes()
        self._txn = txn
        self._environment = environment
        self._databases = databases
        self._serials: dict[bytes, bytes] = {}
        self._filings: dict[bytes, Filing] = {}
        self._ids = txn.cursor(databases.ids)
        self._serial = self._settled = last_serial(txn, databases)

    def ingest(self, events: Sequence[Event | Filing], now: float) -> list[Verdict]:
        """Take events in order; see :meth:`negd.interfaces.IEventStore.ingest`."""
        return [_VERDICTS[self._ingest(filing_of(event), now)] for event in events]

    def _ingest(self, filing: Filing, now: float) -> Outcome:
        outcome = take(self, filing, now)
        if outcome is Outcome.EPHEMERAL:
            self.changes.told.append(filing)
        return outcome

    def settle(self) -> None:
        """Put what waits where it belongs; to be called before the commit."""
        databases, filings = self._databases, self._filings
        events = ((serial, filing.packed) for serial, filing in filings.items())
        self._txn.cursor(databases.events).putmulti(events, append=True)
        for database, entries in entries_of(databases, filings).items():
            self._txn.cursor(database).putmulti(entries)
        if self._serial > self._settled:
            self._txn.put(_LAST, serial_key(self._serial), db=databases.meta)
            self._settled = self._serial
        self.changes.entered.update(filings)
        filings.clear()
        self._serials.clear()

    def _serial_of(self, event_id: bytes) -> bytes | None:
        return self._serials.get(event_id) or serial_of(self._ids, event_id)

    def held(self, event_id: bytes) -> Filing | None:
        """See :class:`negd.storage.rules.Shelf`."""
        serial = self._serial_of(event_id)
        return None if serial is None else self._filing(serial)

    def holder(self, address: bytes) -> Filing | None:
        """See :class:`negd.storage.rules.Shelf`."""
        serial = self._txn.get(address_key(address), db=self._databases.addresses)
        return None if serial is None else self._filing(serial)

    def _filing(self, serial: bytes) -> Filing | None:
        if serial in self._filings:
            return self._filings[serial]
        packed = self._txn.get(serial, db=self._databases.events)
        event = None if packed is None else stored_event(self._environment, serial, packed)
        return None if event is None else Filing.of(event)

    def insert(self, filing: Filing) -> bool:
        """See :class:`negd.storage.rules.Shelf`."""
        record = filing.record
        event_id = record[8:]
        if self._serial_of(event_id) is not None:
            return False
        self._serial += 1
        serial = serial_key(self._serial)
        self._serials[event_id] = serial
        self._filings[serial] = filing
        if filing.address is not None:
            self._txn.put(address_key(filing.address), serial, db=self._databases.addresses)
        changes = self.changes
        changes.records[record] = True
        changes.told.append(filing)
        if filing.expiration is not None:
            changes.expiry = min(changes.expiry, filing.expiration)
        return True

    def remove(self, filing: Filing) -> None:
        """See :class:`negd.storage.rules.Shelf`."""
        event_id = filing.id_bytes
        serial = self._serial_of(event_id)
        if serial is None:
            return
        if event_id in self._serials:
            del self._serials[event_id], self._filings[serial]
        else:
            self._delete(filing, serial)
            self.changes.left.append(serial)
        if filing.address is not None:
            self._txn.delete(address_key(filing.address), db=self._databases.addresses)
        self.changes.records[filing.record] = False

    def _delete(self, filing: Filing, serial: bytes) -> None:
        """Take an event away that was put where it belongs."""
        delete, databases = self._txn.delete, self._databases
        delete(serial, db=databases.events)
        for database, entries in entries_of(databases, {serial: filing}).items():
            for key, value in entries:
                delete(key, value, db=database)

    def forbid_id(self, event_id: bytes, author: bytes) -> None:
        """See :class:`negd.storage.rules.Shelf`."""
        self._txn.put(event_id + author, b"", db=self._databases.deleted_ids)

    def forbid_address(self, address: bytes, until: int) -> None:
        """See :class:`negd.storage.rules.Shelf`."""
        key, until_key = address_key(address), number_key(until)
        if until_key > self._txn.get(key, b"", db=self._databases.deleted_addresses):
            self._txn.put(key, until_key, db=self._databases.deleted_addresses)

    def is_forbidden(self, filing: Filing) -> bool:
        """See :class:`negd.storage.rules.Shelf`."""
        if self.forbids_id(filing.id_bytes, filing.author):
            return True
        return filing.address is not None and self.forbids_address(filing.address, filing.record)

    def forbids_id(self, event_id: bytes, author: bytes) -> bool:
        """Whether :meth:`forbid_id` was called so."""
        return self._txn.get(event_id + author, db=self._databases.deleted_ids) is not None

    def forbids_address(self, address: bytes, record: bytes) -> bool:
        """Whether :meth:`forbid_address` was called for the second of a record or a later one."""
        until = self._txn.get(address_key(address), db=self._databases.deleted_addresses)
        return until is not None and record[:8] <= until

    def sweep(self, now: float, most: int) -> float:
        """Remove events that have expired, until they have a weight of ``most``.

        :returns: the second at which the next one expires; infinity where none ever does.
        """
        expiry = self._databases.expiry
        cursor = self._txn.cursor(expiry)
        weight = 0
        while weight < most and cursor.first() and int.from_bytes(cursor.key(), "big") <= now:
            key, value = cursor.item()
            filing = self._filing(value[8:])
            weight += 1 if filing is None else weight_of(filing)
            if filing is not None and filing.is_expired(now):
                self.remove(filing)
            self._txn.delete(key, value, db=expiry)  # a wrong entry must not stop the sweep
        return int.from_bytes(cursor.key(), "big") if cursor.first() else float("inf")
