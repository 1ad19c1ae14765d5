"""Answers from the server: filters over its lists, pages, events by id.

A list is read in pieces, each a command of its own, so what is written meanwhile may be in the
answer or not.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np
from twisted.internet.defer import Deferred
from twisted.logger import Logger

from negd.interfaces import Page
from negd.nostr.event import decode
from negd.nostr.filter import Filter
from negd.reconcile import RECORD_SIZE, RecordSet
from negd.storage.order import newest_first
from negd.storage.paging import PAGE_BYTES
from negd.storage.postings import EMPTY, KEY, Records, as_list, difference, intersection, to_set
from negd.storage.redis.link import Refused
from negd.storage.redis.unswept import Unswept
from negd.storage.redis.values import MEMBER_SIZE, author_list, kind_list, number, tag_list

T = TypeVar("T")

log = Logger()

_PIECE = 4000
"""Members in one reply: a few milliseconds of the server's time."""

_FETCH = 500
"""Events asked for at a time; a reply ends at ``PAGE_BYTES`` of their JSON."""

_SCAN = 50
"""Events looked at in one script where their lists are of no use."""

_HEADS, _HEADS_BYTES = 10_000, 10_000_000
"""Events whose heads are remembered, some 3 MB; bytes of events for whose heads a script looks."""

_CHECKS = 20
"""To look at an event costs about as much as to read that many members of a list."""

_WIDER = 4
"""By how much more of the lists is read when a page was not filled."""

_LONG = 20_000
"""Records from which on it takes a thread to sort them."""

_MANY = 10**9
"""No list has as many members."""

_LATEST = 2**64 - 1

Run = Callable[..., Deferred[list[bytes]]]
"""Runs a command with arguments, as :meth:`negd.storage.redis.link.Link.run`."""

Offload = Callable[..., Deferred[Any]]
"""Calls a function with arguments in a thread."""


@dataclass(frozen=True)
class Bounds:
    """Seconds, inclusive; None is no bound."""

    since: int | None
    until: int | None

    @property
    def low(self) -> bytes:
        """As Redis writes the lower end of a range of members."""
        return b"-" if self.since is None else b"[" + number(self.since)

    @property
    def high(self) -> bytes:
        """As Redis writes the upper end of a range of members."""
        if self.until is None or self.until == _LATEST:
            return b"+"
        return b"(" + number(self.until + 1)


@dataclass(frozen=True)
class _Condition:
    """What matches is in one of these lists. ``size`` counts what is in several more than once.

    :ivar kinds: the kinds wanted of their members; None for all.
    """

    lists: list[bytes]
    kinds: tuple[int, ...] | None
    size: int = 0


