"""Events inside one LMDB write transaction: where they are filed, putting and removing them."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from hashlib import sha256

from negd.interfaces import Outcome, Verdict
from negd.nostr.event import Event, decode
from negd.nostr.lifecycle import Address, address_of, expiration_of, is_expired
from negd.storage.lmdb.environment import Database, Databases, Transaction
from negd.storage.lmdb.writer import Changes
from negd.storage.rules import take

_DIGEST = 16
_VERDICTS = {outcome: Verdict(outcome) for outcome in Outcome}


def kind_key(kind: int) -> bytes:
    """The key of a kind's posting list."""
    return kind.to_bytes(2, "big")


def author_key(author: bytes, kind: int) -> bytes:
    """The key of the posting list of an author's events of one kind."""
    return author + kind.to_bytes(2, "big")


@lru_cache(maxsize=1 << 14)
def tag_key(letter: str, value: str) -> bytes:
    """The key of a tag's posting list."""
    return letter.encode() + sha256(value.encode()).digest()[:_DIGEST]


def number_key(number: int) -> bytes:
    """A second or a serial as a key."""
    return number.to_bytes(8, "big")


def address_key(address: Address) -> bytes:
    """The key of an address, whatever the length of its identifier."""
    identifier = sha256(address.identifier.encode()).digest()[:_DIGEST]
    return address.kind.to_bytes(2, "big") + bytes.fromhex(address.pubkey) + identifier


def posting_keys(databases: Databases, event: Event) -> list[tuple[Database, bytes]]:
    """The posting lists that hold the event's record."""
    kind, tags = kind_key(event.kind), databases.tags
    keys = [(databases.kinds, kind), (databases.authors, bytes.fromhex(event.pubkey) + kind)]
    keys += [(tags, tag_key(letter, value)) for letter, value in event.indexed_tags()]
    expiration = expiration_of(event)
    if expiration is not None:
        keys.append((databases.expiry, number_key(expiration)))
    return keys


def stored_json(txn: Transaction, databases: Databases, event_id: bytes) -> bytes | None:
    """The JSON of a stored event."""
    serial = txn.get(event_id, db=databases.ids)
    return None if serial is None else txn.get(serial, db=databases.events)


class LmdbShelf:
    """A :class:`negd.storage.rules.Shelf` on a write transaction, noting what it changes.

    Records wait for their posting lists until the end of a batch: put in the order of the keys
    they cost less.
    """

    def __init__(self, txn: Transaction, databases: Databases, changes: Changes) -> None:
        self._txn = txn
        self._databases = databases
        self._changes = changes
        self._postings: dict[Database, list[tuple[bytes, bytes]]] = {}
        last = txn.cursor(databases.events)
        self._serial = int.from_bytes(last.key(), "big") if last.last() else 0

    def ingest(self, events: Sequence[Event], now: float) -> list[Verdict]:
        """Take events in order; see :meth:`negd.interfaces.IEventStore.ingest`."""
        verdicts = [_VERDICTS[self._ingest(event, now)] for event in events]
        self._post()
        return verdicts

    def _ingest(self, event: Event, now: float) -> Outcome:
        outcome = take(self, event, now)
        if outcome is Outcome.EPHEMERAL:
            self._changes.told.append((event, event.encode()))
        return outcome

    def _post(self) -> None:
        for database, postings in self._postings.items():
            self._txn.cursor(database).putmulti(sorted(postings))
        self._postings.clear()

    def held(self, event_id: bytes) -> Event | None:
        """See :class:`negd.storage.rules.Shelf`."""
        json = stored_json(self._txn, self._databases, event_id)
        return None if json is None else decode(json)

    def holder(self, address: Address) -> Event | None:
        """See :class:`negd.storage.rules.Shelf`."""
        event_id = self._txn.get(address_key(address), db=self._databases.addresses)
        return None if event_id is None else self.held(event_id)

    def insert(self, event: Event) -> bool:
        """See :class:`negd.storage.rules.Shelf`."""
        put, databases, record = self._txn.put, self._databases, event.record
        serial = number_key(self._serial + 1)
        if not put(record[8:], serial, overwrite=False, db=databases.ids):
            return False
        self._serial += 1
        json = event.encode()
        put(serial, json, append=True, db=databases.events)
        for database, key in posting_keys(databases, event):
            self._postings.setdefault(database, []).append((key, record))
        address = address_of(event)
        if address is not None:
            put(address_key(address), record[8:], db=databases.addresses)
        expiration = expiration_of(event)
        if expiration is not None:
            self._changes.expiry = min(self._changes.expiry, expiration)
        self._changes.records[record] = True
        self._changes.told.append((event, json))
        return True

    def remove(self, event: Event) -> None:
        """See :class:`negd.storage.rules.Shelf`."""
        delete, databases, record = self._txn.delete, self._databases, event.record
        if record in self._changes.records:
            self._post()
        serial = self._txn.pop(record[8:], db=databases.ids)
        if serial is not None:
            delete(serial, db=databases.events)
        for database, key in posting_keys(databases, event):
            delete(key, record, db=database)
        address = address_of(event)
        if address is not None:
            delete(address_key(address), db=databases.addresses)
        self._changes.records[record] = False

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
            key, record = cursor.item()
            event = self.held(record[8:])
            if event is not None and is_expired(event, now):
                self.remove(event)
            self._txn.delete(key, record, db=expiry)  # a wrong entry must not stop the sweep
        return int.from_bytes(cursor.key(), "big") if cursor.first() else float("inf")
