"""Answers from LMDB: filters over posting lists, pages, events by id.

All of it is synchronous and runs in reader threads.  What has expired by ``now`` is left out,
swept or not.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from heapq import merge
from itertools import groupby, islice

import numpy as np

from negd.interfaces import Page, StoreStatistics
from negd.nostr.event import decode
from negd.nostr.filter import Filter
from negd.reconcile import RECORD_SIZE, RecordSet
from negd.storage.lmdb.environment import Cursor, Database, Databases, Environment, Transaction
from negd.storage.lmdb.shelf import author_key, kind_key, number_key, stored_json, tag_key
from negd.storage.order import LATEST, listing_key, newest_first
from negd.storage.postings import (
    EMPTY,
    KEY,
    Records,
    as_list,
    between,
    difference,
    intersection,
    sorted_records,
    to_set,
)

_FEW_KINDS = 16
"""Kinds of an author that are looked up rather than found among all that the author has."""

_CHECKS = 10
"""To look at an event costs about as much as to read that many records of a posting list."""

_STEPS = 16
"""To go from record to record costs as much as to read that many of a whole list."""

_WHOLE = 5000
"""Records that are read at once rather than walked over from the newest."""

_FEW_LISTS = 256
"""Lists that are walked over side by side; a filter may name ten thousands."""

_PATIENCE = 20
"""Events looked at in vain for each one found, before whole lists are read instead."""

_ID = slice(8, RECORD_SIZE)


@dataclass(frozen=True)
class _Condition:
    """What matches is in one of these lists. ``size`` counts what is in several more than once."""

    database: Database
    keys: list[bytes]
    size: int


class Reader:
    """Reads of one environment, each in a transaction of its own."""

    def __init__(self, environment: Environment) -> None:
        self._environment = environment

    def snapshot(self, wanted: Filter, now: float) -> RecordSet:
        """See :meth:`negd.interfaces.IEventStore.snapshot`."""
        with self._environment.read() as txn:
            view = _View(txn, self._environment.databases, now)
            if wanted.limit is not None and wanted.limit <= _WHOLE:
                return RecordSet.from_records(b"".join(view.listing(wanted, None, wanted.limit)))
            found = to_set(view.select(wanted))
        return found if wanted.limit is None else found.newest(wanted.limit)

    def page(self, wanted: Filter, after: bytes | None, size: int, now: float) -> Page:
        """See :meth:`negd.interfaces.IEventStore.query`."""
        with self._environment.read() as txn:
            view = _View(txn, self._environment.databases, now)
            return view.page(view.listing(wanted, after, size + 1), size)

    def page_of(self, records: Sequence[bytes], size: int, now: float) -> Page:
        """The page of these records; one beyond ``size`` says that there are more."""
        with self._environment.read() as txn:
            return _View(txn, self._environment.databases, now).page(records, size)

    def count(self, wanted: Filter, now: float) -> int:
        """See :meth:`negd.interfaces.IEventStore.count`."""
        with self._environment.read() as txn:
            found = len(_View(txn, self._environment.databases, now).select(wanted))
        return found if wanted.limit is None else min(found, wanted.limit)

    def fetch(self, ids: Iterable[bytes], now: float) -> dict[bytes, bytes]:
        """See :meth:`negd.interfaces.IEventStore.fetch`."""
        with self._environment.read() as txn:
            return _View(txn, self._environment.databases, now).fetch(ids)

    def known(self, ids: Iterable[bytes], now: float) -> set[bytes]:
        """See :meth:`negd.interfaces.IEventStore.known`."""
        with self._environment.read() as txn:
            view = _View(txn, self._environment.databases, now)
            cursor = txn.cursor(self._environment.databases.ids)
            return {i for i in ids if cursor.set_key(i)} - view.expired_ids()

    def statistics(self, now: float) -> StoreStatistics:
        """See :meth:`negd.interfaces.IEventStore.statistics`."""
        with self._environment.read() as txn:
            expired = _View(txn, self._environment.databases, now).expired
            events = txn.stat(self._environment.databases.events)["entries"]
        return StoreStatistics(events - len(expired), self._environment.bytes)

    def first_expiry(self) -> float:
        """The second at which something expires first."""
        with self._environment.read() as txn:
            cursor = txn.cursor(self._environment.databases.expiry)
            return int.from_bytes(cursor.key(), "big") if cursor.first() else float("inf")


class _View:
    """The store as one read transaction sees it."""

    def __init__(self, txn: Transaction, databases: Databases, now: float) -> None:
        self._txn = txn
        self._databases = databases
        self.expired = self._find_expired(now)

    def _find_expired(self, now: float) -> Records:
        cursor = self._txn.cursor(self._databases.expiry)
        found = []
        for key, record in cursor:
            if int.from_bytes(key, "big") > now:
                break
            found.append(record)
        return np.sort(np.array(found, KEY))

    def expired_ids(self) -> set[bytes]:
        """The ids of what must not be served."""
        return {record[_ID] for record in as_list(self.expired)}

    def fetch(self, ids: Iterable[bytes]) -> dict[bytes, bytes]:
        """The JSON of those that are held."""
        gone = self.expired_ids()
        found = ((i, stored_json(self._txn, self._databases, i)) for i in ids if i not in gone)
        return {event_id: json for event_id, json in found if json is not None}

    def page(self, records: Sequence[bytes], size: int) -> Page:
        """See :meth:`Reader.page_of`."""
        found = self.fetch(record[_ID] for record in records[:size])
        last = records[size - 1] if len(records) > size else None
        return Page(list(found.values()), last)

    # --- filters --------------------------------------------------------------------------------

    def select(self, wanted: Filter) -> Records:
        """All that matches, but for the limit: the shortest list, cut by the others."""
        if wanted.ids is not None:
            return self._select_ids(wanted)
        conditions = self._conditions(wanted) or [self._everything()]
        found = self._read(conditions[0], wanted)
        to_check = False
        for condition in conditions[1:]:
            if _CHECKS * len(found) < condition.size:
                to_check = True
            else:
                found = intersection(found, self._read(condition, wanted))
        found = difference(found, self.expired)
        return self._checked(found, wanted) if to_check else found

    def _select_ids(self, wanted: Filter) -> Records:
        events = map(decode, self.fetch(wanted.ids or ()).values())
        return np.sort(np.array([e.record for e in events if wanted.matches(e)], KEY))

    def _checked(self, records: Records, wanted: Filter) -> Records:
        matching = [self._matches(record, wanted) for record in as_list(records)]
        checked: Records = records[np.array(matching, bool)]
        return checked

    def _matches(self, record: bytes, wanted: Filter) -> bool:
        json = stored_json(self._txn, self._databases, record[_ID])
        return json is not None and wanted.matches(decode(json))

    def listing(self, wanted: Filter, after: bytes | None, most: int) -> list[bytes]:
        """Up to ``most`` matching records, newest first, after a record."""
        conditions = [] if wanted.ids is not None else self._conditions(wanted)
        if conditions and conditions[0].size > _WHOLE and len(conditions[0].keys) <= _FEW_LISTS:
            found = self._walk(conditions, wanted, after, most)
            if found is not None:
                return found
        return newest_first(to_set(self.select(wanted)), after, most)

    def _walk(
        self, conditions: list[_Condition], wanted: Filter, after: bytes | None, most: int
    ) -> list[bytes] | None:
        """As :meth:`listing`, looking at one event after another; None where few match."""
        expired = set(as_list(self.expired))
        found: list[bytes] = []
        for looked, record in enumerate(self._descending(conditions[0], wanted, after)):
            if len(found) == most:
                break
            if looked == _PATIENCE * most:
                return None
            if record in expired:
                continue
            if len(conditions) == 1 or self._matches(record, wanted):
                found.append(record)
        return found

    def _descending(
        self, condition: _Condition, wanted: Filter, after: bytes | None
    ) -> Iterator[bytes]:
        """The records in the lists and bounds, newest first, after a record."""
        last = LATEST if wanted.until is None else wanted.until
        if after is not None:
            last = min(last, int.from_bytes(after[:8], "big"))
        streams = [
            _backwards(self._txn.cursor(condition.database), key, last) for key in condition.keys
        ]
        floor = b"" if after is None else listing_key(after)
        for second, records in groupby(merge(*streams, reverse=True), lambda record: record[:8]):
            if wanted.since is not None and int.from_bytes(second, "big") < wanted.since:
                return
            yield from (r for r in sorted(set(records)) if listing_key(r) > floor)

    # --- posting lists --------------------------------------------------------------------------

    def _conditions(self, wanted: Filter) -> list[_Condition]:
        """The filter's conditions, the one with the shortest lists first."""
        databases = self._databases
        found = []
        if wanted.authors is not None:
            found.append(self._condition(databases.authors, self._author_keys(wanted)))
        elif wanted.kinds is not None:
            found.append(self._condition(databases.kinds, map(kind_key, wanted.kinds)))
        for letter, values in wanted.tags:
            keys = (tag_key(letter, value) for value in values)
            found.append(self._condition(databases.tags, keys))
        return sorted(found, key=lambda condition: condition.size)

    def _condition(self, database: Database, keys: Iterable[bytes]) -> _Condition:
        cursor = self._txn.cursor(database)
        sizes = {key: cursor.count() for key in keys if cursor.set_key(key)}
        return _Condition(database, list(sizes), sum(sizes.values()))

    def _author_keys(self, wanted: Filter) -> Iterator[bytes]:
        """The keys of the authors' lists, of the wanted kinds only where the filter names some."""
        cursor = self._txn.cursor(self._databases.authors)
        for author in wanted.authors or ():
            if wanted.kinds is not None and len(wanted.kinds) <= _FEW_KINDS:
                yield from (author_key(author, kind) for kind in wanted.kinds)
                continue
            found = cursor.set_range(author)
            while found and (key := cursor.key()).startswith(author):
                if wanted.kinds is None or int.from_bytes(key[32:], "big") in wanted.kinds:
                    yield key
                found = cursor.next_nodup()

    def _everything(self) -> _Condition:
        database = self._databases.kinds
        keys = self._txn.cursor(database).iternext_nodup(values=False)
        return _Condition(database, list(keys), self._txn.stat(database)["entries"])

    def _read(self, condition: _Condition, wanted: Filter) -> Records:
        """All records of the lists within the filter's bounds."""
        if not condition.keys:
            return EMPTY
        if wanted.since is not None:
            few = self._read_since(condition, wanted, wanted.since)
            if few is not None:
                return few
        cursor = self._txn.cursor(condition.database)
        data = cursor.getmulti(
            condition.keys, dupdata=True, dupfixed_bytes=RECORD_SIZE, keyfixed=True
        )
        pairs = np.frombuffer(data, np.uint8).reshape(-1, len(condition.keys[0]) + RECORD_SIZE)
        records = sorted_records(pairs[:, -RECORD_SIZE:], single=len(condition.keys) == 1)
        return between(records, wanted.since, wanted.until)

    def _read_since(self, condition: _Condition, wanted: Filter, since: int) -> Records | None:
        """As :meth:`_read`, one record after another; None where that are too many."""
        last = LATEST if wanted.until is None else wanted.until
        most = int(condition.size // _STEPS)
        found: list[bytes] = []
        cursor = self._txn.cursor(condition.database)
        for key in condition.keys:
            if not cursor.set_range_dup(key, _first_of(since)):
                continue
            for record in islice(cursor.iternext_dup(), most + 1 - len(found)):
                if int.from_bytes(record[:8], "big") > last:
                    break
                found.append(record)
            if len(found) > most:
                return None
        rows = np.frombuffer(b"".join(found), np.uint8).reshape(-1, RECORD_SIZE)
        return sorted_records(rows, single=len(condition.keys) == 1)


def _first_of(second: int) -> bytes:
    """No record of that second or a later one is below this."""
    return number_key(second) + bytes(32)


def _backwards(cursor: Cursor, key: bytes, last: int) -> Iterator[bytes]:
    """One list's records from the end of second ``last`` backwards."""
    if last < LATEST and cursor.set_range_dup(key, _first_of(last + 1)):
        found = cursor.prev_dup()
    else:
        found = cursor.set_key(key) and cursor.last_dup()
    while found:
        yield cursor.value()
        found = cursor.prev_dup()
