"""Events inside one LMDB write transaction: where they are filed, putting and removing them."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from hashlib import sha256

from negd.interfaces import Outcome, Verdict
from negd.nostr.event import Event
from negd.nostr.lifecycle import Address, address_of, expiration_of, is_expired
from negd.storage.lmdb.environment import Cursor, Database, Databases, Transaction
from negd.storage.lmdb.packed import event_of, pack
from negd.storage.lmdb.postings import posting, serial_key
from negd.storage.lmdb.writer import Changes
from negd.storage.rules import take

IDS = b"\0"
"""The key under which all ids are listed."""

_LAST = b"serial"
"""Where ``meta`` has the last serial that was given out."""

_DIGEST = 16
_VERDICTS = {outcome: Verdict(outcome) for outcome in Outcome}


def kind_key(kind: int) -> bytes:
    """The key of a kind's posting list."""
    return kind.to_bytes(2, "big")


@lru_cache(maxsize=1 << 14)
def tag_key(letter: str, value: str) -> bytes:
    """The key of a tag's posting list."""
    return letter.encode() + sha256(value.encode()).digest()[:_DIGEST]


def number_key(number: int) -> bytes:
    """A second as a key."""
    return number.to_bytes(8, "big")


def address_key(address: Address) -> bytes:
    """The key of an address, whatever the length of its identifier."""
    identifier = sha256(address.identifier.encode()).digest()[:_DIGEST]
    return address.kind.to_bytes(2, "big") + bytes.fromhex(address.pubkey) + identifier


def posting_keys(databases: Databases, event: Event) -> list[tuple[Database, bytes]]:
    """The posting lists that hold the event."""
    tags = databases.tags
    keys = [
        (databases.kinds, kind_key(event.kind)),
        (databases.authors, bytes.fromhex(event.pubkey)),
    ]
    keys += [(tags, tag_key(letter, value)) for letter, value in event.indexed_tags()]
    expiration = expiration_of(event)
    if expiration is not None:
        keys.append((databases.expiry, number_key(expiration)))
    return keys


def serial_of(ids: Cursor, event_id: bytes) -> bytes | None:
    """The serial of a stored event.

    :param ids: a cursor of the database.
    """
    if not ids.set_range_dup(IDS, event_id):
        return None
    entry = ids.value()
    return entry[32:] if entry[:32] == event_id else None


def last_serial(txn: Transaction, databases: Databases) -> int:
    """The last serial that was given out, or that an event has."""
    cursor = txn.cursor(databases.events)
    last = cursor.key() if cursor.last() else b""
    return int.from_bytes(max(last, txn.get(_LAST, b"", db=databases.meta)), "big")