class Reader:
    """Reads over one way to run scripts.

    :param unswept: what is in no answer.
    """

    def __init__(self, run: Run, offload: Offload, unswept: Unswept) -> None:
        self._run = run
        self._offload = offload
        self._unswept = unswept
        self._warned = False
        self._heads: dict[bytes, bytes] = {}

    async def snapshot(self, wanted: Filter) -> RecordSet:
        """See :meth:`negd.interfaces.IEventStore.snapshot`; for filters with a condition."""
        if wanted.limit is None:
            return await self._to_set(await self.select(wanted))
        found = RecordSet.EMPTY
        async for found in self._widening(wanted, wanted.limit):
            if len(found) >= wanted.limit:
                break
        return found.newest(wanted.limit)

    async def page(self, wanted: Filter, after: bytes | None, size: int) -> Page:
        """See :meth:`negd.interfaces.IEventStore.query`."""
        return await self.page_of(await self.listing(wanted, after, size + 1), size)

    async def page_of(self, records: Sequence[bytes], size: int) -> Page:
        """The page of these records; one beyond ``size`` says that there are more."""
        events: list[bytes] = []
        done, room = 0, PAGE_BYTES
        async for piece, found in self.pieces([record[8:] for record in records[:size]]):
            events += found.values()
            done, room = done + piece, room - sum(map(len, found.values()))
            if room <= 0:
                break
        return Page(events, records[done - 1] if done < len(records) else None)

    async def count(self, wanted: Filter) -> int:
        """See :meth:`negd.interfaces.IEventStore.count`."""
        conditions = [] if wanted.ids is not None else _conditions(wanted)
        if self._unswept:
            found = len(await self.select(wanted))
        elif len(conditions) == 1 and wanted.authors is None and not wanted.tags:
            bounds = Bounds(wanted.since, wanted.until)
            found = (await self._measured(conditions[0], bounds)).size  # of disjoint lists
        else:
            found = len(await self.select(wanted))
        return found if wanted.limit is None else min(found, wanted.limit)

    async def fetch(self, ids: Sequence[bytes]) -> dict[bytes, bytes]:
        """The JSON of those that are held, in the order of ``ids``."""
        found: dict[bytes, bytes] = {}
        async for _, piece in self.pieces(ids):
            found |= piece
        return found

    async def pieces(self, ids: Sequence[bytes]) -> AsyncIterator[tuple[int, dict[bytes, bytes]]]:
        """The same in pieces of about a megabyte: of how many more ids, and their JSON."""
        at = 0
        while at < len(ids):
            asked = ids[at : at + _FETCH]
            reply = await self._run("fetch", PAGE_BYTES, *asked)
            pairs = zip(asked, reply, strict=False)
            gone = self._unswept.ids
            yield len(reply), {i: json for i, json in pairs if json and i not in gone}
            at += len(reply)

    async def known(self, ids: Sequence[bytes]) -> set[bytes]:
        """See :meth:`negd.interfaces.IEventStore.known`."""
        if not ids:
            return set()
        (flags,) = await self._run("known", *ids)
        held = {event_id for event_id, flag in zip(ids, flags, strict=True) if flag == ord("1")}
        return held - self._unswept.ids

    # --- filters --------------------------------------------------------------------------------

    async def select(self, wanted: Filter) -> Records:
        """All that matches, but for the limit: the shortest list, cut by the others."""
        if wanted.ids is not None:
            return await self._select_ids(wanted)
        bounds = Bounds(wanted.since, wanted.until)
        first, *others = await self._planned(wanted, bounds)
        found = await self._read(first, bounds)
        to_check = False
        for condition in others:
            if _CHECKS * len(found) < condition.size:
                to_check = True
            else:
                found = intersection(found, await self._read(condition, bounds))
        return await self._checked(found, wanted) if to_check else found

    async def _select_ids(self, wanted: Filter) -> Records:
        heads = await self._heads_of(wanted.ids or ())
        records = [head[:RECORD_SIZE] for head in heads if _admits(wanted, head)]
        found = np.sort(np.array(records, KEY))
        return await self._checked(found, wanted) if wanted.tags else found

    async def _heads_of(self, ids: Sequence[bytes]) -> list[bytes]:
        """Of each that is held its member and author.

        They are remembered, as an id stands for them for ever, and every page asks anew.
        """
        new = [event_id for event_id in ids if event_id not in self._heads]
        held = await self.known([event_id for event_id in ids if event_id in self._heads])
        found = {event_id: self._heads[event_id] for event_id in held}
        at = 0
        while at < len(new):
            asked = new[at : at + _FETCH]
            reply = await self._run("heads", _HEADS_BYTES, *asked)
            pairs = zip(asked, reply, strict=False)
            found.update((i, head) for i, head in pairs if head[8:RECORD_SIZE] == i)
            at += len(reply)
        if len(self._heads) > _HEADS:
            self._heads.clear()
        self._heads.update(found)
        return [head for event_id, head in found.items() if event_id not in self._unswept.ids]

    async def _checked(self, records: Records, wanted: Filter) -> Records:
        ids = [record[8:] for record in as_list(records)]
        return np.array(await self._matching(ids, wanted), KEY)

    async def _matching(self, ids: Sequence[bytes], wanted: Filter) -> list[bytes]:
        """The records of those events that match."""
        matching: list[bytes] = []
        async for _, found in self.pieces(ids):
            events = map(decode, found.values())
            matching += [event.record for event in events if wanted.matches(event)]
        return matching

    async def listing(self, wanted: Filter, after: bytes | None, most: int) -> list[bytes]:
        """Up to ``most`` matching records, newest first, after a record."""
        if after is not None:
            second = int.from_bytes(after[:8], "big")
            until = second if wanted.until is None else min(second, wanted.until)
            wanted = replace(wanted, until=until)
        listed: list[bytes] = []
        async for found in self._widening(wanted, most):
            listed = newest_first(found, after, most)
            if len(listed) == most:
                break
        return listed

    async def _widening(self, wanted: Filter, count: int) -> AsyncIterator[RecordSet]:
        """What matches since some second, then since an earlier one, in the end all of it.

        At first as far back as the shortest list has ``count`` members.
        """
        since: int | None = 0
        while since is not None:
            since = await self._reach(wanted, count)
            yield await self._to_set(await self.select(wanted.since_at_least(since)))
            count *= _WIDER

    async def _reach(self, wanted: Filter, count: int) -> int | None:
        """The second since which the shortest list has ``count`` members; None if all has less."""
        if wanted.ids is not None:
            return None
        bounds = Bounds(wanted.since, wanted.until)
        shortest = (await self._planned(wanted, bounds))[0]
        rank = min(max(count, 1), _MANY)
        (reply,) = await self._run("reach", rank, bounds.low, bounds.high, *shortest.lists)
        seconds = [reply[at : at + 8] for at in range(0, len(reply), 8)]
        return int.from_bytes(max(seconds), "big") if seconds else None

    async def _planned(self, wanted: Filter, bounds: Bounds) -> list[_Condition]:
        """The filter's conditions, the one with the shortest lists first."""
        conditions = _conditions(wanted)
        if len(conditions) == 1:
            return conditions
        measured = [await self._measured(condition, bounds) for condition in conditions]
        return sorted(measured, key=lambda condition: condition.size)

    async def _measured(self, condition: _Condition, bounds: Bounds) -> _Condition:
        (reply,) = await self._run("sizes", bounds.low, bounds.high, *condition.lists)
        sizes = np.frombuffer(reply, ">u4").tolist()
        full = [name for name, size in zip(condition.lists, sizes, strict=True) if size]
        return _Condition(full, condition.kinds, sum(sizes))

    # --- lists ----------------------------------------------------------------------------------

    async def everything(self, kinds: bytes) -> RecordSet:
        """All records, by the kinds there are; where their lists are damaged, by the events."""
        lists = [b"k:" + kinds[at : at + 2] for at in range(0, len(kinds), 2)]
        try:
            found = await self._read(_Condition(lists, None), Bounds(None, None))
        except Refused as refusal:
            if refusal.words[0] != "DAMAGED":
                raise
            log.warn("{text}", text=refusal.text)
            found = await self._scan()
        return await self._to_set(found)

    async def _scan(self) -> Records:
        """All records, by the events themselves, which takes much longer."""
        pieces = []
        cursor, more = b"0", True
        while more:
            cursor, records = await self._run("records", cursor, _SCAN)
            pieces.append(records)
            more = cursor != b"0"
        found: Records = await self._offload(_distinct, pieces)
        return difference(found, self._unswept.records)

    async def _read(self, condition: _Condition, bounds: Bounds) -> Records:
        """All records of the lists within the bounds."""
        pieces = []
        lists, low = condition.lists, bounds.low
        while lists:
            reply = await self._run("read", _PIECE, bounds.high, low, bounds.low, *lists)
            lists, low = lists[int(reply[0]) :], b"(" + reply[2]
            pieces.append(reply[1])
            if reply[3] != b"0" and not self._warned:
                self._warned = True
                log.warn("an index holds what is no record: negctl verify --repair takes it out")
        total = sum(map(len, pieces)) // MEMBER_SIZE
        several = len(condition.lists) > 1
        gone = self._unswept.records
        return await self._maybe_offload(total, _records, pieces, condition.kinds, several, gone)

    async def _to_set(self, records: Records) -> RecordSet:
        return await self._maybe_offload(len(records), to_set, records)

    async def _maybe_offload(self, size: int, work: Callable[..., T], *args: Any) -> T:
        if size < _LONG:
            return work(*args)
        result: T = await self._offload(work, *args)
        return result


