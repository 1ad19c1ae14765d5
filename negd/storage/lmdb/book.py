"""Peers and their ledgers in LMDB."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from hashlib import sha256
from itertools import islice
from struct import pack
from typing import Any

import msgspec
from twisted.internet.defer import Deferred
from zope.interface import implementer

from negd.interfaces import IPeerBook, LedgerEntry, PeerState, Residue
from negd.nostr.event import DECODE_ERRORS
from negd.storage.ledger import MAX_ENTRIES
from negd.storage.lmdb.environment import Database, Databases, Environment, Transaction
from negd.storage.lmdb.shelf import LmdbShelf
from negd.storage.lmdb.writer import Work

BOOK = ("peers", "residues", "ledger", "ledger_due")
"""The databases that are written here."""

_KEY_SIZE = 16


@dataclass(frozen=True)
class _Peer:
    url: str
    state: PeerState


_peer = msgspec.json.Decoder(_Peer)
_entry = msgspec.json.Decoder(LedgerEntry)
_counts = msgspec.json.Decoder(dict[Residue, int])
_VALUES: dict[str, msgspec.json.Decoder[Any]] = {"residues": _counts, "ledger": _entry}
_KEYS = {"residues": _KEY_SIZE, "ledger": _KEY_SIZE + 32, "ledger_due": _KEY_SIZE + 8 + 32}
_encode = msgspec.json.Encoder().encode


def is_readable(name: str, key: bytes, value: bytes) -> bool:
    """Whether an entry of one of the book's databases is as :class:`LmdbBook` writes it."""
    with suppress(*DECODE_ERRORS):
        if name == "peers":
            return key == _url_key(_peer.decode(value).url)
        if name in _VALUES:
            _VALUES[name].decode(value)
        return len(key) == _KEYS[name]
    return False


@implementer(IPeerBook)
class LmdbBook:
    """An :class:`IPeerBook` beside the events.

    :param read: runs a function of a read transaction in a reader thread.
    :param write: has work done by the writer.
    """

    def __init__(
        self,
        environment: Environment,
        read: Callable[[Callable[[Transaction], Any]], Deferred[Any]],
        write: Callable[[Work[None]], Deferred[None]],
        max_entries: int = MAX_ENTRIES,
    ) -> None:
        self._environment = environment
        self._read = read
        self._write = write
        self._max_entries = max_entries

    @property
    def _databases(self) -> Databases:
        return self._environment.databases

    async def peers(self) -> dict[str, PeerState]:
        """See :meth:`IPeerBook.peers`."""

        def work(txn: Transaction) -> dict[str, PeerState]:
            listed = [_peer.decode(value) for _, value in txn.cursor(self._databases.peers)]
            return {peer.url: peer.state for peer in listed}

        found: dict[str, PeerState] = await self._read(work)
        return found

    async def put(self, url: str, state: PeerState) -> None:
        """See :meth:`IPeerBook.put`."""

        def work(txn: Transaction, _: LmdbShelf) -> None:
            txn.put(_url_key(url), _encode(_Peer(url, state)), db=self._databases.peers)

        await self._write(work)

    async def update(self, url: str, state: PeerState) -> None:
        """See :meth:`IPeerBook.update`."""

        def work(txn: Transaction, _: LmdbShelf) -> None:
            key, peers = _url_key(url), self._databases.peers
            if txn.get(key, db=peers) is not None:
                txn.put(key, _encode(_Peer(url, state)), db=peers)

        await self._write(work)

    async def remove(self, url: str) -> None:
        """See :meth:`IPeerBook.remove`."""

        def work(txn: Transaction, _: LmdbShelf) -> None:
            txn.delete(_url_key(url), db=self._databases.peers)
            _Ledger(txn, self._databases, url).clear()

        await self._write(work)

    async def ledger(self, url: str, ids: Sequence[bytes]) -> dict[bytes, LedgerEntry]:
        """See :meth:`IPeerBook.ledger`."""

        def work(txn: Transaction) -> dict[bytes, LedgerEntry]:
            ledger = _Ledger(txn, self._databases, url)
            found = ((event_id, ledger.get(event_id)) for event_id in ids)
            return {event_id: entry for event_id, entry in found if entry is not None}

        found: dict[bytes, LedgerEntry] = await self._read(work)
        return found

    async def residues(self, url: str) -> dict[Residue, int]:
        """See :meth:`IPeerBook.residues`."""

        def work(txn: Transaction) -> dict[Residue, int]:
            return _Ledger(txn, self._databases, url).counts

        found: dict[Residue, int] = await self._read(work)
        return found

    async def entries(self, url: str, residue: Residue, most: int) -> dict[bytes, LedgerEntry]:
        """See :meth:`IPeerBook.entries`."""

        def work(txn: Transaction) -> dict[bytes, LedgerEntry]:
            return dict(islice(_Ledger(txn, self._databases, url).due(residue), most))

        found: dict[bytes, LedgerEntry] = await self._read(work)
        return found

    async def write_ledger(
        self, url: str, entries: Mapping[bytes, LedgerEntry], settled: Sequence[bytes]
    ) -> None:
        """See :meth:`IPeerBook.write_ledger`."""

        def work(txn: Transaction, _: LmdbShelf) -> None:
            ledger = _Ledger(txn, self._databases, url)
            for event_id, entry in entries.items():
                ledger.put(event_id, entry)
            for event_id in settled:
                ledger.drop(event_id)
            ledger.trim(self._max_entries)
            ledger.save_counts()

        await self._write(work)

    async def clear_ledger(self, url: str) -> None:
        """See :meth:`IPeerBook.clear_ledger`."""

        def work(txn: Transaction, _: LmdbShelf) -> None:
            _Ledger(txn, self._databases, url).clear()

        await self._write(work)


