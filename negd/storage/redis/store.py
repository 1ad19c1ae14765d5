"""The storage that several nodes share: events and peers on one Redis server.

Scripts on the server decide what becomes of events and do it in one step; the feed tells every
node.  Each node keeps the records of the whole store, as far as it has read the feed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from secrets import token_hex
from typing import Any, cast

from twisted.internet.defer import Deferred, FirstError, gatherResults
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.internet.threads import deferToThreadPool
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from negd.errors import StorageError
from negd.interfaces import (
    CompactReport,
    IEventStore,
    ILeases,
    IStorage,
    IWatch,
    Outcome,
    Page,
    StoreStatistics,
    Verdict,
    VerifyReport,
)
from negd.nostr.event import Event, InvalidEvent, decode
from negd.nostr.filing import Filing, filing_of
from negd.nostr.filter import Filter
from negd.reconcile import RecordSet
from negd.settings import StoreSettings
from negd.storage.ledger import MAX_ENTRIES
from negd.storage.order import newest_first
from negd.storage.redis.address import ServerAddress, parse_address
from negd.storage.redis.book import RedisBook
from negd.storage.redis.link import Link, Refused
from negd.storage.redis.reader import Offload, Reader
from negd.storage.redis.replica import NEVER, Replica, split
from negd.storage.redis.server import Server
from negd.storage.redis.unswept import MOST, Unswept
from negd.storage.redis.values import number, value_of
from negd.storage.redis.verify import Mending, Verification
from negd.storage.shared import Shared
from negd.storage.watches import Watches

log = Logger()

_SCHEMA = b"1"
"""What this code reads and writes."""

_BATCH_EVENTS, _BATCH_BYTES = 250, 1 << 19
"""What one script takes: it holds up the server for some 10 ms."""

FEED_ROOM = 1 << 26
"""Bytes of feed that the server keeps for nodes that were away."""

_SWEEP = 500
"""Expired events that one script removes, or looks for, at most."""

_SWEEP_BYTES = 1 << 22
"""Bytes of expired events at which a script looks for no more."""

_SWEEP_EVERY = 1.0
"""Seconds between looks at what has expired, where nobody asks."""

_VERDICTS = {
    ord("s"): Verdict(Outcome.STORED),
    ord("d"): Verdict(Outcome.DUPLICATE),
    ord("r"): Verdict(Outcome.SUPERSEDED),
    ord("x"): Verdict(Outcome.DELETED),
    ord("e"): Verdict(Outcome.EPHEMERAL),
}


async def open_redis(
    argument: str,
    reactor: Any,
    read_only: bool = False,
    settings: StoreSettings = StoreSettings(),
) -> IStorage:
    """See :meth:`negd.interfaces.IStoreFactory.open`.

    :param argument: see :mod:`negd.storage.redis.address`.
    :param reactor: the reactor, whole: for connections, threads and time.
    """
    return await RedisStorage.open(parse_address(argument), reactor, read_only)


@implementer(IStorage, ILeases)
class RedisStorage:
    """An :class:`IStorage` on a server. Use :meth:`open`.

    :param token: tells this node from all others that ask for leases.
    """

    def __init__(self, server: Server, events: RedisStore, book: RedisBook, token: str) -> None:
        self._server = server
        self._token = token
        self.events = events
        self.book = book

    @classmethod
    async def open(
        cls,
        address: ServerAddress,
        reactor: Any,
        read_only: bool = False,
        *,
        clock: IReactorTime | None = None,
        max_entries: int = MAX_ENTRIES,
        feed_room: int = FEED_ROOM,
    ) -> RedisStorage:
        """Connect to a server and open the store that it has under the address's prefix.

        :param clock: tells when events expire, where it is not to be the reactor.
        :param max_entries: ledger entries kept of one peer.
        :param feed_room: bytes of feed that the server keeps.
        :raises StorageError: it cannot be opened.
        """
        events = RedisStore(address, reactor, clock or reactor, read_only, feed_room)
        await events.start()
        book = RedisBook(events.write, events.server.run, max_entries)
        return cls(events.server, events, book, token_hex(16))

    async def close(self) -> None:
        """See :meth:`IStorage.close`."""
        await self.events.stop()

    # --- leases ---------------------------------------------------------------------------------

    async def hold(self, name: str, seconds: float) -> bool:
        """See :meth:`ILeases.hold`."""
        milliseconds = max(1, int(1000 * seconds))
        (held,) = await self._server.run("hold", name, self._token, milliseconds)
        return held == b"1"

    async def release(self, name: str) -> None:
        """See :meth:`ILeases.release`."""
        await self._server.run("release", name, self._token)


@implementer(IEventStore)
class RedisStore:
    """An :class:`IEventStore` on a server.

    :param reactor: for connections and threads.
    :param clock: tells when events expire.
    """

    def __init__(
        self,
        address: ServerAddress,
        reactor: Any,
        clock: IReactorTime,
        read_only: bool,
        feed_room: int,
    ) -> None:
        self._clock = clock
        self._read_only = read_only
        self._feed_room = feed_room
        self._offload: Offload = partial(deferToThreadPool, reactor, reactor.getThreadPool())
        self._watches = Watches()
        self._unswept = Unswept()
        self._replica = Replica(self._tell, self._offload, self._unswept)
        self.server = Server(address, reactor, self._prepare, self._replica.follow)
        self._reader = Reader(self.server.run, self._offload, self._unswept)
        self._overdue = False
        self._sweep = Shared(self._sweep_all)
        self._timer: IDelayedCall | None = None

    async def start(self) -> None:
        """Connect and load.

        :raises StorageError: the server cannot be reached, or cannot be used.
        """
        await self.server.start()
        self._timer = self._clock.callLater(_SWEEP_EVERY, self._tick)

    async def stop(self) -> None:
        """Finish what was accepted, then disconnect."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        await self.server.stop()

    async def _prepare(self, link: Link) -> None:
        await check_server(link)
        (schema,) = await link.run("open", b"" if self._read_only else _SCHEMA)
        if not schema:
            raise StorageError(f"{link.address}: there is no store under {link.key('').decode()}")
        if schema != _SCHEMA:
            raise StorageError(
                f"{link.address}: the store is of schema {schema.decode(errors='replace')}; "
                f"this negd reads schema {_SCHEMA.decode()}"
            )
        await self._replica.catch_up(link)

    @property
    def generation(self) -> int:
        """See :class:`IEventStore`."""
        self._notice_expiry()
        return self._replica.generation

    # --- writing --------------------------------------------------------------------------------

    async def ingest(self, events: Sequence[Event | Filing]) -> list[Verdict]:
        """See :meth:`IEventStore.ingest`.

        Of a batch that is larger than what one script takes, or whose answer is lost with the
        connection, parts may have been stored when this fails; handing it in again does no harm.
        """
        now = self._clock.seconds()
        verdicts = [Verdict(Outcome.EXPIRED)] * len(events)
        filings = list(map(filing_of, events))
        alive = [at for at, filing in enumerate(filings) if not filing.is_expired(now)]
        values = [value_of(filings[at]) for at in alive]
        letters = await self._write(values, now)
        for at, letter in zip(alive, letters, strict=True):
            verdicts[at] = _VERDICTS[letter]
        return verdicts

    async def _write(self, values: list[bytes], now: float) -> bytes:
        """One letter for each value, once this node knows too of what was done."""
        running = [
            self.write("ingest", number(int(now)), self._feed_room, *batch)
            for batch in _batches(values)
        ]
        try:
            replies = await gatherResults(running, consumeErrors=True)
        except FirstError as error:
            raise cast(StorageError, error.subFailure.value) from None
        for head, _ in replies[-1:]:
            await self._replica.reached(head)
        return b"".join(letters for _, letters in replies)

    def write(self, command: str, *arguments: object) -> Deferred[list[bytes]]:
        """Run a command that writes; it fails on a store that was opened for reading."""
        if self._read_only:
            refused: Deferred[list[bytes]] = Deferred()
            refused.errback(StorageError(f"{self.server.address}: open for reading"))
            return refused
        return self.server.run(command, *arguments)

    def watch(self, wanted: Filter, callback: Callable[[Event, bytes], None]) -> IWatch:
        """See :meth:`IEventStore.watch`; of what any node stores."""
        return self._watches.add(wanted, callback)

    def _tell(self, json: bytes) -> None:
        if not self._watches:
            return
        try:
            event = decode(json)
        except InvalidEvent as error:
            log.error("the feed tells of what is no event: {text}", text=error.text)
        else:
            self._watches.tell(event, json)

    # --- expiry ---------------------------------------------------------------------------------

    def _notice_expiry(self) -> None:
        """Where something expires by now, let no answer be given before it is removed."""
        if self._replica.expiry <= self._clock.seconds():
            self._replica.expiry = NEVER
            self._replica.generation += 1
            self._overdue = True

    async def _fresh(self) -> None:
        """Return once nothing that has expired is in answers any more."""
        self._notice_expiry()
        if self._overdue:
            await self._sweep()

    async def _sweep_all(self) -> None:
        """Have the server remove what has expired; where it does not, leave that out of answers.

        Several nodes may be at it: who comes late finds nothing to do.
        """
        while self._overdue:
            now = int(self._clock.seconds())
            sweep = ("sweep", number(now + 1), self._feed_room, _SWEEP)
            try:
                head, expiry = await self.server.run(*sweep)
            except Refused as refusal:
                following = await self._leave_out(now, refusal)
            else:
                await self._replica.reached(head)
                following = _second(expiry)
                if following > now:
                    self._unswept.clear()
            if following > now:
                self._overdue = False
                self._replica.expiry = min(self._replica.expiry, following)

    async def _leave_out(self, now: int, refusal: Refused) -> float:
        """Know what has expired and is not removed; the second at which something expires next."""
        if not self._unswept:
            log.warn("expired events cannot be removed, and are left out: {e}", e=refusal.text)
        while len(self._unswept.ids) < MOST:
            where = (number(now + 1), self._unswept.low, _SWEEP, _SWEEP_BYTES)
            last, expiry, found = await self.server.run("expired", *where)
            if not last:
                return _second(expiry)
            records = split(found)
            self._unswept.add(records, last)
            self._replica.leave_out(records)
        raise StorageError(f"{refusal.text}; {MOST} expired events and more wait to be removed")

    def _tick(self) -> None:
        self._timer = self._clock.callLater(_SWEEP_EVERY, self._tick)
        if self._unswept:
            self._overdue = True  # perhaps writes are taken again
        Deferred.fromCoroutine(self._fresh()).addErrback(_note)

    # --- reading --------------------------------------------------------------------------------

    async def _window(self, wanted: Filter) -> RecordSet | None:
        """The records within the bounds of a filter that has nothing else; None for others."""
        await self._fresh()
        _ = self.server.link  # raises where what we know may be old
        if wanted.ids is None and wanted.authors is None and wanted.kinds is None:
            if not wanted.tags:
                return (await self._replica.records()).window(wanted.since, wanted.until)
        return None

    async def snapshot(self, wanted: Filter) -> RecordSet:
        """See :meth:`IEventStore.snapshot`; at once where only seconds and ``limit`` are given."""
        records = await self._window(wanted)
        if records is None:
            return await self._reader.snapshot(wanted)
        return records if wanted.limit is None else records.newest(wanted.limit)

    async def query(self, wanted: Filter, after: bytes | None = None, page: int = 500) -> Page:
        """See :meth:`IEventStore.query`."""
        records = await self._window(wanted)
        if records is None:
            return await self._reader.page(wanted, after, page)
        return await self._reader.page_of(newest_first(records, after, page + 1), page)

    async def fetch(self, ids: Sequence[bytes]) -> dict[bytes, bytes]:
        """See :meth:`IEventStore.fetch`."""
        await self._fresh()
        return await self._reader.fetch(ids)

    async def known(self, ids: Sequence[bytes]) -> set[bytes]:
        """See :meth:`IEventStore.known`."""
        await self._fresh()
        return await self._reader.known(ids)

    async def count(self, wanted: Filter) -> int:
        """See :meth:`IEventStore.count`."""
        records = await self._window(wanted)
        if records is None:
            return await self._reader.count(wanted)
        return len(records) if wanted.limit is None else min(len(records), wanted.limit)

    async def statistics(self) -> StoreStatistics:
        """See :meth:`IEventStore.statistics`; bytes are those of the server's append-only file."""
        await self._fresh()
        (events,) = await self.server.run("count")
        told = await information(self.server.link)
        held = int(events) - len(self._unswept.ids)
        return StoreStatistics(held, int(told.get("aof_current_size", 0)))

    async def verify(
        self, progress: Callable[[int, int], None], repair: bool = False
    ) -> VerifyReport:
        """See :meth:`IEventStore.verify`; nodes may go on writing, and learn what was mended."""
        await self._fresh()
        mending = Mending(int(self._clock.seconds()), self._feed_room) if repair else None
        run = self.write if repair else self.server.run
        return await Verification(run, self._offload, progress, mending).run()

    async def compact(self, progress: Callable[[int, int], None]) -> CompactReport:
        """See :meth:`IEventStore.compact`; the server rewrites its file itself."""
        size = (await self.statistics()).bytes
        return CompactReport(size, size)


