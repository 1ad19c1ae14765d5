"""The plain storage: everything in dictionaries, every call done when it returns.

For tests, trials and small mirrors: a query walks over all events that its bounds and ids leave.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Callable, Iterator, Mapping, Sequence
from heapq import heappop, heappush, nsmallest
from itertools import islice

from twisted.internet.interfaces import IReactorTime
from zope.interface import implementer

from negd.interfaces import (
    CompactReport,
    IEventStore,
    IPeerBook,
    IStorage,
    IWatch,
    LedgerEntry,
    Outcome,
    Page,
    PeerState,
    Residue,
    StoreStatistics,
    Verdict,
    VerifyReport,
)
from negd.nostr.event import Event, check
from negd.nostr.filing import Filing, filing_of
from negd.nostr.filter import Filter
from negd.reconcile import RecordSet
from negd.settings import StoreSettings
from negd.storage.factory import names_nothing
from negd.storage.ledger import MAX_ENTRIES, surplus
from negd.storage.order import listing_key
from negd.storage.paging import page_of
from negd.storage.rules import take
from negd.storage.watches import Watches


async def open_memory(
    argument: str,
    reactor: IReactorTime,
    read_only: bool = False,
    settings: StoreSettings = StoreSettings(),
) -> IStorage:
    """See :meth:`negd.interfaces.IStoreFactory.open`; nothing is read-only here.

    :raises ConfigError: there is an argument.
    """
    names_nothing(argument)
    return MemoryStorage(reactor)


@implementer(IStorage)
class MemoryStorage:
    """An :class:`IStorage` that ends with the process."""

    def __init__(self, clock: IReactorTime) -> None:
        self.events = MemoryStore(clock)
        self.book = MemoryBook()

    async def close(self) -> None:
        """Nothing to let go of."""


@implementer(IEventStore)
class MemoryStore:
    """An :class:`IEventStore` in dictionaries. ``clock`` tells when events expire."""

    def __init__(self, clock: IReactorTime) -> None:
        self._clock = clock
        self._commits = 0
        self._stored: dict[bytes, Filing] = {}
        self._listing: list[bytes] = []
        self._holders: dict[bytes, Filing] = {}
        self._expiries: list[tuple[int, bytes]] = []
        self._deleted_ids: set[tuple[bytes, bytes]] = set()
        self._deleted_addresses: dict[bytes, int] = {}
        self._watches = Watches()

    @property
    def generation(self) -> int:
        """See :class:`IEventStore`."""
        self._sweep()
        return self._commits

    # --- writing --------------------------------------------------------------------------------

    async def ingest(self, events: Sequence[Event | Filing]) -> list[Verdict]:
        """See :meth:`IEventStore.ingest`."""
        self._sweep()
        now = self._clock.seconds()
        filings = list(map(filing_of, events))
        outcomes = [take(self, filing, now) for filing in filings]
        if Outcome.STORED in outcomes:
            self._commits += 1
        for filing, outcome in zip(filings, outcomes, strict=True):
            if outcome in (Outcome.STORED, Outcome.EPHEMERAL):
                self._watches.tell(filing.event, filing.json)
        return [Verdict(outcome) for outcome in outcomes]

    def held(self, event_id: bytes) -> Filing | None:
        """See :class:`negd.storage.rules.Shelf`."""
        return self._stored.get(event_id)

    def holder(self, address: bytes) -> Filing | None:
        """See :class:`negd.storage.rules.Shelf`."""
        return self._holders.get(address)

    def insert(self, filing: Filing) -> bool:
        """See :class:`negd.storage.rules.Shelf`."""
        event_id = filing.id_bytes
        if event_id in self._stored:
            return False
        self._stored[event_id] = filing.keep(filing.event)
        insort(self._listing, listing_key(filing.record))
        if filing.address is not None:
            self._holders[filing.address] = filing
        if filing.expiration is not None:
            heappush(self._expiries, (filing.expiration, event_id))
        return True

    def remove(self, filing: Filing) -> None:
        """See :class:`negd.storage.rules.Shelf`."""
        del self._stored[filing.id_bytes]
        del self._listing[bisect_left(self._listing, listing_key(filing.record))]
        if filing.address is not None:
            del self._holders[filing.address]

    def forbid_id(self, event_id: bytes, author: bytes) -> None:
        """See :class:`negd.storage.rules.Shelf`."""
        self._deleted_ids.add((event_id, author))

    def forbid_address(self, address: bytes, until: int) -> None:
        """See :class:`negd.storage.rules.Shelf`."""
        self._deleted_addresses[address] = max(until, self._deleted_addresses.get(address, -1))

    def is_forbidden(self, filing: Filing) -> bool:
        """See :class:`negd.storage.rules.Shelf`."""
        if (filing.id_bytes, filing.author) in self._deleted_ids:
            return True
        until = -1 if filing.address is None else self._deleted_addresses.get(filing.address, -1)
        return int.from_bytes(filing.record[:8], "big") <= until

    def _sweep(self) -> None:
        """Remove what has expired by now."""
        now = self._clock.seconds()
        while self._expiries and self._expiries[0][0] <= now:
            _, event_id = heappop(self._expiries)
            held = self.held(event_id)
            if held is not None and held.is_expired(now):
                self.remove(held)
                self._commits += 1

    # --- reading --------------------------------------------------------------------------------

    async def snapshot(self, wanted: Filter) -> RecordSet:
        """See :meth:`IEventStore.snapshot`."""
        matching = islice(self._matching(wanted, None), wanted.limit)
        return RecordSet.from_records(b"".join(filing.record for filing in matching))

    async def query(self, wanted: Filter, after: bytes | None = None, page: int = 500) -> Page:
        """See :meth:`IEventStore.query`."""
        records = (filing.record for filing in self._matching(wanted, after))
        return page_of(records, page, lambda event_id: self._stored[event_id].json)

    async def fetch(self, ids: Sequence[bytes]) -> dict[bytes, bytes]:
        """See :meth:`IEventStore.fetch`."""
        return {event_id: self._stored[event_id].json for event_id in await self.known(ids)}

    async def known(self, ids: Sequence[bytes]) -> set[bytes]:
        """See :meth:`IEventStore.known`."""
        self._sweep()
        return {event_id for event_id in ids if event_id in self._stored}

    async def count(self, wanted: Filter) -> int:
        """See :meth:`IEventStore.count`."""
        return sum(1 for _ in islice(self._matching(wanted, None), wanted.limit))

    def _matching(self, wanted: Filter, after: bytes | None) -> Iterator[Filing]:
        """The matching events, newest first, after a record."""
        self._sweep()
        candidates = self._listing
        if wanted.ids is not None:
            held = (self._stored.get(event_id) for event_id in wanted.ids)
            candidates = sorted(listing_key(filing.record) for filing in held if filing is not None)
        start = 0 if after is None else bisect_left(candidates, listing_key(after) + b"\0")
        for key in islice(candidates, start, None):
            filing = self._stored[key[8:]]
            if wanted.matches(filing.event):
                yield filing

    def watch(self, wanted: Filter, callback: Callable[[Event, bytes], None]) -> IWatch:
        """See :meth:`IEventStore.watch`."""
        return self._watches.add(wanted, callback)

    async def statistics(self) -> StoreStatistics:
        """See :meth:`IEventStore.statistics`."""
        self._sweep()
        return StoreStatistics(events=len(self._stored), bytes=0)

    async def verify(
        self, progress: Callable[[int, int], None], repair: bool = False
    ) -> VerifyReport:
        """See :meth:`IEventStore.verify`."""
        self._sweep()
        read = len(self._stored)
        faults = [(filing, check(filing.event)) for filing in self._stored.values()]
        broken = [(filing, fault) for filing, fault in faults if fault is not None]
        if repair and broken:
            for filing, _ in broken:
                self.remove(filing)
            self._commits += 1
        progress(read, read)
        problems = [f"event {filing.event.id}: {fault}" for filing, fault in broken]
        return VerifyReport(read, problems, len(broken) if repair else 0)

    async def compact(self, progress: Callable[[int, int], None]) -> CompactReport:
        """See :meth:`IEventStore.compact`; there is nothing on disk."""
        size = (await self.statistics()).bytes
        return CompactReport(size, size)


@implementer(IPeerBook)
class MemoryBook:
    """An :class:`IPeerBook` in dictionaries.

    :param max_entries: ledger entries kept of one peer.
    """

    def __init__(self, max_entries: int = MAX_ENTRIES) -> None:
        self._max_entries = max_entries
        self._states: dict[str, PeerState] = {}
        self._ledgers: dict[str, dict[bytes, LedgerEntry]] = {}

    async def peers(self) -> dict[str, PeerState]:
        """See :meth:`IPeerBook.peers`."""
        return dict(self._states)

    async def put(self, url: str, state: PeerState) -> None:
        """See :meth:`IPeerBook.put`."""
        self._states[url] = state

    async def update(self, url: str, state: PeerState) -> None:
        """See :meth:`IPeerBook.update`."""
        if url in self._states:
            self._states[url] = state

    async def remove(self, url: str) -> None:
        """See :meth:`IPeerBook.remove`."""
        self._states.pop(url, None)
        self._ledgers.pop(url, None)

    async def ledger(self, url: str, ids: Sequence[bytes]) -> dict[bytes, LedgerEntry]:
        """See :meth:`IPeerBook.ledger`."""
        entries = self._ledgers.get(url, {})
        return {event_id: entries[event_id] for event_id in ids if event_id in entries}

    async def residues(self, url: str) -> dict[Residue, int]:
        """See :meth:`IPeerBook.residues`."""
        counts: dict[Residue, int] = {}
        for entry in self._ledgers.get(url, {}).values():
            counts[entry.residue] = counts.get(entry.residue, 0) + 1
        return counts

    async def entries(self, url: str, residue: Residue, most: int) -> dict[bytes, LedgerEntry]:
        """See :meth:`IPeerBook.entries`."""
        held = self._ledgers.get(url, {}).items()
        found = ((event_id, entry) for event_id, entry in held if entry.residue is residue)
        return dict(nsmallest(most, found, key=lambda item: (item[1].retry_at, item[0])))

    async def write_ledger(
        self, url: str, entries: Mapping[bytes, LedgerEntry], settled: Sequence[bytes]
    ) -> None:
        """See :meth:`IPeerBook.write_ledger`."""
        held = {**self._ledgers.get(url, {}), **entries}
        for event_id in settled:
            held.pop(event_id, None)
        retries = {event_id: entry.retry_at for event_id, entry in held.items()}
        for event_id in surplus(retries, self._max_entries):
            del held[event_id]
        self._ledgers[url] = held

    async def clear_ledger(self, url: str) -> None:
        """See :meth:`IPeerBook.clear_ledger`."""
        self._ledgers.pop(url, None)
