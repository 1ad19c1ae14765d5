"""The embedded storage: events and peers in one LMDB environment.

The reactor thread keeps the record set of the whole store, the watches and the clock; one writer
thread and a few reader threads do what may touch the disk.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall
from twisted.logger import Logger
from zope.interface import implementer

from negd.errors import ConfigError, StorageError
from negd.interfaces import (
    CompactReport,
    IEventStore,
    IStorage,
    IWatch,
    Page,
    StoreStatistics,
    Verdict,
    VerifyReport,
)
from negd.nostr.event import Event
from negd.nostr.filter import EVERYTHING, Filter
from negd.reconcile import RecordSet
from negd.settings import StoreSettings
from negd.storage.ledger import MAX_ENTRIES
from negd.storage.lmdb.book import LmdbBook
from negd.storage.lmdb.environment import FIRST_MAP, Environment, Transaction
from negd.storage.lmdb.read_pool import ReadPool
from negd.storage.lmdb.reader import Reader
from negd.storage.lmdb.shelf import LmdbShelf
from negd.storage.lmdb.verify import Verification
from negd.storage.lmdb.writer import Changes, Work, Writer
from negd.storage.order import newest_first
from negd.storage.watches import Watches

log = Logger()

_READERS = 2

_SWEEP = 1000
"""Expired events that one transaction removes at most."""

_MOST_TOUCHED = 20_000
"""Records by which the record set may be behind the last commit."""

_SWITCH = 0.0005
"""Seconds after which a thread that computes lets others have the interpreter. LMDB gives it up in
every call: beside a reactor that computes, Python's 5 ms made a writer take 3 ms an event."""

_LONGEST_TIMER = 3600.0
_NEVER = float("inf")


async def open_lmdb(
    argument: str,
    reactor: Any,
    read_only: bool = False,
    settings: StoreSettings = StoreSettings(),
) -> IStorage:
    """See :meth:`negd.interfaces.IStoreFactory.open`; the argument is a folder.

    :param reactor: an IReactorTime and IReactorFromThreads.
    """
    if not argument:
        raise ConfigError("store 'lmdb:' names no folder: expected lmdb:PATH")
    return await LmdbStorage.open(argument, reactor, read_only)


@implementer(IStorage)
class LmdbStorage:
    """An :class:`IStorage` in a folder. Use :meth:`open`."""

    def __init__(
        self, environment: Environment, pool: ReadPool, events: LmdbStore, book: LmdbBook
    ) -> None:
        self._environment = environment
        self._pool = pool
        self.events = events
        self.book = book

    @classmethod
    async def open(
        cls,
        folder: str,
        reactor: Any,
        read_only: bool = False,
        *,
        first_map: int = FIRST_MAP,
        max_entries: int = MAX_ENTRIES,
    ) -> LmdbStorage:
        """Open the store in a folder.

        :param first_map: bytes of address space to begin with.
        :param max_entries: ledger entries kept of one peer.
        :raises StorageError: it cannot be opened.
        """
        sys.setswitchinterval(min(_SWITCH, sys.getswitchinterval()))
        pool = ReadPool(reactor, folder, _READERS)
        try:
            environment = await pool(Environment, folder, read_only, first_map)
            reader = Reader(environment)
            live = None if read_only else await pool(reader.snapshot, EVERYTHING, 0)
            expiry = await pool(reader.first_expiry)
        except BaseException:
            await pool.stop()
            raise
        events = LmdbStore(reactor, environment, pool, live, expiry)

        def read(work: Callable[[Transaction], Any]) -> Deferred[Any]:
            return pool(_in_transaction, environment, work)

        book = LmdbBook(environment.databases, read, events.write, max_entries)
        return cls(environment, pool, events, book)

    async def close(self) -> None:
        """See :meth:`IStorage.close`."""
        await self.events.stop()
        await self._pool.stop()
        self._environment.close()


def _in_transaction(environment: Environment, work: Callable[[Transaction], Any]) -> Any:
    with environment.read() as txn:
        return work(txn)


