"""Answers from LMDB: filters over posting lists, pages, events by id.

All of it is synchronous and runs in reader threads.  What has expired by ``now`` is left out,
swept or not.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from heapq import merge
from itertools import groupby, islice

import msgspec
import numpy as np

from negd.interfaces import Page, StoreStatistics
from negd.nostr.event import DECODE_ERRORS, describe
from negd.nostr.filing import tag_key
from negd.nostr.filter import Filter
from negd.nostr.kinds import is_replaceable
from negd.nostr.lifecycle import Address
from negd.nostr.packed import kind_of, record_of, unpack
from negd.reconcile import RecordSet
from negd.storage.lmdb.environment import Cursor, Database, Environment, Transaction
from negd.storage.lmdb.postings import (
    NONE,
    POSTING,
    SERIAL,
    Mask,
    Postings,
    Rows,
    Serials,
    serial_key,
)
from negd.storage.lmdb.roll import Kinds, Roll
from negd.storage.lmdb.shelf import address_key, kind_key, number_key, serial_of, stored_event
from negd.storage.order import LATEST, listing_key, newest_first
from negd.storage.paging import page_of

_CHECKS = 10
"""To look at an event costs about as much as to read that many postings of a list."""

_STEPS = 16
"""To go from posting to posting costs as much as to read that many of a whole list."""

_WHOLE = 5000
"""Postings that are read at once rather than walked over from the newest."""

_SEEKS = 25
"""To begin in a list costs as much as to read that many postings of whole ones."""

_FEW = 1000
"""Authors times kinds that are looked up one by one."""

_PATIENCE = 20
"""Events looked at in vain for each one found, before whole lists are read instead."""

_json = msgspec.json.Decoder(msgspec.Raw)


@dataclass(frozen=True)
class _Condition:
    """What matches is in one of these lists. ``size`` counts what is in several more than once."""

    database: Database
    keys: list[bytes]
    size: int


class Reader:
    """Reads of one environment, each in a transaction of its own.

    :param roll: records and kinds in memory; without them they are looked up in the events.
    """

    def __init__(self, environment: Environment, roll: Roll | None = None) -> None:
        self._environment = environment
        self._roll = roll

    def _view(self, txn: Transaction, now: float) -> _View:
        return _View(txn, self._environment, self._roll, now)

    def snapshot(self, wanted: Filter, now: float) -> RecordSet:
        """See :meth:`negd.interfaces.IEventStore.snapshot`."""
        with self._environment.read() as txn:
            view = self._view(txn, now)
            if wanted.limit is not None and wanted.limit <= _WHOLE:
                return RecordSet.from_records(b"".join(view.listing(wanted, None, wanted.limit)))
            found = view.snapshot(wanted)
        return found if wanted.limit is None else found.newest(wanted.limit)

    def page(self, wanted: Filter, after: bytes | None, size: int, now: float) -> Page:
        """See :meth:`negd.interfaces.IEventStore.query`."""
        with self._environment.read() as txn:
            view = self._view(txn, now)
            return view.page(view.listing(wanted, after, size + 1), size)

    def page_of(self, records: Sequence[bytes], size: int, now: float) -> Page:
        """The page of these records; one beyond ``size`` says that there are more."""
        with self._environment.read() as txn:
            return self._view(txn, now).page(records, size)

    def count(self, wanted: Filter, now: float) -> int:
        """See :meth:`negd.interfaces.IEventStore.count`."""
        with self._environment.read() as txn:
            found = len(self._view(txn, now).select(wanted).serials)
        return found if wanted.limit is None else min(found, wanted.limit)

    def fetch(self, ids: Iterable[bytes], now: float) -> dict[bytes, bytes]:
        """See :meth:`negd.interfaces.IEventStore.fetch`."""
        with self._environment.read() as txn:
            return self._view(txn, now).fetch(ids)

    def known(self, ids: Iterable[bytes], now: float) -> set[bytes]:
        """See :meth:`negd.interfaces.IEventStore.known`."""
        with self._environment.read() as txn:
            view = self._view(txn, now)
            cursor = txn.cursor(self._environment.databases.ids)
            serials = ((i, serial_of(cursor, i)) for i in ids)
            return {i for i, serial in serials if serial is not None and view.serves(serial)}

    def statistics(self, now: float) -> StoreStatistics:
        """See :meth:`negd.interfaces.IEventStore.statistics`."""
        with self._environment.read() as txn:
            expired = self._view(txn, now).expired
            events = txn.stat(self._environment.databases.events)["entries"]
        return StoreStatistics(events - len(expired), self._environment.bytes)

    def first_expiry(self) -> float:
        """The second at which something expires first."""
        with self._environment.read() as txn:
            cursor = txn.cursor(self._environment.databases.expiry)
            return int.from_bytes(cursor.key(), "big") if cursor.first() else float("inf")


class _View:
    """The store as one read transaction sees it."""

    def __init__(
        self, txn: Transaction, environment: Environment, roll: Roll | None, now: float
    ) -> None:
        self._txn = txn
        self._environment = environment
        self._databases = environment.databases
        self._roll = roll
        self.expired = self._find_expired(now)

    def _find_expired(self, now: float) -> set[bytes]:
        """The serials of what must not be served."""
        found = set()
        for key, value in self._txn.cursor(self._databases.expiry):
            if int.from_bytes(key, "big") > now:
                break
            found.add(value[8:])
        return found

    def serves(self, serial: bytes) -> bool:
        """Whether the event has not expired."""
        return serial not in self.expired

    def fetch(self, ids: Iterable[bytes]) -> dict[bytes, bytes]:
        """The JSON of those that are held, but for damaged ones."""
        cursor = self._txn.cursor(self._databases.ids)
        found = {}
        for event_id in ids:
            json = self._json(cursor, event_id)
            if json is not None:
                found[event_id] = json
        return found

    def _json(self, ids: Cursor, event_id: bytes) -> bytes | None:
        """The JSON of one event, which a client can read; a quarter of what decoding it takes."""
        serial = serial_of(ids, event_id)
        packed = None if serial is None or serial in self.expired else self._packed(serial)
        if serial is None or packed is None:
            return None
        try:
            json = unpack(packed)
            json.decode()
            _json.decode(json)
        except DECODE_ERRORS as error:
            self._environment.tell_of_damage(serial, f"not an event: {describe(error)}")
            return None
        if packed[:32] != event_id:
            self._environment.tell_of_damage(serial, "another event")
            return None
        return json

    def _packed(self, serial: bytes) -> bytes | None:
        return self._txn.get(serial, db=self._databases.events)

    def page(self, records: Sequence[bytes], size: int) -> Page:
        """See :meth:`Reader.page_of`."""
        cursor = self._txn.cursor(self._databases.ids)
        return page_of(records, size, partial(self._json, cursor))

    # --- filters --------------------------------------------------------------------------------

    def snapshot(self, wanted: Filter) -> RecordSet:
        """The records of all that matches, but for the limit."""
        return self._records(self.select(wanted))

    def select(self, wanted: Filter) -> Postings:
        """All that matches, but for the limit: the shortest list, cut by the others."""
        named = self._named(wanted)
        if named is not None:
            return self._matching(named, wanted)
        conditions = self._conditions(wanted)
        found = self._read(conditions[0], wanted)
        to_check = False
        for condition in conditions[1:]:
            if self._roll is not None and condition.database == self._databases.kinds:
                found = self._of_kinds(found, wanted)
            elif _CHECKS * len(found.serials) < condition.size:
                to_check = True
            else:
                found = found.among(self._read(condition, wanted).serials)
        gone = np.array([int.from_bytes(serial, "big") for serial in self.expired], np.int64)
        found = found.without(gone)
        return self._checked(found, wanted) if to_check else found

    def _named(self, wanted: Filter) -> Iterator[bytes | None] | None:
        """Serials of the events that the filter names, by ids or as replaceable ones of authors.

        None for other filters.
        """
        if wanted.ids is not None:
            cursor = self._txn.cursor(self._databases.ids)
            return (serial_of(cursor, event_id) for event_id in wanted.ids)
        authors, kinds = wanted.authors or (), wanted.kinds or ()
        if not 0 < len(authors) * len(kinds) <= _FEW or not all(map(is_replaceable, kinds)):
            return None
        addresses = (Address(kind, author.hex(), "") for author in authors for kind in kinds)
        found = self._databases.addresses
        return (self._txn.get(address_key(address.key), db=found) for address in addresses)

    def _matching(self, serials: Iterable[bytes | None], wanted: Filter) -> Postings:
        """Those that are there and match; what ids alone ask for need not be decoded."""
        matches_all = replace(wanted, ids=None, limit=None).is_everything
        found = []
        for serial in serials:
            if serial is not None and self.serves(serial):
                packed = self._packed(serial)
                if packed and (matches_all or self._fits(serial, packed, wanted)):
                    found.append(record_of(packed)[:8] + serial)
        return _postings(found)

    def _of_kinds(self, postings: Postings, wanted: Filter) -> Postings:
        """Those of the wanted kinds."""
        _, kinds, mask = self._entries(postings.serials)
        return postings.where(mask & np.isin(kinds, np.array(wanted.kinds, np.uint16)))

    def _checked(self, postings: Postings, wanted: Filter) -> Postings:
        serials = map(serial_key, postings.serials.tolist())
        return postings.where(np.array([self._matches(s, wanted) for s in serials], bool))

    def _matches(self, serial: bytes, wanted: Filter) -> bool:
        packed = self._packed(serial)
        if packed is None or (wanted.kinds and kind_of(packed) not in wanted.kinds):
            return False
        return self._fits(serial, packed, wanted)

    def _fits(self, serial: bytes, packed: bytes, wanted: Filter) -> bool:
        event = stored_event(self._environment, serial, packed)
        return event is not None and wanted.matches(event)

    def _records(self, postings: Postings) -> RecordSet:
        records, _, mask = self._entries(postings.serials)
        return RecordSet.from_records(records if mask.all() else records[mask], owned=True)

    def _entries(self, serials: Serials) -> tuple[Rows, Kinds, Mask]:
        """Records and kinds of events, and which of them are there at all."""
        records, kinds, mask = (self._roll or Roll.EMPTY).find(serials)
        for place in np.flatnonzero(~mask).tolist():
            packed = self._packed(serial_key(int(serials[place])))
            if packed is not None:
                records[place] = np.frombuffer(record_of(packed), np.uint8)
                kinds[place] = kind_of(packed)
                mask[place] = True
        return records, kinds, mask

    def listing(self, wanted: Filter, after: bytes | None, most: int) -> list[bytes]:
        """Up to ``most`` matching records, newest first, after a record."""
        conditions = [] if self._named(wanted) is not None else self._conditions(wanted)
        if conditions and _is_to_be_walked(conditions[0]):
            found = self._walk(conditions, wanted, after, most)
            if found is not None:
                return found
        return newest_first(self.snapshot(wanted), after, most)

    def _walk(
        self, conditions: list[_Condition], wanted: Filter, after: bytes | None, most: int
    ) -> list[bytes] | None:
        """As :meth:`listing`, looking at one event after another; None where few match."""
        found: list[bytes] = []
        for looked, (record, serial) in enumerate(self._descending(conditions[0], wanted, after)):
            if len(found) == most:
                break
            if looked == _PATIENCE * most:
                return None
            if self.serves(serial) and (len(conditions) == 1 or self._matches(serial, wanted)):
                found.append(record)
        return found

    def _descending(
        self, condition: _Condition, wanted: Filter, after: bytes | None
    ) -> Iterator[tuple[bytes, bytes]]:
        """Records and serials in the lists and bounds, newest first, after a record."""
        last = LATEST if wanted.until is None else wanted.until
        if after is not None:
            last = min(last, int.from_bytes(after[:8], "big"))
        streams = [
            _backwards(self._txn.cursor(condition.database), key, last) for key in condition.keys
        ]
        floor = b"" if after is None else listing_key(after)
        for second, values in groupby(merge(*streams, reverse=True), lambda value: value[:8]):
            if wanted.since is not None and int.from_bytes(second, "big") < wanted.since:
                return
            found = [(self._packed(serial), serial) for serial in {value[8:] for value in values}]
            records = sorted((record_of(p), serial) for p, serial in found if p is not None)
            yield from (item for item in records if listing_key(item[0]) > floor)

    # --- posting lists --------------------------------------------------------------------------

    def _conditions(self, wanted: Filter) -> list[_Condition]:
        """The filter's conditions, the one with the shortest lists first; there is one at least."""
        databases = self._databases
        found = []
        if wanted.authors is not None:
            found.append(self._condition(databases.authors, wanted.authors))
        if wanted.kinds is not None:
            found.append(self._condition(databases.kinds, map(kind_key, wanted.kinds)))
        for letter, values in wanted.tags:
            keys = (tag_key(letter, value) for value in values)
            found.append(self._condition(databases.tags, keys))
        return sorted(found, key=lambda condition: condition.size) or [self._everything()]

    def _condition(self, database: Database, keys: Iterable[bytes]) -> _Condition:
        cursor = self._txn.cursor(database)
        sizes = {key: cursor.count() for key in keys if cursor.set_key(key)}
        return _Condition(database, list(sizes), sum(sizes.values()))

    def _everything(self) -> _Condition:
        database = self._databases.kinds
        keys = self._txn.cursor(database).iternext_nodup(values=False)
        return _Condition(database, list(keys), self._txn.stat(database)["entries"])

    def _read(self, condition: _Condition, wanted: Filter) -> Postings:
        """All postings of the lists within the filter's bounds."""
        if not condition.keys:
            return NONE
        if wanted.since is not None:
            few = self._read_since(condition, wanted, wanted.since)
            if few is not None:
                return few
        cursor = self._txn.cursor(condition.database)
        data = cursor.getmulti(condition.keys, dupdata=True, dupfixed_bytes=POSTING, keyfixed=True)
        entries = np.frombuffer(data, np.uint8).reshape(-1, len(condition.keys[0]) + POSTING)
        found = Postings.of(entries).between(wanted.since, wanted.until)
        return found.distinct() if self._overlaps(condition) else found

    def _overlaps(self, condition: _Condition) -> bool:
        """Whether one event can be in several of the lists."""
        return condition.database == self._databases.tags and len(condition.keys) > 1

    def _read_since(self, condition: _Condition, wanted: Filter, since: int) -> Postings | None:
        """As :meth:`_read`, one posting after another; None where that are too many."""
        last = LATEST if wanted.until is None else wanted.until
        most = int(condition.size // _STEPS)
        found: list[bytes] = []
        cursor = self._txn.cursor(condition.database)
        for key in condition.keys:
            if not cursor.set_range_dup(key, _first_of(since)):
                continue
            for value in islice(cursor.iternext_dup(), most + 1 - len(found)):
                if int.from_bytes(value[:8], "big") > last:
                    break
                found.append(value)
            if len(found) > most:
                return None
        postings = _postings(found)
        return postings.distinct() if self._overlaps(condition) else postings


def _is_to_be_walked(condition: _Condition) -> bool:
    """Whether its lists, side by side, are too long to be read for a page."""
    return condition.size > max(_WHOLE, _SEEKS * len(condition.keys))


def _postings(values: list[bytes]) -> Postings:
    return Postings.of(np.frombuffer(b"".join(values), np.uint8).reshape(-1, POSTING))


def _first_of(second: int) -> bytes:
    """No posting of that second or a later one is below this."""
    return number_key(second) + bytes(SERIAL)


def _backwards(cursor: Cursor, key: bytes, last: int) -> Iterator[bytes]:
    """One list's postings from the end of second ``last`` backwards."""
    if last < LATEST and cursor.set_range_dup(key, _first_of(last + 1)):
        found = cursor.prev_dup()
    else:
        found = cursor.set_key(key) and cursor.last_dup()
    while found:
        yield cursor.value()
        found = cursor.prev_dup()
