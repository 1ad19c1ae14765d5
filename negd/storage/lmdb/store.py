"""The embedded storage: events and peers in one LMDB environment.

The reactor thread keeps the record set of the whole store, the watches and the clock; one writer
thread and a few reader threads do what may touch the disk.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar

import lmdb
from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.internet.task import LoopingCall
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from negd.errors import DamagedStore, StorageError
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
from negd.nostr.filing import Filing
from negd.nostr.filter import Filter, from_json
from negd.reconcile import RecordSet
from negd.settings import StoreSettings
from negd.storage.factory import names_folder
from negd.storage.ledger import MAX_ENTRIES
from negd.storage.lmdb.book import LmdbBook
from negd.storage.lmdb.changes import Changes
from negd.storage.lmdb.environment import (
    FIRST_MAP,
    SCHEMA,
    Environment,
    Sync,
    Transaction,
    storage_errors,
)
from negd.storage.lmdb.live import LiveSets, Sets, bases, find
from negd.storage.lmdb.loading import Memory, load
from negd.storage.lmdb.pace import Pace
from negd.storage.lmdb.read_ahead import available_memory, read_ahead
from negd.storage.lmdb.read_pool import ReadPool
from negd.storage.lmdb.reader import Reader
from negd.storage.lmdb.rewrite import rewrite
from negd.storage.lmdb.roll import Roll
from negd.storage.lmdb.salvage import salvage_folder, salvage_open
from negd.storage.lmdb.shelf import LmdbShelf
from negd.storage.lmdb.turns import Call, Turns
from negd.storage.lmdb.verify import Verification
from negd.storage.lmdb.writer import Work, Writer, pieces
from negd.storage.order import newest_first
from negd.storage.watches import Watches

T = TypeVar("T")

log = Logger()

_READERS = 2

_SWEEP = 1000
"""Weight of the expired events that one transaction removes at most."""

_SYNC = 1.0
"""Seconds after a commit that was not waited for until it is on the disk at the latest."""

_TELL = 100
"""New events that watches are told of in one go."""

_TOLD = 100_000
"""Events of a store that is being upgraded between two lines in the log."""

_SWITCH = 0.0005
"""Seconds after which a thread that computes lets others have the interpreter. LMDB gives it up in
every call: beside a reactor that computes, Python's 5 ms made a writer take 3 ms an event."""

_FORGET = 10.0
"""Seconds between looks for readers whose processes were killed."""

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
    names_folder(argument)
    return await LmdbStorage.open(argument, reactor, read_only, settings)


async def salvage_lmdb(
    argument: str, reactor: Any, progress: Callable[[int, int], None]
) -> list[str]:
    """See :meth:`negd.interfaces.IStoreFactory.salvage`; parameters as of :func:`open_lmdb`."""
    pool = ReadPool(reactor, argument, 1)
    try:
        return await pool(salvage_folder, argument, _from_thread(reactor, progress))
    finally:
        await pool.stop()


def _from_thread(reactor: Any, progress: Callable[[int, int], None]) -> Callable[[int, int], None]:
    return partial(reactor.callFromThread, progress)