class LmdbShelf:
    """A :class:`negd.storage.rules.Shelf` on a write transaction, noting what it changes.

    What goes into lists waits for them until the end of a batch: put in the order of the keys it
    costs less.
    """

    def __init__(self, txn: Transaction, databases: Databases, changes: Changes) -> None:
        self._txn = txn
        self._databases = databases
        self._changes = changes
        self._waiting: dict[Database, list[tuple[bytes, bytes]]] = {}
        self._fresh: dict[bytes, bytes] = {}
        self._ids = txn.cursor(databases.ids)
        self._serial = last_serial(txn, databases)

    def ingest(self, events: Sequence[Event], now: float) -> list[Verdict]:
        """Take events in order; see :meth:`negd.interfaces.IEventStore.ingest`."""
        verdicts = [_VERDICTS[self._ingest(event, now)] for event in events]
        self._list()
        return verdicts

    def _ingest(self, event: Event, now: float) -> Outcome:
        outcome = take(self, event, now)
        if outcome is Outcome.EPHEMERAL:
            self._changes.told.append((event, event.encode()))
        return outcome

    def _list(self) -> None:
        """Put what waits into its lists."""
        for database, entries in self._waiting.items():
            self._txn.cursor(database).putmulti(sorted(entries))
        if self._fresh:
            self._txn.put(_LAST, serial_key(self._serial), db=self._databases.meta)
        self._waiting.clear()
        self._fresh.clear()

    def _serial_of(self, event_id: bytes) -> bytes | None:
        return self._fresh.get(event_id) or serial_of(self._ids, event_id)

    def held(self, event_id: bytes) -> Event | None:
        """See :class:`negd.storage.rules.Shelf`."""
        serial = self._serial_of(event_id)
        return None if serial is None else self._event(serial)

    def holder(self, address: Address) -> Event | None:
        """See :class:`negd.storage.rules.Shelf`."""
        serial = self._txn.get(address_key(address), db=self._databases.addresses)
        return None if serial is None else self._event(serial)

    def _event(self, serial: bytes) -> Event | None:
        packed = self._txn.get(serial, db=self._databases.events)
        return None if packed is None else event_of(packed)

    def insert(self, event: Event) -> bool:
        """See :class:`negd.storage.rules.Shelf`."""
        put, databases, record = self._txn.put, self._databases, event.record
        event_id = record[8:]
        if self._serial_of(event_id) is not None:
            return False
        self._serial += 1
        serial = serial_key(self._serial)
        json = event.encode()
        put(serial, pack(event, json), append=True, db=databases.events)
        self._wait(event, serial, event_id)
        address = address_of(event)
        if address is not None:
            put(address_key(address), serial, db=databases.addresses)
        self._changes.records[record] = True
        self._changes.entered.append((self._serial, event_id, event.kind))
        self._changes.told.append((event, json))
        return True

    def _wait(self, event: Event, serial: bytes, event_id: bytes) -> None:
        """Note in which lists the event is to be."""
        value, waiting = posting(event.created_at, serial), self._waiting
        expiry = self._databases.expiry
        for database, key in posting_keys(self._databases, event):
            waiting.setdefault(database, []).append((key, value))
            if database is expiry:
                self._changes.expiry = min(self._changes.expiry, int.from_bytes(key, "big"))
        waiting.setdefault(self._databases.ids, []).append((IDS, event_id + serial))
        self._fresh[event_id] = serial

    def remove(self, event: Event) -> None:
        """See :class:`negd.storage.rules.Shelf`."""
        delete, databases, event_id = self._txn.delete, self._databases, event.id_bytes
        if event_id in self._fresh:
            self._list()
        serial = serial_of(self._ids, event_id)
        if serial is None:
            return
        delete(serial, db=databases.events)
        delete(IDS, event_id + serial, db=databases.ids)
        value = posting(event.created_at, serial)
        for database, key in posting_keys(databases, event):
            delete(key, value, db=database)
        address = address_of(event)
        if address is not None:
            delete(address_key(address), db=databases.addresses)
        self._changes.records[event.record] = False
        self._changes.left.append(int.from_bytes(serial, "big"))

    def forbid_id(self, event_id: bytes, author: str) -> None:
        """See :class:`negd.storage.rules.Shelf`."""
        self._txn.put(event_id + bytes.fromhex(author), b"", db=self._databases.deleted_ids)

    def forbid_address(self, address: Address, until: int) -> None:
        """See :class:`negd.storage.rules.Shelf`."""
        key, until_key = address_key(address), number_key(until)
        if until_key > self._txn.get(key, b"", db=self._databases.deleted_addresses):
            self._txn.put(key, until_key, db=self._databases.deleted_addresses)

    def is_forbidden(self, event: Event, address: Address | None) -> bool:
        """See :class:`negd.storage.rules.Shelf`."""
        get, databases = self._txn.get, self._databases
        if get(event.id_bytes + bytes.fromhex(event.pubkey), db=databases.deleted_ids) is not None:
            return True
        if address is None:
            return False
        until = get(address_key(address), db=databases.deleted_addresses)
        return until is not None and number_key(event.created_at) <= until

    def sweep(self, now: float, most: int) -> float:
        """Remove up to ``most`` events that have expired.

        :returns: the second at which the next one expires; infinity where none ever does.
        """
        expiry = self._databases.expiry
        cursor = self._txn.cursor(expiry)
        for _ in range(most):
            if not cursor.first() or int.from_bytes(cursor.key(), "big") > now:
                break
            key, value = cursor.item()
            event = self._event(value[8:])
            if event is not None and is_expired(event, now):
                self.remove(event)
            self._txn.delete(key, value, db=expiry)  # a wrong entry must not stop the sweep
        return int.from_bytes(cursor.key(), "big") if cursor.first() else float("inf")
