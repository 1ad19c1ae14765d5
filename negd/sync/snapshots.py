"""Snapshots that sessions share: one per filter and store generation, within one byte budget."""

from __future__ import annotations

from weakref import WeakValueDictionary

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from negd.errors import LimitReached
from negd.interfaces import IEventStore
from negd.nostr.filter import Filter
from negd.reconcile import RecordSet
from negd.settings import SessionSettings

_Key = tuple[bytes, int]


class Snapshot:
    """A record set that lives as long as somebody holds this."""

    def __init__(self, records: RecordSet) -> None:
        self.records = records


class Snapshots:
    """The snapshots that are held by anybody, each loaded once.

    :ivar refusals: how often one was beyond each bound, since the start.
    """

    def __init__(self, store: IEventStore, settings: SessionSettings) -> None:
        self._store = store
        self._settings = settings
        self._live: WeakValueDictionary[_Key, Snapshot] = WeakValueDictionary()
        self._loading: dict[_Key, list[Deferred[Snapshot]]] = {}
        self.refusals = {"records": 0, "snapshot_bytes": 0}

    @property
    def nbytes(self) -> int:
        """Memory held by the live snapshots."""
        return sum(held.records.nbytes for held in self._live.values())

    async def take(self, wanted: Filter) -> Snapshot:
        """The snapshot of a filter as the store is now.

        :raises LimitReached: the filter matches too many records, or the budget is spent.
        :raises negd.errors.StorageError: the storage failed.
        """
        key = (wanted.key, self._store.generation)
        held = self._live.get(key)
        if held is not None:
            return held
        loaded: Deferred[Snapshot] = Deferred(lambda _: None)
        waiting = self._loading.setdefault(key, [])
        waiting.append(loaded)
        if len(waiting) == 1:
            Deferred.fromCoroutine(self._load(key, wanted))
        return await loaded

    async def _load(self, key: _Key, wanted: Filter) -> None:
        result: Snapshot | Failure
        try:
            result = self._live[key] = self._admit(await self._store.snapshot(wanted))
        except Exception:
            result = Failure()
        for waiter in self._loading.pop(key):
            if not waiter.called:
                waiter.callback(result)

    def _admit(self, records: RecordSet) -> Snapshot:
        if len(records) > self._settings.max_records:
            self.refusals["records"] += 1
            raise LimitReached(
                f"query matches too many records ({len(records)} > {self._settings.max_records})"
            )
        if self.nbytes + records.nbytes > self._settings.snapshot_bytes:
            self.refusals["snapshot_bytes"] += 1
            raise LimitReached("the memory for sessions is spent, try later")
        return Snapshot(records)