@implementer(IStorage)
class LmdbStorage:
    """An :class:`IStorage` in a folder. Use :meth:`open`.

    :ivar read_ahead: fires once the system holds the file in memory, or has no room for it.
    :ivar looked_through: fires once all pages were looked at, which is done in the background
        where the process before did not close the store.
    """

    def __init__(
        self, environment: Environment, pool: ReadPool, events: LmdbStore, book: LmdbBook
    ) -> None:
        self._environment = environment
        self._pool = pool
        self._pace = Pace()
        self._background: ReadPool | None = None
        self._forgetting = LoopingCall(self._forget_dead_readers)
        self.read_ahead: Deferred[None] = succeed(None)
        self.looked_through: Deferred[None] = succeed(None)
        self.events = events
        self.book = book

    @classmethod
    async def open(
        cls,
        folder: str,
        reactor: Any,
        read_only: bool = False,
        settings: StoreSettings = StoreSettings(),
        *,
        first_map: int = FIRST_MAP,
        max_entries: int = MAX_ENTRIES,
    ) -> LmdbStorage:
        """Open the store in a folder; one of an older layout is upgraded first.

        :param first_map: bytes of address space to begin with.
        :param max_entries: ledger entries kept of one peer.
        :raises StorageError: it cannot be opened.
        :raises DamagedStore: it cannot before it is salvaged.
        """
        sys.setswitchinterval(min(_SWITCH, sys.getswitchinterval()))
        sync = Sync.FULL if settings.durability == "fsync" else Sync.DATA
        standing = bases(map(from_json, settings.standing))
        pool = ReadPool(reactor, folder, _READERS)
        try:
            environment = await pool(Environment, folder, read_only, first_map, sync)
            try:
                memory = None if read_only else await pool(_prepare, environment, standing)
                expiry = await pool(Reader(environment).first_expiry)
            except BaseException:
                environment.close()
                raise
        except BaseException:
            await pool.stop()
            raise
        events = LmdbStore(reactor, environment, pool, memory, expiry)
        if sync is Sync.DATA:
            events.sync_after(_SYNC)

        def read(work: Callable[[Transaction], Any]) -> Deferred[Any]:
            return pool(_in_transaction, environment, work)

        book = LmdbBook(environment, read, events.write, max_entries)
        storage = cls(environment, pool, events, book)
        if not read_only:
            storage._attend(ReadPool(reactor, folder, 1))
            storage._forget_regularly(reactor)
        return storage

    def _attend(self, background: ReadPool) -> None:
        """Begin what may take a while and keeps nobody waiting."""
        self._background = background
        self.read_ahead = background(self._read_ahead).addErrback(self._say)
        if self._environment.was_left:
            self._look_through(background)

    def _forget_regularly(self, clock: IReactorTime) -> None:
        self._forgetting.clock = clock
        self._forgetting.start(_FORGET, now=False)

    def _forget_dead_readers(self) -> Deferred[Any]:
        return self._pool(self._environment.forget_dead_readers).addErrback(self._say)

    def _read_ahead(self) -> None:
        with storage_errors(f"store {self._environment.folder} cannot be read ahead"):
            environment, available = self._environment, available_memory()
            if not read_ahead(environment.data, available, self._pace):
                log.info(
                    "store {folder} is not read ahead: it has {bytes} bytes, and of the memory "
                    "{available} are known to be available",
                    folder=environment.folder,
                    bytes=environment.bytes,
                    available=available,
                )

    def _say(self, failure: Failure) -> None:
        if not self._pace.is_stopped:
            log.error("{text}", text=failure.getErrorMessage())

    def _look_through(self, background: ReadPool) -> None:
        """See in the background whether all pages are whole, and say where they are not.

        LMDB may have ended the process before, and may end this one, without such words.
        """

        def ended(result: Any) -> None:
            if isinstance(result, Failure):
                self._say(result)
            if not isinstance(result, Failure) or result.check(DamagedStore):
                self._environment.was_left = False

        looking = background(self._environment.assure_whole, None, self._pace)
        self.looked_through = looking.addBoth(ended)

    async def close(self) -> None:
        """See :meth:`IStorage.close`."""
        self._pace.stop()
        if self._forgetting.running:
            self._forgetting.stop()
        if self._background is not None:
            await self._background.stop()
        await self.events.stop()
        await self._pool.stop()
        self._environment.close()


def _in_transaction(environment: Environment, work: Callable[[Transaction], Any]) -> Any:
    with environment.read() as txn:
        return work(txn)


def _prepare(environment: Environment, standing: list[Filter]) -> Memory:
    """Upgrade a store where that is needed, and read what is kept in memory."""
    if environment.schema != SCHEMA:
        name, schemas = environment.folder, f"schema {environment.schema} to {SCHEMA}"
        environment.assure_whole()
        log.warn("store {name}: upgrading from {schemas}", name=name, schemas=schemas)
        rewrite(environment, _upgrade_log(name))
        log.warn("store {name}: upgraded", name=name)
    if any(wanted.authors or wanted.tags for wanted in standing):
        environment.assure_whole(("authors", "tags"))
    return load(environment, standing)


