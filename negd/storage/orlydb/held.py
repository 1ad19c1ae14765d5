"""What the store holds: all that the database lists, less what the rules take out.

The database keeps old versions, and expired events until it sweeps them, and lists both.  The
store knows them and leaves them out of every answer.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Awaitable, Callable, Collection
from typing import NamedTuple

import numpy as np
from twisted.internet.interfaces import IReactorTime

from negd.errors import StorageError
from negd.nostr.event import Event
from negd.nostr.lifecycle import expiration_of
from negd.reconcile import RecordSet
from negd.storage.postings import EMPTY, Records, as_list, difference, keys_of, to_set
from negd.storage.shared import Shared
from negd.sync.offload import Offload

_Changes = dict[bytes, bool]
"""Whether each of some records is held."""

_MOST_MORTALS = 50_000
"""Events that are left out in the second in which they expire: those that do so first. Others are
when they are read, as those are that a listing brought, or with the listing after the database has
swept them."""

_MOST_CHANGES = 1_000_000
"""Changes that are remembered while a listing is made, some 200 MB. Beyond it the listing is given
up, and made again when the next one is due. One of ten million events takes 70 s, in which the
database stores far fewer."""


class _Sets(NamedTuple):
    records: RecordSet
    left_out: RecordSet


class Held:
    """The record set of the whole store, and what is left out of it.

    Changes are known at once by id; :attr:`flush` brings them into the record sets. What waits
    for that is of one batch, page or step of following: whoever brings changes flushes them before
    the next ones.

    What is left out is as many events as the database lists in vain: each listing takes away what
    it does not list any more.

    :ivar generation: as :class:`negd.interfaces.IEventStore`.
    :ivar is_loaded: whether there was a listing.
    """

    def __init__(self, clock: IReactorTime, calls: Offload) -> None:
        self._clock = clock
        self._calls = calls
        self.generation = 0
        self.is_loaded = False
        self.flush = Shared(self._flush)
        self._sets = _Sets(RecordSet.EMPTY, RecordSet.EMPTY)
        self._ids_left_out: set[bytes] = set()
        self._pending: _Changes = {}
        self._since_listing: _Changes | None = None
        self._listed: RecordSet | None = None
        self._mortals: list[tuple[int, bytes]] = []  # sorted, each once

    # --- changes --------------------------------------------------------------------------------

    def add(self, event: Event) -> None:
        """Hold an event, left out so far or not."""
        self._ids_left_out.discard(event.id_bytes)
        self._pending[event.record] = True
        expiration = expiration_of(event)
        if expiration is not None:
            self._expect((expiration, event.record))

    def _expect(self, mortal: tuple[int, bytes]) -> None:
        at = bisect_left(self._mortals, mortal)
        if self._mortals[at : at + 1] != [mortal]:
            self._mortals.insert(at, mortal)
            del self._mortals[_MOST_MORTALS:]

    def leave_out(self, record: bytes) -> None:
        """Hold an event no longer, whatever the database lists."""
        self._ids_left_out.add(record[8:])
        self._pending[record] = False

    def sweep(self) -> None:
        """Leave out what has expired by now."""
        due = bisect_left(self._mortals, (int(self._clock.seconds()) + 1, b""))
        expired = self._mortals[:due]
        del self._mortals[:due]
        for _, record in expired:
            if not self.is_left_out(record[8:]):
                self.leave_out(record)
                self.generation += 1

    async def replace(self, listing: Callable[[], Awaitable[RecordSet]]) -> None:
        """Take over a listing of the database, with all that changes while it is made.

        :raises negd.errors.StorageError: it could not be made; nothing is changed.
        """
        self._since_listing = {}
        try:
            listed = await listing()
        except BaseException:
            self._since_listing = None
            raise
        if self._since_listing is None:
            raise StorageError("too much has changed while the database was listed")
        self._listed = listed
        await self.flush()

    async def _flush(self) -> None:
        changes, self._pending = self._pending, {}
        listed, self._listed = self._listed, None
        before = self._sets
        if self._since_listing is not None:
            self._since_listing.update(changes)
            if listed is None and len(self._since_listing) > _MOST_CHANGES:
                self._since_listing = None
        if listed is not None:
            changes, self._since_listing = self._since_listing or {}, None
            taken = self._calls(_taken_over, before, listed, changes)
            self._sets, forgotten = await taken
            self.is_loaded = True
            # What was left out meanwhile stays so.
            gone = (record for record in forgotten if record not in self._pending)
            self._ids_left_out.difference_update(record[8:] for record in gone)
        elif changes:
            self._sets = await self._calls(_changed, before, changes)
        if self._sets.records is not before.records:
            self.generation += 1

    # --- questions ------------------------------------------------------------------------------

    @property
    def records(self) -> RecordSet:
        """All that is held, as of the last flush."""
        return self._sets.records

    def is_left_out(self, event_id: bytes) -> bool:
        """Whether an event that the database may list is not held."""
        return event_id in self._ids_left_out

    async def without_left_out(self, parts: Collection[Records]) -> RecordSet:
        """Sorted, distinct records in parts that follow each other, less what is left out."""
        return await self._calls(_joined, parts, self._sets.left_out)

    async def records_of(self, ids: Collection[bytes]) -> list[bytes]:
        """The records of those of the ids that are held."""
        await self.flush()
        return await self._calls(_records_of, self._sets.records, set(ids)) if ids else []


def _changed(before: _Sets, changes: _Changes) -> _Sets:
    held = b"".join(record for record, is_held in changes.items() if is_held)
    out = b"".join(record for record, is_held in changes.items() if not is_held)
    return _Sets(before.records.delete(out).insert(held), before.left_out.delete(held).insert(out))


def _taken_over(before: _Sets, listed: RecordSet, changes: _Changes) -> tuple[_Sets, list[bytes]]:
    """The new sets, and what need not be left out any more: it is not listed.

    :param changes: what changed since the listing was begun.
    """
    left_out = before.left_out
    unlisted = as_list(difference(keys_of(left_out), keys_of(listed)))
    forgotten = [record for record in unlisted if record not in changes]
    records = listed.delete(left_out.to_array())
    after = _changed(_Sets(records, left_out.delete(b"".join(forgotten))), changes)
    if after.records == before.records:
        after = after._replace(records=before.records)
    return after, forgotten


def _joined(parts: Collection[Records], left_out: RecordSet) -> RecordSet:
    return to_set(difference(np.concatenate([EMPTY, *parts]), keys_of(left_out)))


def _records_of(records: RecordSet, ids: set[bytes]) -> list[bytes]:
    keys = keys_of(records)
    heads = np.ascontiguousarray(records.to_array()[:, 8:16]).view("<u8")[:, 0]
    wanted = np.array([int.from_bytes(event_id[:8], "little") for event_id in ids], "<u8")
    return [record for record in as_list(keys[np.isin(heads, wanted)]) if record[8:] in ids]