@implementer(IEventStore)
class LmdbStore:
    """An :class:`IEventStore` on an environment.

    :param live: the records of all stored events; None opens read-only.
    :param expiry: the second at which one of them expires first.
    """

    def __init__(
        self,
        reactor: Any,
        environment: Environment,
        pool: ReadPool,
        live: RecordSet | None,
        expiry: float,
    ) -> None:
        self._clock = reactor
        self._environment = environment
        self._read = pool
        self._reader = Reader(environment)
        self._live = live
        self._behind = False
        self._next_live = live or RecordSet.EMPTY
        self._touched: dict[bytes, bool] = {}
        self._writer = None if live is None else Writer(environment, reactor, self._committed)
        self._generation = 0
        self._watches = Watches()
        self._expiry = expiry
        self._overdue = False
        self._sweeping: list[Deferred[None]] | None = None
        self._timer: IDelayedCall | None = None
        self._stopped = False
        self._set_timer()

    @property
    def generation(self) -> int:
        """See :class:`IEventStore`."""
        if self._writer is None:
            return self._environment.last_transaction
        self._notice_expiry()
        return self._generation

    # --- writing --------------------------------------------------------------------------------

    async def ingest(self, events: Sequence[Event]) -> list[Verdict]:
        """See :meth:`IEventStore.ingest`."""
        now = self._clock.seconds()

        def work(txn: Transaction, changes: Changes) -> list[Verdict]:
            return LmdbShelf(txn, self._environment.databases, changes).ingest(events, now)

        verdicts: list[Verdict] = await self.write(work, len(events))
        return verdicts

    def write(self, work: Work[Any], weight: int = 1) -> Deferred[Any]:
        """Have work done in a write transaction; see :meth:`Writer.submit`."""
        if self._writer is None:
            refused: Deferred[Any] = Deferred()
            refused.errback(StorageError(f"store {self._environment.folder} is open for reading"))
            return refused
        return self._writer.submit(work, weight)

    def _committed(self, changes: Changes) -> Callable[[], None]:
        """In the writer's thread: bring the record set up to date, and say how to tell of it.

        While more is to be written that waits, since it can cost more than the writing: each
        chunk of the set that is touched is made anew.
        """
        self._touched.update(changes.records)
        if changes.last or len(self._touched) > _MOST_TOUCHED:
            gone = [record for record, present in self._touched.items() if not present]
            new = [record for record, present in self._touched.items() if present]
            self._next_live = self._next_live.delete(b"".join(gone)).insert(b"".join(new))
            self._touched.clear()
        return partial(self._publish, changes, self._next_live, bool(self._touched))

    def _publish(self, changes: Changes, live: RecordSet, behind: bool) -> None:
        self._live, self._behind = live, behind
        if changes.records:
            self._generation += 1
        if changes.expiry < self._expiry:
            self._expiry = changes.expiry
            self._set_timer()
        if self._watches:
            for event, json in changes.told:
                self._watches.tell(event, json)

    def watch(self, wanted: Filter, callback: Callable[[Event, bytes], None]) -> IWatch:
        """See :meth:`IEventStore.watch`."""
        return self._watches.add(wanted, callback)

    # --- expiry ---------------------------------------------------------------------------------

    def _notice_expiry(self) -> None:
        """Where something expires by now, leave it out of all answers and start to remove it."""
        if self._expiry > self._clock.seconds() or self._writer is None:
            return
        self._generation += 1
        self._expiry = _NEVER
        self._overdue = True
        self._sweeping = []
        Deferred.fromCoroutine(self._sweep(self._writer))

    async def _sweep(self, writer: Writer) -> None:
        now = self._clock.seconds()

        def work(txn: Transaction, changes: Changes) -> float:
            return LmdbShelf(txn, self._environment.databases, changes).sweep(now, _SWEEP)

        following = now
        try:
            while following <= now:
                following = await writer.submit(work, _SWEEP)
        except StorageError as error:
            log.warn("expired events stay until they can be removed: {text}", text=error.text)
            following = int(self._clock.seconds()) + 1
        else:
            self._overdue = False
        self._expiry = min(self._expiry, following)
        self._set_timer()
        waiting, self._sweeping = self._sweeping or [], None
        for swept in waiting:
            swept.callback(None)

    def _set_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._expiry < _NEVER and self._writer is not None and not self._stopped:
            delay = max(0.0, self._expiry - self._clock.seconds())
            self._timer = self._clock.callLater(min(delay, _LONGEST_TIMER), self._timer_fired)

    def _timer_fired(self) -> None:
        self._timer = None
        self._notice_expiry()
        self._set_timer()

    # --- reading --------------------------------------------------------------------------------

    async def snapshot(self, wanted: Filter) -> RecordSet:
        """See :meth:`IEventStore.snapshot`; at once where only seconds and ``limit`` are given."""
        records = await self._window(wanted)
        if records is None:
            return await self._read(self._reader.snapshot, wanted, self._clock.seconds())
        return records if wanted.limit is None else records.newest(wanted.limit)

    async def _window(self, wanted: Filter) -> RecordSet | None:
        """The records within the bounds of a filter that has nothing else; None for others.

        None too while expired events cannot be removed: the reader leaves them out itself.
        """
        if self._live is None or not _has_bounds_only(wanted):
            return None
        self._notice_expiry()
        if self._sweeping is not None:
            swept: Deferred[None] = Deferred()
            self._sweeping.append(swept)
            await swept
        if self._behind:
            await self.write(_catch_up)
        return None if self._overdue else self._live.window(wanted.since, wanted.until)

    async def query(self, wanted: Filter, after: bytes | None = None, page: int = 500) -> Page:
        """See :meth:`IEventStore.query`."""
        now = self._clock.seconds()
        records = await self._window(wanted)
        if records is None:
            return await self._read(self._reader.page, wanted, after, page, now)
        listed = newest_first(records, after, page + 1)
        return await self._read(self._reader.page_of, listed, page, now)

    async def fetch(self, ids: Sequence[bytes]) -> dict[bytes, bytes]:
        """See :meth:`IEventStore.fetch`."""
        return await self._read(self._reader.fetch, ids, self._clock.seconds())

    async def known(self, ids: Sequence[bytes]) -> set[bytes]:
        """See :meth:`IEventStore.known`."""
        return await self._read(self._reader.known, ids, self._clock.seconds())

    async def count(self, wanted: Filter) -> int:
        """See :meth:`IEventStore.count`."""
        records = await self._window(wanted)
        if records is None:
            return await self._read(self._reader.count, wanted, self._clock.seconds())
        return len(records) if wanted.limit is None else min(len(records), wanted.limit)

    async def statistics(self) -> StoreStatistics:
        """See :meth:`IEventStore.statistics`."""
        return await self._read(self._reader.statistics, self._clock.seconds())

    async def verify(
        self, progress: Callable[[int, int], None], repair: bool = False
    ) -> VerifyReport:
        """See :meth:`IEventStore.verify`."""
        if repair:
            raise StorageError(f"store {self._environment.folder} cannot be repaired yet")
        return await Verification(self._environment, self._read, progress).run()

    async def compact(self) -> CompactReport:
        """See :meth:`IEventStore.compact`; not done yet."""
        size = (await self.statistics()).bytes
        return CompactReport(size, size)

    async def stop(self) -> None:
        """Finish the writes that were accepted; later ones fail."""
        self._stopped = True
        self._set_timer()
        if self._writer is not None:
            await self._writer.stop()


def _catch_up(txn: Transaction, changes: Changes) -> None:
    """Writes nothing, and has the record set brought up to date."""
    changes.last = True


def _has_bounds_only(wanted: Filter) -> bool:
    """Whether every event within the filter's seconds matches it."""
    return (
        wanted.ids is None and wanted.authors is None and wanted.kinds is None and not wanted.tags
    )
