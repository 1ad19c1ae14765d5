"""Events inside one LMDB write transaction: where they are filed, putting and removing them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from hashlib import sha256

from negd.interfaces import Outcome, Verdict
from negd.nostr.event import Event, decode
from negd.nostr.lifecycle import Address, address_of, expiration_of
from negd.storage.lmdb.environment import Database, Databases, Transaction
from negd.storage.lmdb.writer import Changes
from negd.storage.rules import take

_DIGEST = 16


def kind_key(kind: int) -> bytes:
    """The key of a kind's posting list."""
    return kind.to_bytes(2, "big")


def author_key(author: bytes, kind: int) -> bytes:
    """The key of the posting list of an author's events of one kind."""
    return author + kind.to_bytes(2, "big")


def tag_key(letter: str, value: str) -> bytes:
    """The key of a tag's posting list."""
    return letter.encode() + sha256(value.encode()).digest()[:_DIGEST]


def second_key(second: int) -> bytes:
    """A Unix second as a key."""
    return second.to_bytes(8, "big")


def address_key(address: Address) -> bytes:
    """The key of an address, whatever the length of its identifier."""
    identifier = sha256(address.identifier.encode()).digest()[:_DIGEST]
    return address.kind.to_bytes(2, "big") + bytes.fromhex(address.pubkey) + identifier


def posting_keys(databases: Databases, event: Event) -> Iterator[tuple[Database, bytes]]:
    """The posting lists that hold the event's record."""
    yield databases.kinds, kind_key(event.kind)
    yield databases.authors, author_key(bytes.fromhex(event.pubkey), event.kind)
    for letter, value in event.indexed_tags():
        yield databases.tags, tag_key(letter, value)
    expiration = expiration_of(event)
    if expiration is not None:
        yield databases.expiry, second_key(expiration)


class LmdbShelf:
    """A :class:`negd.storage.rules.Shelf` on a write transaction, noting what it changes."""

    def __init__(self, txn: Transaction, databases: Databases, changes: Changes) -> None:
        self._txn = txn
        self._databases = databases
        self._changes = changes

    def ingest(self, events: Sequence[Event], now: float) -> list[Verdict]:
        """Take events in order; see :meth:`negd.interfaces.IEventStore.ingest`."""
        return [Verdict(self._ingest(event, now)) for event in events]

    def _ingest(self, event: Event, now: float) -> Outcome:
        outcome = take(self, event, now)
        if outcome is Outcome.EPHEMERAL:
            self._changes.told.append((event, event.encode()))
        return outcome

    def held(self, event_id: bytes) -> Event | None:
        """See :class:`negd.storage.rules.Shelf`."""
        json = self._txn.get(event_id, db=self._databases.events)
        return None if json is None else decode(json)

    def holder(self, address: Address) -> Event | None:
        """See :class:`negd.storage.rules.Shelf`."""
        event_id = self._txn.get(address_key(address), db=self._databases.addresses)
        return None if event_id is None else self.held(event_id)

    def insert(self, event: Event) -> bool:
        """See :class:`negd.storage.rules.Shelf`."""
        put, record, json = self._txn.put, event.record, event.encode()
        if not put(record[8:], json, overwrite=False, db=self._databases.events):
            return False
        for database, key in posting_keys(self._databases, event):
            put(key, record, db=database)
        address = address_of(event)
        if address is not None:
            put(address_key(address), record[8:], db=self._databases.addresses)
        expiration = expiration_of(event)
        if expiration is not None:
            self._changes.expiry = min(self._changes.expiry, expiration)
        self._changes.records[record] = True
        self._changes.told.append((event, json))
        return True

    def remove(self, event: Event) -> None:
        """See :class:`negd.storage.rules.Shelf`."""
        delete, record = self._txn.delete, event.record
        delete(record[8:], db=self._databases.events)
        for database, key in posting_keys(self._databases, event):
            delete(key, record, db=database)
        address = address_of(event)
        if address is not None:
            delete(address_key(address), db=self._databases.addresses)
        self._changes.records[record] = False

    def forbid_id(self, event_id: bytes, author: str) -> None:
        """See :class:`negd.storage.rules.Shelf`."""
        self._txn.put(event_id + bytes.fromhex(author), b"", db=self._databases.deleted_ids)

    def forbid_address(self, address: Address, until: int) -> None:
        """See :class:`negd.storage.rules.Shelf`."""
        key, until_key = address_key(address), second_key(until)
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
        return until is not None and second_key(event.created_at) <= until

    def sweep(self, now: float, most: int) -> float:
        """Remove up to ``most`` events that have expired.

        :returns: the second at which the next one expires; infinity where none ever does.
        """
        cursor = self._txn.cursor(self._databases.expiry)
        for _ in range(most):
            if not cursor.first() or int.from_bytes(cursor.key(), "big") > now:
                break
            event = self.held(cursor.value()[8:])
            if event is None:  # a damaged index must not stop the sweep
                cursor.delete()
            else:
                self.remove(event)
        return int.from_bytes(cursor.key(), "big") if cursor.first() else float("inf")