class _Ledger:
    """The ledger of one peer inside a transaction."""

    def __init__(self, txn: Transaction, databases: Databases, url: str) -> None:
        self._txn = txn
        self._databases = databases
        self._key = _url_key(url)
        self.counts = _counts.decode(txn.get(self._key, b"{}", db=databases.residues))

    def get(self, event_id: bytes) -> LedgerEntry | None:
        """What is written of an event."""
        value = self._txn.get(self._key + event_id, db=self._databases.ledger)
        return None if value is None else _entry.decode(value)

    def due(self, residue: Residue) -> Iterator[tuple[bytes, LedgerEntry]]:
        """The entries of one reason, those next to be retried first."""
        ids = (key[-32:] for key in self._keys(self._databases.ledger_due))
        entries = ((event_id, self.get(event_id)) for event_id in ids)
        wanted = ((i, entry) for i, entry in entries if entry and entry.residue is residue)
        return islice(wanted, self.counts.get(residue, 0))  # and no look at what comes after them

    def put(self, event_id: bytes, entry: LedgerEntry) -> None:
        """Add or replace an entry."""
        self.drop(event_id)
        self._txn.put(self._key + event_id, _encode(entry), db=self._databases.ledger)
        self._txn.put(self._due_key(event_id, entry), b"", db=self._databases.ledger_due)
        self.counts[entry.residue] = self.counts.get(entry.residue, 0) + 1

    def drop(self, event_id: bytes) -> None:
        """Remove an entry, if there is one."""
        entry = self.get(event_id)
        if entry is not None:
            self._txn.delete(self._key + event_id, db=self._databases.ledger)
            self._txn.delete(self._due_key(event_id, entry), db=self._databases.ledger_due)
            self.counts[entry.residue] -= 1

    def trim(self, most: int) -> None:
        """Drop the entries next to be retried until ``most`` are left."""
        surplus = sum(self.counts.values()) - most
        if surplus > 0:
            due = zip(self._keys(self._databases.ledger_due), range(surplus), strict=False)
            for key in [key for key, _ in due]:
                self.drop(key[-32:])

    def save_counts(self) -> None:
        """Write the counts back."""
        counts = {residue: count for residue, count in self.counts.items() if count}
        self._txn.put(self._key, _encode(counts), db=self._databases.residues)

    def clear(self) -> None:
        """Remove all of it."""
        for database in (self._databases.ledger, self._databases.ledger_due):
            for key in list(self._keys(database)):
                self._txn.delete(key, db=database)
        self._txn.delete(self._key, db=self._databases.residues)

    def _keys(self, database: Database) -> Iterator[bytes]:
        cursor = self._txn.cursor(database)
        found = cursor.set_range(self._key)
        while found and (key := cursor.key()).startswith(self._key):
            yield key
            found = cursor.next()

    def _due_key(self, event_id: bytes, entry: LedgerEntry) -> bytes:
        return self._key + pack(">d", max(0.0, entry.retry_at)) + event_id


def _url_key(url: str) -> bytes:
    return sha256(url.encode()).digest()[:_KEY_SIZE]
