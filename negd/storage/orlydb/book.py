"""The peer book of drop-in mode: the database has no place for it, so it is kept in a folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from twisted.internet.defer import DeferredLock
from zope.interface import implementer

from negd.interfaces import IPeerBook, LedgerEntry, PeerState, Residue
from negd.storage.ledger import MAX_ENTRIES
from negd.storage.lmdb.store import LmdbStorage


@implementer(IPeerBook)
class FolderBook:
    """The book of an LMDB store without events, opened when it is first needed.

    So a command that only reads or writes events leaves it to the daemon, which holds it open.

    :param max_entries: ledger entries kept of one peer.
    """

    def __init__(
        self, reactor: Any, folder: str, read_only: bool = False, max_entries: int = MAX_ENTRIES
    ) -> None:
        self._reactor = reactor
        self._folder = folder
        self._read_only = read_only
        self._max_entries = max_entries
        self._opening = DeferredLock()
        self._storage: LmdbStorage | None = None

    async def _book(self) -> IPeerBook:
        """The opened book.

        :raises negd.errors.StorageError: it cannot be opened.
        """
        await self._opening.acquire()
        try:
            if self._storage is None:
                self._storage = await LmdbStorage.open(
                    self._folder, self._reactor, self._read_only, max_entries=self._max_entries
                )
            return self._storage.book
        finally:
            self._opening.release()

    async def close(self) -> None:
        """Let go of the folder."""
        if self._storage is not None:
            await self._storage.close()

    async def peers(self) -> dict[str, PeerState]:
        """See :meth:`IPeerBook.peers`."""
        return await (await self._book()).peers()

    async def put(self, url: str, state: PeerState) -> None:
        """See :meth:`IPeerBook.put`."""
        await (await self._book()).put(url, state)

    async def update(self, url: str, state: PeerState) -> None:
        """See :meth:`IPeerBook.update`."""
        await (await self._book()).update(url, state)

    async def remove(self, url: str) -> None:
        """See :meth:`IPeerBook.remove`."""
        await (await self._book()).remove(url)

    async def ledger(self, url: str, ids: Sequence[bytes]) -> dict[bytes, LedgerEntry]:
        """See :meth:`IPeerBook.ledger`."""
        return await (await self._book()).ledger(url, ids)

    async def residues(self, url: str) -> dict[Residue, int]:
        """See :meth:`IPeerBook.residues`."""
        return await (await self._book()).residues(url)

    async def entries(self, url: str, residue: Residue, most: int) -> dict[bytes, LedgerEntry]:
        """See :meth:`IPeerBook.entries`."""
        return await (await self._book()).entries(url, residue, most)

    async def write_ledger(
        self, url: str, entries: Mapping[bytes, LedgerEntry], settled: Sequence[bytes]
    ) -> None:
        """See :meth:`IPeerBook.write_ledger`."""
        await (await self._book()).write_ledger(url, entries, settled)

    async def clear_ledger(self, url: str) -> None:
        """See :meth:`IPeerBook.clear_ledger`."""
        await (await self._book()).clear_ledger(url)