def _upgrade_log(name: str) -> Callable[[int, int], None]:
    """Logs how far an upgrade has come, now and then."""
    told = 0

    def tell(done: int, total: int) -> None:
        nonlocal told
        if done - told >= _TOLD:
            told = done
            log.warn("store {name}: {done} of {total} events", name=name, done=done, total=total)

    return tell


@implementer(IEventStore)
class LmdbStore:
    """An :class:`IEventStore` on an environment.

    :param memory: what is kept in memory; None opens read-only.
    :param expiry: the second at which one of the events expires first.
    """

    def __init__(
        self,
        reactor: Any,
        environment: Environment,
        pool: ReadPool,
        memory: Memory | None,
        expiry: float,
    ) -> None:
        self._clock = reactor
        self._environment = environment
        self._read = pool
        self._roll = None if memory is None else memory.roll
        self._reader = Reader(environment, self._roll)
        self._live = LiveSets({} if memory is None else memory.sets)
        self._sets: Sets = self._live.sets
        self._behind = False
        self._turns = Turns(reactor)
        self._writer = None if memory is None else Writer(environment, self._turns, self._committed)
        self._generation = 0
        self._watches = Watches()
        self._expiry = expiry
        self._overdue = False
        self._sweeping: list[Deferred[None]] | None = None
        self._timer: IDelayedCall | None = None
        self._sync_delay: float | None = None
        self._sync_timer: IDelayedCall | None = None
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

    async def ingest(self, events: Sequence[Event | Filing]) -> list[Verdict]:
        """See :meth:`IEventStore.ingest`."""
        now = self._clock.seconds()
        verdicts: list[Verdict] = []
        for piece, weight in pieces(events):
            verdicts += await self.write(partial(_ingest, piece, now), weight)
        return verdicts

    def write(self, work: Work[Any], weight: int = 1) -> Deferred[Any]:
        """Have work done in a write transaction; see :meth:`Writer.submit`."""
        if self._writer is None:
            return self._refused()
        return self._writer.submit(work, weight)

    def _refused(self) -> Deferred[Any]:
        refused: Deferred[Any] = Deferred()
        refused.errback(StorageError(f"store {self._environment.folder} is open for reading"))
        return refused

    def _committed(self, changes: Changes) -> list[Call]:
        """In the writer's thread: bring memory up to date, and say how to tell of it."""
        assert self._roll is not None
        self._roll.add(changes.entered)
        self._roll.drop(changes.left)
        self._live.follow(changes)
        told = changes.told
        return [
            partial(self._publish, changes, self._live.sets, self._live.behind),
            *(partial(self._tell, told[at : at + _TELL]) for at in range(0, len(told), _TELL)),
        ]

    def _publish(self, changes: Changes, sets: Sets, behind: bool) -> None:
        self._sets, self._behind = sets, behind
        if changes.records:
            self._generation += 1
        if changes.expiry < self._expiry:
            self._expiry = changes.expiry
            self._set_timer()
        if self._sync_delay is not None and self._sync_timer is None:
            self._sync_timer = self._clock.callLater(self._sync_delay, self._sync)

    def _tell(self, filings: list[Filing]) -> None:
        if self._watches:
            for filing in filings:
                self._watches.tell(filing.event, filing.json)

    def sync_after(self, seconds: float) -> None:
        """Have commits on the disk so long after them; without this, commits wait for the disk."""
        self._sync_delay = seconds

    def _sync(self) -> None:
        self._sync_timer = None
        self._read(self._environment.sync).addErrback(
            lambda failure: log.warn("{text}", text=failure.getErrorMessage())
        )

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

        def work(txn: Transaction, shelf: LmdbShelf) -> float:
            return shelf.sweep(now, _SWEEP)

        following = now
        try:
            while following <= now:
                following = await writer.submit(work, _SWEEP)
            self._overdue = False
        except Exception as error:
            log.warn("expired events stay until they can be removed: {text}", text=str(error))
            following = int(self._clock.seconds()) + 1
        finally:
            waiting, self._sweeping = self._sweeping or [], None
            self._expiry = min(self._expiry, following)
            self._set_timer()
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
        """See :meth:`IEventStore.snapshot`; at once for everything and for standing filters."""
        records = await self._window(wanted)
        if records is None:
            return await self._read(self._reader.snapshot, wanted, self._clock.seconds())
        return records if wanted.limit is None else records.newest(wanted.limit)

    async def _window(self, wanted: Filter) -> RecordSet | None:
        """The records of a filter that a set in memory answers, but for the limit.

        None for other filters, and while expired events cannot be removed: the reader leaves them
        out itself.
        """
        if find(self._sets, wanted) is None:
            return None
        self._notice_expiry()
        if self._sweeping is not None:
            swept: Deferred[None] = Deferred()
            self._sweeping.append(swept)
            await swept
        if self._behind:
            await self.write(_catch_up)
        records = None if self._overdue else find(self._sets, wanted)
        return None if records is None else records.window(wanted.since, wanted.until)

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
        verification = Verification(self._environment, self._read, progress)
        report = await verification.run()
        if not repair or not report.problems:
            return report
        notes = await self._alone(partial(self._repair, verification, progress))
        return replace(report, repaired=verification.found, notes=notes)

    async def compact(self, progress: Callable[[int, int], None]) -> CompactReport:
        """See :meth:`IEventStore.compact`. Writers wait, and readers as the files are exchanged.

        Other processes that read go on with the old file, which takes its room until they end.
        """
        before = self._environment.bytes
        if not self._environment.is_untouched:  # as after an upgrade
            told = _from_thread(self._clock, progress)
            await self._alone(partial(self._compact, told))
        return CompactReport(before, self._environment.bytes)

    def _alone(self, work: Callable[[], T]) -> Deferred[T]:
        """Have something done while nothing is being written."""
        return self._refused() if self._writer is None else self._writer.submit_alone(work)

    # in the writer's thread

    def _compact(self, progress: Callable[[int, int], None]) -> None:
        self._environment.assure_whole()
        with self._anew():
            rewrite(self._environment, progress, if_smaller=True)

    def _repair(self, found: Verification, progress: Callable[[int, int], None]) -> list[str]:
        """Exactly where the pages are whole; else what can be saved. What is to be told of it."""
        told = _from_thread(self._clock, progress)
        with self._anew():
            if not found.damaged:
                try:
                    rewrite(self._environment, told, found.broken)
                    return []
                except StorageError as error:
                    if not isinstance(error.__cause__, lmdb.Error):
                        raise
            return salvage_open(self._environment, told)

    @contextmanager
    def _anew(self) -> Iterator[None]:
        """While the store is made anew; then read what is in memory of it.

        Serials are other ones then, so that until the roll is made anew it must be empty.
        """
        assert self._roll is not None
        self._roll.take(Roll.EMPTY)
        try:
            yield
        finally:
            memory = load(self._environment, list(self._live.sets))
            self._roll.take(memory.roll)
            self._live = LiveSets(memory.sets)
            self._turns.add([partial(self._renew, memory.sets)])

    def _renew(self, sets: Sets) -> None:
        self._sets, self._behind = sets, False
        self._generation += 1

    async def stop(self) -> None:
        """Finish the writes that were accepted; later ones fail."""
        self._stopped = True
        self._set_timer()
        if self._sync_timer is not None:
            self._sync_timer.cancel()
            self._sync()
        if self._writer is not None:
            await self._writer.stop()


def _ingest(
    events: Sequence[Event | Filing], now: float, txn: Transaction, shelf: LmdbShelf
) -> list[Verdict]:
    return shelf.ingest(events, now)


def _catch_up(txn: Transaction, shelf: LmdbShelf) -> None:
    """Writes nothing, and has the record set brought up to date."""
    shelf.changes.last = True
