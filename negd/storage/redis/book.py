"""Peers and their ledgers on the server."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec
from zope.interface import implementer

from negd.interfaces import IPeerBook, LedgerEntry, PeerState, Residue
from negd.storage.ledger import MAX_ENTRIES
from negd.storage.redis.reader import Run

_RESIDUES = [residue.value for residue in Residue]
_state = msgspec.json.Decoder(PeerState)
_entry = msgspec.json.Decoder(LedgerEntry)
_encode = msgspec.json.Encoder().encode


@implementer(IPeerBook)
class RedisBook:
    """An :class:`IPeerBook` beside the events.

    :param write: runs a command that writes.
    :param read: runs one that reads.
    :param max_entries: ledger entries kept of one peer.
    """

    def __init__(self, write: Run, read: Run, max_entries: int = MAX_ENTRIES) -> None:
        self._write = write
        self._read = read
        self._max_entries = max_entries

    async def peers(self) -> dict[str, PeerState]:
        """See :meth:`IPeerBook.peers`."""
        found = await self._read("peers")
        pairs = zip(found[::2], found[1::2], strict=True)
        return {url.decode(): _state.decode(state) for url, state in pairs}

    async def put(self, url: str, state: PeerState) -> None:
        """See :meth:`IPeerBook.put`."""
        await self._write("put_peer", url, _encode(state))

    async def update(self, url: str, state: PeerState) -> None:
        """See :meth:`IPeerBook.update`."""
        await self._write("update_peer", url, _encode(state))

    async def remove(self, url: str) -> None:
        """See :meth:`IPeerBook.remove`."""
        await self._write("remove_peer", url, *_RESIDUES)

    async def ledger(self, url: str, ids: Sequence[bytes]) -> dict[bytes, LedgerEntry]:
        """See :meth:`IPeerBook.ledger`."""
        found = await self._read("ledger", url, *ids)
        return {i: _entry.decode(entry) for i, entry in zip(ids, found, strict=True) if entry}

    async def residues(self, url: str) -> dict[Residue, int]:
        """See :meth:`IPeerBook.residues`."""
        counts = map(int, await self._read("residues", url, *_RESIDUES))
        return {residue: count for residue, count in zip(Residue, counts, strict=True) if count}

    async def entries(self, url: str, residue: Residue, most: int) -> dict[bytes, LedgerEntry]:
        """See :meth:`IPeerBook.entries`."""
        found = await self._read("entries", url, residue.value, most)
        pairs = zip(found[::2], found[1::2], strict=True)
        return {event_id: _entry.decode(entry) for event_id, entry in pairs}

    async def write_ledger(
        self, url: str, entries: Mapping[bytes, LedgerEntry], settled: Sequence[bytes]
    ) -> None:
        """See :meth:`IPeerBook.write_ledger`."""
        new: list[object] = []
        for event_id, entry in entries.items():
            new += [event_id, repr(entry.retry_at), entry.residue.value, _encode(entry)]
        bounds = (" ".join(_RESIDUES), self._max_entries, len(entries))
        await self._write("write_ledger", url, *bounds, *new, *settled)

    async def clear_ledger(self, url: str) -> None:
        """See :meth:`IPeerBook.clear_ledger`."""
        await self._write("clear_ledger", url, *_RESIDUES)
