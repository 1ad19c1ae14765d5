"""The storage of drop-in mode: the events in an ORLY relay's database, the peers in a folder.

The reactor thread keeps the record set of all that the database lists.  It takes over a whole
listing at the start, after every loss of the connection and now and then; in between it follows
the numbers under which the database stores.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from twisted.internet.defer import Deferred, DeferredLock
from twisted.internet.interfaces import IDelayedCall
from twisted.internet.task import deferLater
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from negd.errors import StorageError
from negd.interfaces import (
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
from negd.nostr.filter import Filter
from negd.nostr.lifecycle import is_expired
from negd.reconcile import RecordSet
from negd.storage.ledger import MAX_ENTRIES
from negd.storage.order import newest_first
from negd.storage.orlydb.address import DatabaseAddress
from negd.storage.orlydb.admission import Admission
from negd.storage.orlydb.book import FolderBook
from negd.storage.orlydb.calls import Calls, Shared, gathered
from negd.storage.orlydb.database import Away, Database
from negd.storage.orlydb.following import Following, OwnSaves
from negd.storage.orlydb.gen.orlydb.v1 import service_pb2 as proto
from negd.storage.orlydb.held import Held
from negd.storage.orlydb.queries import matches_nothing
from negd.storage.orlydb.reading import Reading
from negd.storage.orlydb.survey import Survey
from negd.storage.watches import Watches

log = Logger()

PATIENCE = 30.0
"""Seconds to wait at the start for a database that is not ready."""

POLL = 1.0
"""Seconds between two looks at what others wrote."""

RELIST = 600.0
"""Seconds between two listings of everything; more where these take long."""

_LISTING_SHARE = 50
"""A listing may take one in so many seconds."""

_SAVES = 16
"""SaveEvents in flight: the database takes twice as many a second as one by one."""

_THREADS = 24
_RETRY = 0.25
_VERIFY_AT_ONCE = 500


async def open_orlydb(argument: str, reactor: Any, read_only: bool = False) -> IStorage:
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

    Of others' events it tells within :data:`POLL` seconds; what it answers holds everything that
    was in the database when it was asked, less what the rules take out.
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
        self._following = Following(reactor, self._reading, self._held, self._admission, self._own)
        self._watches = Watches()
        self._ingesting = DeferredLock()
        self._catch_up = Shared(self._take_in)
        self._relist = Shared(self._list_everything)
        self._survey = Shared(self._survey_everything)
        self._is_survey_due = True
        self._was_lost = False
        self._listed_serials = np.empty(0, np.uint64)
        self._next_listing = 0.0
        self._timer: IDelayedCall | None = None
        self._stopped = False

    @property
    def generation(self) -> int:
        """See :class:`IEventStore`."""
        self._held.sweep()
        return self._held.generation

    # --- keeping up -----------------------------------------------------------------------------

    def start(self) -> None:
        """Look at the database from now on."""
        self._timer = None
        Deferred.fromCoroutine(self._look())

    async def _look(self) -> None:
        try:
            await self._catch_up()
        except StorageError:
            pass  # said already; who asks gets the same answer
        except Exception:
            log.failure("looking at the database failed")
        if not self._stopped:
            self._timer = self._clock.callLater(POLL, self.start)

    async def _take_in(self) -> None:
        """Take in what others wrote, and tell of it."""
        new: list[Event] = []
        try:
            if not self._held.is_loaded:
                await self._begin()
            elif self._was_lost:
                await self._resume(new)
            await self._following.catch_up(new)
        except Away as error:
            self._lose(error)
            raise
        finally:
            await self._held.flush()
            for event in new:
                self._watches.tell(event, event.encode())
        if self._is_survey_due:
            self._in_background(self._survey())
        if self._clock.seconds() >= self._next_listing:
            self._in_background(self._relist())

    async def _begin(self) -> None:
        await self._relist()
        self._following.start_after(self._listed_serials)
        if self._read_only:
            await self._survey()

    async def _resume(self, new: list[Event]) -> None:
        await self._following.catch_up(new)
        top = self._following.top
        await self._relist()
        await self._following.resume(self._listed_serials, top, new)
        self._was_lost = False
        log.info("database {server} is back", server=self._database.server)

    def _lose(self, error: Away) -> None:
        if not self._was_lost and not self._stopped:
            log.warn("{text}", text=error.text)
        self._was_lost = True

    async def _list_everything(self) -> None:
        began = self._clock.seconds()
        self._next_listing = began + RELIST

        async def listing() -> RecordSet:
            listed = await self._reading.listed(proto.Filter())
            self._listed_serials = listed.serials
            return await self._calls(listed.to_set)

        await self._held.replace(listing)
        self._next_listing += _LISTING_SHARE * (self._clock.seconds() - began)

    async def _survey_everything(self) -> None:
        self._is_survey_due = False
        survey = Survey(self._clock, self._calls, self._reading, self._held)
        try:
            if len(self._held.records):
                await survey.run()
        except StorageError:
            self._is_survey_due = True
            raise

    def _in_background(self, work: Deferred[None]) -> None:
        """Let it run; what fails is asked for again, or asked when it is needed."""
        work.addErrback(self._failed_in_background)

    def _failed_in_background(self, failure: Failure) -> None:
        if not failure.check(StorageError):
            log.failure("work on the database's listings failed", failure)

    def watch(self, wanted: Filter, callback: Callable[[Event, bytes], None]) -> IWatch:
        """See :meth:`IEventStore.watch`."""
        return self._watches.add(wanted, callback)

    # --- writing --------------------------------------------------------------------------------

    async def ingest(self, events: Sequence[Event]) -> list[Verdict]:
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
            return await self._ingest(events)
        finally:
            self._ingesting.release()

    async def _ingest(self, events: Sequence[Event]) -> list[Verdict]:
        batch = _Batch(events, self._admission)
        await gathered(batch.lane() for _ in range(_SAVES))
        await self._held.flush()
        for event, verdict in batch.decided():
            if verdict.outcome in (Outcome.STORED, Outcome.EPHEMERAL):
                self._watches.tell(event, event.encode())
        return batch.verdicts()

    async def _save(self, event: Event) -> str | None:
        """Have the database store an event; see :meth:`Database.save`."""
        self._own.in_flight.add(event.id_bytes)
        try:
            refusal = await self._calls(self._database.save, event)
        finally:
            self._own.in_flight.discard(event.id_bytes)
        if refusal is None:
            self._own.unmet.add(event.id_bytes)
        return refusal

    # --- reading --------------------------------------------------------------------------------

    async def snapshot(self, wanted: Filter) -> RecordSet:
        """See :meth:`IEventStore.snapshot`."""
        if matches_nothing(wanted):
            return RecordSet.EMPTY
        if wanted.ids is not None:
            matching = (await self._matching_ids(wanted)).values()
            records = RecordSet.from_records(b"".join(event.record for event in matching))
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
        await self._catch_up()
        self._held.sweep()
        await self._held.flush()

    async def query(self, wanted: Filter, after: bytes | None = None, page: int = 500) -> Page:
        """See :meth:`IEventStore.query`; its first page is as fresh as a snapshot."""
        listed = await self._listed(wanted, after, page + 1)
        events = await self._held_events([record[8:] for record in listed[:page]])
        found = (events.get(record[8:]) for record in listed[:page])
        matching = [event.encode() for event in found if event and wanted.matches(event)]
        return Page(matching, listed[page - 1] if len(listed) > page else None)

    async def _listed(self, wanted: Filter, after: bytes | None, most: int) -> list[bytes]:
        """The matching records after a record, newest first."""
        if matches_nothing(wanted):
            return []
        if wanted.ids is not None:
            matching = (await self._matching_ids(wanted)).values()
            records = RecordSet.from_records(b"".join(event.record for event in matching))
            return newest_first(records, after, most)
        if after is None:
            await self._refresh()
        if _has_bounds_only(wanted):
            window = self._held.records.window(wanted.since, wanted.until)
            return newest_first(window, after, most)
        return await self._reading.newest(wanted, after, most)

    async def fetch(self, ids: Sequence[bytes]) -> dict[bytes, bytes]:
        """See :meth:`IEventStore.fetch`."""
        return {i: event.encode() for i, event in (await self._held_events(ids)).items()}

    async def _matching_ids(self, wanted: Filter) -> dict[bytes, Event]:
        held = await self._held_events(wanted.ids or ())
        return {event_id: event for event_id, event in held.items() if wanted.matches(event)}

    async def _held_events(self, ids: Sequence[bytes]) -> dict[bytes, Event]:
        """Those of the events that are held; what is found to be expired is held no longer."""
        found = await self._reading.by_ids(ids)
        now = self._clock.seconds()
        for event in found.values():
            if is_expired(event, now):
                self._held.leave_out(event.record)
        return {i: event for i, event in found.items() if not self._held.is_left_out(i)}

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
            await self._catch_up()
        self._held.sweep()
        await self._held.flush()
        return StoreStatistics(events=len(self._held.records), bytes=0)

    async def verify(self, progress: Callable[[int, int], None]) -> VerifyReport:
        """See :meth:`IEventStore.verify`: what the database lists is what it returns, signed."""
        await self._refresh()
        ids = [record[8:] for record in self._held.records]
        problems: list[str] = []
        for at in range(0, len(ids), _VERIFY_AT_ONCE):
            part = ids[at : at + _VERIFY_AT_ONCE]
            problems += await self._calls(_problems, part, await self._reading.by_ids(part))
            progress(at + len(part), len(ids))
        return VerifyReport(len(ids), problems)

    async def stop(self) -> None:
        """Finish the batches that were accepted, then let go of the database."""
        self._stopped = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        await self._ingesting.acquire()
        self._database.close()
        await self._calls.stop()


class _Batch:
    """Events that are admitted side by side, each author's in order."""

    def __init__(self, events: Sequence[Event], admission: Admission) -> None:
        self._events = events
        self._admission = admission
        self._verdicts: dict[int, Verdict] = {}
        self._failures: list[StorageError] = []
        by_author: dict[str, list[int]] = defaultdict(list)
        for index, event in enumerate(events):
            by_author[event.pubkey].append(index)
        self._left = list(by_author.values())[::-1]

    async def lane(self) -> None:
        """Admit one author's events after another's; what fails is kept for :meth:`verdicts`."""
        while self._left:
            for index in self._left.pop():
                try:
                    self._verdicts[index] = await self._admission.admit(self._events[index])
                except Away as error:
                    self._failures.append(error)
                    self._left.clear()
                    return
                except StorageError as error:
                    self._failures.append(error)

    def decided(self) -> list[tuple[Event, Verdict]]:
        """What is known of the events, in order."""
        return [(self._events[index], self._verdicts[index]) for index in sorted(self._verdicts)]

    def verdicts(self) -> list[Verdict]:
        """One for each event.

        :raises StorageError: there is none for some of them.
        """
        if self._failures:
            raise self._failures[0]
        return [verdict for _, verdict in self.decided()]


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