def _admits(wanted: Filter, head: bytes) -> bool:
    """Whether an event matches, but for its tags."""
    second = int.from_bytes(head[:8], "big")
    kind, author = int.from_bytes(head[RECORD_SIZE:MEMBER_SIZE], "big"), head[MEMBER_SIZE:]
    return (
        (wanted.kinds is None or kind in wanted.kinds)
        and (wanted.authors is None or author in wanted.authors)
        and (wanted.since is None or wanted.since <= second)
        and (wanted.until is None or second <= wanted.until)
    )


def _conditions(wanted: Filter) -> list[_Condition]:
    """What the filter asks for beyond ids, bounds and limit."""
    found = []
    for letter, values in wanted.tags:
        found.append(_Condition([tag_list(letter, value) for value in values], wanted.kinds))
    if wanted.authors is not None:
        found.append(_Condition([author_list(author) for author in wanted.authors], wanted.kinds))
    if wanted.kinds is not None and not found:
        found.append(_Condition([kind_list(kind) for kind in wanted.kinds], None))
    return found


def _distinct(pieces: Iterable[bytes]) -> Records:
    return np.unique(np.frombuffer(b"".join(pieces), KEY))


def _records(
    pieces: Iterable[bytes], kinds: tuple[int, ...] | None, several: bool, gone: Records
) -> Records:
    """The records of members, sorted and each once.

    :param several: whether the members are of more than one list.
    :param gone: what is left out.
    """
    rows = np.frombuffer(b"".join(pieces), np.uint8).reshape(-1, MEMBER_SIZE)
    if kinds is not None:
        held = np.ascontiguousarray(rows[:, RECORD_SIZE:]).view(">u2").reshape(-1)
        rows = rows[np.isin(held, kinds)]
    if not len(rows):
        return EMPTY
    records = np.ascontiguousarray(rows[:, :RECORD_SIZE]).reshape(-1).view(KEY)
    return difference(np.unique(records) if several else records, gone)
