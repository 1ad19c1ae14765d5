"""The storage of drop-in mode: the events in an ORLY relay's database, the peers in a folder."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from twisted.internet.defer import DeferredLock
from twisted.internet.task import deferLater
from zope.interface import implementer

from negd.errors import StorageError
from negd.interfaces import (
    CompactReport,
    IEventStore,
    IStorage,
    IWatch,
    Outcome,
    Page,
    StoreStatistics,
    Verdict,
    VerifyReport,
)
from negd.nostr.event import Event, check
from negd.nostr.filing import Filing, event_in
from negd.nostr.filter import Filter
from negd.nostr.lifecycle import is_expired
from negd.reconcile import RecordSet
from negd.settings import StoreSettings
from negd.storage.ledger import MAX_ENTRIES
from negd.storage.order import newest_first
from negd.storage.orlydb.address import DatabaseAddress
from negd.storage.orlydb.admission import Admission
from negd.storage.orlydb.batch import Batch
from negd.storage.orlydb.book import FolderBook
from negd.storage.orlydb.calls import Calls
from negd.storage.orlydb.database import Database
from negd.storage.orlydb.following import Following, OwnSaves
from negd.storage.orlydb.held import Held
from negd.storage.orlydb.queries import matches_nothing
from negd.storage.orlydb.reading import Reading
from negd.storage.orlydb.upkeep import Upkeep
from negd.storage.paging import PAGE_BYTES
from negd.storage.watches import Watches

PATIENCE = 30.0
"""Seconds to wait at the start for a database that is not ready."""

_RETRY = 0.25
"""Seconds until it is asked again."""

_THREADS = 24
_VERIFY_AT_ONCE = 500

_FIRST_AT_ONCE = 4
_IDS_AT_ONCE = 100
"""Events that are asked for together, at first and later: what they come to is known then."""


async def open_orlydb(
    argument: str,
    reactor: Any,
    read_only: bool = False,
    settings: StoreSettings = StoreSettings(),
) -> IStorage:
    """See :meth:`negd.interfaces.IStoreFactory.open`; the argument is ``HOST:PORT``."""
    return await OrlydbStorage.open(DatabaseAddress.parse(argument), reactor, read_only)


@implementer(IStorage)
class OrlydbStorage:
    """An :class:`IStorage` over a database that others use too. Use :meth:`open`."""

    def __init__(self, events: OrlydbStore, book: FolderBook) -> None:
        self.events = events
        self.book = book

    @classmethod
    async def open(
        cls,
        address: DatabaseAddress,
        reactor: Any,
        read_only: bool = False,
        *,
        patience: float = PATIENCE,
        max_entries: int = MAX_ENTRIES,
    ) -> OrlydbStorage:
        """Connect, and wait until the database is ready.

        What it holds is listed in the background; who asks before that is done waits for it.

        :param reactor: an IReactorTime and IReactorFromThreads.
        :param patience: seconds to wait.
        :param max_entries: ledger entries kept of one peer.
        :raises StorageError: it does not become ready.
        """
        database = Database(address.server)
        calls = Calls(reactor, _THREADS)
        try:
            await _readiness(database, calls, reactor, patience)
        except BaseException:
            database.close()
            await calls.stop()
            raise
        events = OrlydbStore(reactor, calls, database, read_only)
        events.start()
        return cls(events, FolderBook(reactor, address.book, read_only, max_entries))

    async def close(self) -> None:
        """See :meth:`IStorage.close`."""
        await self.events.stop()
        await self.book.close()


async def _readiness(database: Database, calls: Calls, clock: Any, patience: float) -> None:
    given_up = clock.seconds() + patience
    while True:
        try:
            if await calls(database.ready):
                return
            why = f"the database at {database.server} says that it is not ready"
        except StorageError as error:
            why = error.text
        if clock.seconds() >= given_up:
            raise StorageError(f"{why}, after {patience:g} s")
        await deferLater(clock, _RETRY)


@implementer(IEventStore)
class OrlydbStore:
    """An :class:`IEventStore` over a database that others use too.

    What it answers holds everything that was in the database when it was asked, less what the
    rules take out. Watchers are told of others' events within a second.
    """

    def __init__(self, reactor: Any, calls: Calls, database: Database, read_only: bool) -> None:
        self._clock = reactor
        self._calls = calls
        self._database = database
        self._read_only = read_only
        self._held = Held(reactor, calls)
        self._reading = Reading(reactor, calls, database, self._held)
        self._admission = Admission(reactor, self._reading, self._held, self._save)
        self._own = OwnSaves()
        self._watches = Watches()
        self._ingesting = DeferredLock()
        self._stopped = False
        self._upkeep = Upkeep(
            reactor,
            calls,
            self._reading,
            self._held,
            Following(reactor, self._reading, self._held, self._admission, self._own),
            is_patient=read_only,
            tell=self._tell,
        )

    @property
    def generation(self) -> int:
        """See :class:`IEventStore`."""
        self._held.sweep()
        return self._held.generation

    def start(self) -> None:
        """Keep up with the database from now on."""
        self._upkeep.start()

    def watch(self, wanted: Filter, callback: Callable[[Event, bytes], None]) -> IWatch:
        """See :meth:`IEventStore.watch`."""
        return self._watches.add(wanted, callback)

    def _tell(self, event: Event) -> None:
        if self._watches:
            self._watches.tell(event, event.encode())

    # --- writing --------------------------------------------------------------------------------

    async def ingest(self, events: Sequence[Event | Filing]) -> list[Verdict]:
        """See :meth:`IEventStore.ingest`, but each event is stored by itself.

        ``INVALID`` are events that the database refuses for reasons of its own.

        :raises StorageError: some of the batch may be stored all the same.
        """
        if self._read_only:
            raise StorageError(f"database {self._database.server} is open for reading")
        if self._stopped:
            raise StorageError("the store is closed")
        await self._ingesting.acquire()
        try:
            return await self._ingest([event_in(event) for event in events])
        finally:
            self._ingesting.release()

    async def _ingest(self, events: Sequence[Event]) -> list[Verdict]:
        batch = Batch(events, self._admission)
        try:
            await batch.run()
        finally:
            await self._held.flush()
            for event, verdict in batch.decided():
                if verdict.outcome in (Outcome.STORED, Outcome.EPHEMERAL):
                    self._tell(event)
        return batch.verdicts()

    async def _save(self, event: Event) -> str | None:
        """Have the database store an event; see :meth:`Database.save`."""
        self._own.in_flight.add(event.id_bytes)
        try:
            refusal = await self._calls(self._database.save, event)
        finally:
            self._own.in_flight.discard(event.id_bytes)
        if refusal is None:
            self._own.stored(event.id_bytes)
        return refusal

    # --- reading --------------------------------------------------------------------------------

    async def snapshot(self, wanted: Filter) -> RecordSet:
        """See :meth:`IEventStore.snapshot`."""
        if matches_nothing(wanted):
            return RecordSet.EMPTY
        if wanted.ids is not None:
            records = await self._matching_ids(wanted)
        else:
            await self._refresh()
            if _has_bounds_only(wanted):
                records = self._held.records.window(wanted.since, wanted.until)
            else:
                records = await self._reading.matching(wanted)
        return records if wanted.limit is None else records.newest(wanted.limit)

    async def _refresh(self) -> None:
        """Have in the record set what is in the database now.

        :raises StorageError: the database does not answer.
        """
        await self._upkeep.catch_up()
        self._held.sweep()
        await self._held.flush()

    async def query(self, wanted: Filter, after: bytes | None = None, page: int = 500) -> Page:
        """See :meth:`IEventStore.query`; its first page is as fresh as a snapshot."""
        listed = await self._listed(wanted, after, page + 1)
        matching: list[bytes] = []
        looked = length = 0
        while looked < min(page, len(listed)) and length < PAGE_BYTES:
            end = min(page, looked + _at_once(looked, length))
            ids = [record[8:] for record in listed[looked:end]]
            looked = end
            events = await self._held_events(ids)
            found = (events.get(event_id) for event_id in ids)
            matching += [event.encode() for event in found if event and wanted.matches(event)]
            length = sum(map(len, matching))
        return Page(matching, listed[looked - 1] if looked < len(listed) else None)

    async def _listed(self, wanted: Filter, after: bytes | None, most: int) -> list[bytes]:
        """The matching records after a record, newest first."""
        if matches_nothing(wanted):
            return []
        if wanted.ids is not None:
            return newest_first(await self._matching_ids(wanted), after, most)
        if after is None:
            await self._refresh()
        if _has_bounds_only(wanted):
            window = self._held.records.window(wanted.since, wanted.until)
            return newest_first(window, after, most)
        return await self._reading.newest(wanted, after, most)

    async def fetch(self, ids: Sequence[bytes]) -> dict[bytes, bytes]:
        """See :meth:`IEventStore.fetch`."""
        return {i: event.encode() for i, event in (await self._held_events(ids)).items()}

    async def _matching_ids(self, wanted: Filter) -> RecordSet:
        """The records that match a filter with ids."""
        ids = wanted.ids or ()
        matching: list[bytes] = []
        for at in range(0, len(ids), _IDS_AT_ONCE):
            held = (await self._held_events(ids[at : at + _IDS_AT_ONCE])).values()
            matching += [event.record for event in held if wanted.matches(event)]
        return RecordSet.from_records(b"".join(matching))

    async def _held_events(self, ids: Sequence[bytes]) -> dict[bytes, Event]:
        """Those of the events that are held; what is found to be expired is held no longer."""
        found = await self._reading.by_ids(ids)
        now = self._clock.seconds()
        held = {i: event for i, event in found.items() if not self._held.is_left_out(i)}
        for event in [event for event in held.values() if is_expired(event, now)]:
            self._held.leave_out(event.record)
            del held[event.id_bytes]
        return held

    async def known(self, ids: Sequence[bytes]) -> set[bytes]:
        """See :meth:`IEventStore.known`."""
        self._held.sweep()
        kept = await self._reading.known(ids)
        return {event_id for event_id in kept if not self._held.is_left_out(event_id)}

    async def count(self, wanted: Filter) -> int:
        """See :meth:`IEventStore.count`."""
        return len(await self.snapshot(wanted))

    async def statistics(self) -> StoreStatistics:
        """See :meth:`IEventStore.statistics`; as of the last look. The size is not known."""
        if not self._held.is_loaded:
            await self._upkeep.catch_up()
        self._held.sweep()
        await self._held.flush()
        return StoreStatistics(events=len(self._held.records), bytes=0)

    async def verify(
        self, progress: Callable[[int, int], None], repair: bool = False
    ) -> VerifyReport:
        """See :meth:`IEventStore.verify`: what the database lists is what it returns, signed."""
        if repair:
            raise StorageError(f"database {self._database.server} is not ours to repair")
        await self._refresh()
        records = self._held.records
        problems: list[str] = []
        for begin in range(0, len(records), _VERIFY_AT_ONCE):
            end = min(begin + _VERIFY_AT_ONCE, len(records))
            ids = [records.record(at)[8:] for at in range(begin, end)]
            problems += await self._calls(_problems, ids, await self._reading.by_ids(ids))
            progress(end, len(records))
        return VerifyReport(len(records), problems)

    async def compact(self, progress: Callable[[int, int], None]) -> CompactReport:
        """See :meth:`IEventStore.compact`; the database does that itself."""
        size = (await self.statistics()).bytes
        return CompactReport(size, size)

    async def stop(self) -> None:
        """Finish the batches that were accepted, then let go of the database."""
        self._stopped = True
        self._upkeep.stop()
        await self._ingesting.acquire()
        self._database.close()
        await self._calls.stop()


def _at_once(looked: int, length: int) -> int:
    """How many events fill a page, after so many of so many bytes."""
    if not looked:
        return _FIRST_AT_ONCE
    average = length // looked + 1
    return max(1, min(_IDS_AT_ONCE, (PAGE_BYTES - length) // average))


def _has_bounds_only(wanted: Filter) -> bool:
    """Whether every event within the filter's seconds matches it, ids aside."""
    return wanted.authors is None and wanted.kinds is None and not wanted.tags


def _problems(ids: Sequence[bytes], found: dict[bytes, Event]) -> list[str]:
    missing = [event_id.hex() for event_id in ids if event_id not in found]
    problems = [f"event {event_id}: listed, but not returned" for event_id in missing]
    for event in found.values():
        fault = check(event)
        if fault is not None:
            problems.append(f"event {event.id}: {fault}")
    return problems
