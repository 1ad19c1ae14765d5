"""What a node knows of the shared store without asking: its records, kept up by the feed.

Every entry of the feed names the one before it.  So a node that reads on where it stopped knows
whether it has missed any: because it stayed away until they were trimmed, or because the server
came back with an older state.  Then it loads everything anew.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred

from negd.errors import StorageError
from negd.reconcile import RECORD_SIZE, RecordSet
from negd.storage.postings import as_list, difference, keys_of
from negd.storage.redis.frames import frames
from negd.storage.redis.link import REPLY_WITHIN, Link
from negd.storage.redis.reader import Offload, Reader
from negd.storage.redis.unswept import Unswept
from negd.storage.shared import Shared

_BLOCK = 2.0
"""Seconds that the server waits for an entry before it says that there is none."""

_ENTRIES = 8
"""Entries read at a time: a few thousand events at most, a few milliseconds mostly."""

_UNMERGED = 2000
"""Changes kept aside until somebody asks: to merge a few costs about as much as to merge many."""

_LOADS = 3
"""Loads in a row after which a feed that still has a gap is left alone for a while."""

NEVER = float("inf")


class Replica:
    """The records of all stored events, as far as the feed was read.

    :param told: called with the JSON of every event that comes in, in order.
    :param unswept: what is not to be among the records.
    :ivar generation: grows with every change of the records.
    :ivar expiry: not after the second at which something expires first.
    """

    def __init__(self, told: Callable[[bytes], None], offload: Offload, unswept: Unswept) -> None:
        self.generation = 0
        self.expiry = NEVER
        self._told = told
        self._offload = offload
        self._unswept = unswept
        self._records = RecordSet.EMPTY
        self._changes: dict[bytes, bool] = {}
        self._merging: dict[bytes, bool] = {}
        self._merge = Shared(self._merge_changes)
        self._position: bytes | None = None
        self._following = False
        self._waiting: list[tuple[tuple[int, ...], Deferred[None]]] = []

    async def records(self) -> RecordSet:
        """All of them, with every change until now."""
        if self._changes or self._merging:
            await self._merge()
        return self._records

    async def _merge_changes(self) -> None:
        self._merging, self._changes = self._changes, {}
        before = self._records
        try:
            merged = await self._offload(_merged, before, self._merging)
        except BaseException:
            self._changes = self._merging | self._changes
            raise
        finally:
            self._merging = {}
        if self._records is before:  # or else all was loaded meanwhile
            self._records = merged

    def leave_out(self, records: list[bytes]) -> None:
        """Have no such records, though the feed has not said that they are gone."""
        self._changes.update(dict.fromkeys(records, False))

    async def reached(self, position: bytes) -> None:
        """Return once the feed was read up to an entry, or is not being read any more."""
        if self._following and _order(position) > _order(self._position):
            waiting: Deferred[None] = Deferred()
            self._waiting.append((_order(position), waiting))
            await waiting

    # --- coming up ------------------------------------------------------------------------------

    async def catch_up(self, link: Link) -> None:
        """Know what the server has, from the feed if it has no gap.

        :raises StorageError: the server failed.
        """
        loads = 0
        while not await self._read_on(link):
            if loads == _LOADS:
                raise StorageError(f"{link.address}: its feed cannot be followed")
            await self._load(link)
            loads += 1

    async def _read_on(self, link: Link) -> bool:
        """Take in what is new; False where something is missing in between."""
        while self._position is not None:
            (head,) = await link.run("head")
            entries = await self._entries(link)
            if not await self._take(entries):
                return False
            if not entries:
                return self._position == head
        return False

    async def _load(self, link: Link) -> None:
        """Take everything from the lists; watchers are told of what came in unseen."""
        reader = Reader(link.run, self._offload, self._unswept)
        head, expiry, kinds = await link.run("state")
        loaded = await reader.everything(kinds)
        before, seen = await self.records(), self._position is not None
        self._records, self._position = loaded, head
        self.expiry = int.from_bytes(expiry, "big") if expiry else NEVER
        self.generation += 1
        if seen:
            missed = await self._offload(_missed, loaded, before)
            async for _, found in reader.pieces([record[8:] for record in missed]):
                for json in found.values():
                    self._told(json)

    # --- staying up -----------------------------------------------------------------------------

    async def follow(self, link: Link) -> None:
        """Take in entries as they come, for ever.

        :raises StorageError: the server failed, or the feed has a gap.
        """
        self._following = True
        try:
            while True:
                entries = await self._entries(link, _BLOCK)
                if not (await self._take(entries) and (entries or await self._read_on(link))):
                    raise StorageError(f"{link.address}: its feed has a gap")
        finally:
            self._following = False
            self._release(lambda order: True)

    async def _entries(self, link: Link, block: float = 0.0) -> list[tuple[bytes, bytes]]:
        """The next entries, id and content."""
        waiting = ("BLOCK", int(1000 * block)) if block else ()
        feed = link.key("feed")
        reply: Any = await link.command(
            *("XREAD", "COUNT", _ENTRIES, *waiting, "STREAMS", feed, self._position),
            within=block + REPLY_WITHIN,
        )
        return [(entry[0], entry[1][1]) for entry in reply[0][1]] if reply else []

    async def _take(self, entries: list[tuple[bytes, bytes]]) -> bool:
        """Take entries in; False where one does not follow the one before."""
        for position, content in entries:
            pieces = frames(content)
            if pieces[:1] != [self._position]:
                return False
            expiry, new, gone, *told = pieces[1:]
            self._position = position
            if new or gone:
                self.generation += 1
                self._changes.update(dict.fromkeys(split(gone), False))
                self._changes.update(dict.fromkeys(split(new), True))
            if expiry:
                self.expiry = min(self.expiry, int.from_bytes(expiry, "big"))
            for json in told:
                self._told(json)
        self._release(lambda order: order <= _order(self._position))
        if len(self._changes) > _UNMERGED:
            await self._merge()
        return True

    def _release(self, is_due: Callable[[tuple[int, ...]], bool]) -> None:
        due = [waiting for order, waiting in self._waiting if is_due(order)]
        self._waiting = [item for item in self._waiting if not is_due(item[0])]
        for waiting in due:
            if not waiting.called:
                waiting.callback(None)


def _order(position: bytes | None) -> tuple[int, ...]:
    """What makes ids of entries comparable."""
    return tuple(map(int, (position or b"0-0").split(b"-")))


def split(records: bytes) -> list[bytes]:
    """Records one by one."""
    return [records[at : at + RECORD_SIZE] for at in range(0, len(records), RECORD_SIZE)]


def _merged(records: RecordSet, changes: dict[bytes, bool]) -> RecordSet:
    new = b"".join(record for record, is_present in changes.items() if is_present)
    gone = b"".join(record for record, is_present in changes.items() if not is_present)
    return records.delete(gone).insert(new)


def _missed(loaded: RecordSet, before: RecordSet) -> list[bytes]:
    return as_list(difference(keys_of(loaded), keys_of(before)))