def _batches(values: list[bytes]) -> Iterator[list[bytes]]:
    """The values in pieces that one script takes."""
    batch: list[bytes] = []
    size = 0
    for value in values:
        if batch and (len(batch) == _BATCH_EVENTS or size + len(value) > _BATCH_BYTES):
            yield batch
            batch, size = [], 0
        batch.append(value)
        size += len(value)
    if batch:
        yield batch


def _second(told: bytes) -> float:
    return int.from_bytes(told, "big") if told else NEVER


def _note(failure: Failure) -> None:
    if not failure.check(StorageError):
        log.failure("expired events could not be removed", failure)


async def information(link: Link) -> dict[str, str]:
    """What the server says of itself (``INFO``)."""
    lines = (await link.command("INFO")).decode(errors="replace").splitlines()
    pairs = (line.split(":", 1) for line in lines if ":" in line)
    return {name: value for name, value in pairs}


async def check_server(link: Link) -> None:
    """Refuse a server that would lose events; warn of one that may.

    :raises StorageError: it is a replica, or throws away keys when its memory is full: events, or
        leases, which have a time to live.
    """
    told = await information(link)
    if told.get("role") == "slave":
        raise StorageError(f"{link.address}: it is a replica, which takes no writes")
    policy = told.get("maxmemory_policy", "noeviction")
    if policy != "noeviction":
        raise StorageError(
            f"{link.address}: its maxmemory-policy {policy} throws away events or leases; "
            "expected noeviction"
        )
    if told.get("aof_enabled") == "0":
        log.warn(
            "{address} keeps no append-only file: when it ends, what it acknowledged may be lost",
            address=link.address,
        )
