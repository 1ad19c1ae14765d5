"""Questions to the database, in as many calls as its limits ask for."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from twisted.internet.defer import DeferredSemaphore
from twisted.internet.interfaces import IReactorTime

from negd.nostr.event import Event
from negd.nostr.filter import Filter
from negd.nostr.lifecycle import Address, address_of, is_expired
from negd.reconcile import RecordSet
from negd.storage.order import listing_key, newest_first
from negd.storage.orlydb.calls import gathered
from negd.storage.orlydb.database import Database, Listed
from negd.storage.orlydb.gen.orlydb.v1 import service_pb2 as proto
from negd.storage.orlydb.held import Held
from negd.storage.orlydb.queries import (
    LATEST,
    Question,
    combined,
    deletions_by,
    deletions_of_address,
    deletions_of_id,
    question_of,
    versions_at,
    within,
)
from negd.storage.orlydb.windows import TARGET, Windows
from negd.storage.postings import Records, as_list, between
from negd.sync.offload import Offload

_LISTINGS = 4
"""Listings asked for at a time: each is a scan to the database."""

_QUESTIONS = 64
"""Questions of one filter that stand in line for that."""

_VERSIONS = 10
"""Versions of one address that are looked at; ten times more where none of them counts."""

_FIRST_REACH = 3600
"""Seconds that the first window goes back where nothing is known of the database yet."""

_LOOKED_THROUGH = 8
"""Records of the store, for each one wanted, that the first window of a page spans."""


class Reading:
    """What the rules and the store want to know.

    :param held: what is left out of the answers that say so.
    """

    def __init__(self, clock: IReactorTime, calls: Offload, database: Database, held: Held) -> None:
        self._clock = clock
        self._calls = calls
        self._database = database
        self._held = held
        self._listings = DeferredSemaphore(_LISTINGS)

    # --- events ---------------------------------------------------------------------------------

    async def by_ids(self, ids: Sequence[bytes]) -> dict[bytes, Event]:
        """What the database keeps of those events, left out or not."""
        return await self._calls(self._database.by_ids, ids) if ids else {}

    async def by_serials(self, serials: Sequence[int]) -> dict[int, Event | None]:
        """What the database keeps under those numbers; None for what is there no more."""
        return await self._calls(self._database.by_serials, serials) if serials else {}

    async def known(self, ids: Sequence[bytes]) -> set[bytes]:
        """Which of the events the database keeps, left out or not."""
        return set(await self._calls(self._database.serials, ids)) if ids else set()

    async def versions(self, address: Address) -> list[Event]:
        """The latest events that are held at an address, the one that counts first.

        All that are older may be left away.
        """
        most = _VERSIONS
        while True:
            listed = as_list((await self._list(versions_at(address, most))).records)
            is_all = len(listed) < most
            # A limit may cut through a second, and keep any of its events.
            cut = 0 if is_all else 1 + min(map(_second, listed))
            records = [record for record in listed if _second(record) >= cut]
            found = await self._held_at(address, [record[8:] for record in records])
            if found or is_all:
                return sorted(found, key=lambda event: listing_key(event.record))
            most *= _VERSIONS

    async def _held_at(self, address: Address, ids: Sequence[bytes]) -> list[Event]:
        asked = [event_id for event_id in ids if not self._held.is_left_out(event_id)]
        now = self._clock.seconds()
        events = (await self.by_ids(asked)).values()
        return [e for e in events if address_of(e) == address and not is_expired(e, now)]

    async def is_deleted(self, event: Event, address: Address) -> bool:
        """Whether the author of a replaceable event asked for its deletion (NIP-09).

        Of other events the database itself knows when it saves them.
        """
        any_deletion = deletions_by(event.pubkey)
        any_deletion.limit = 1
        if not len((await self._list(any_deletion)).records):
            return False
        by_id, *by_address = await self._list_all(
            [deletions_of_id(event.pubkey, event.id), *deletions_of_address(address)]
        )
        since = event.created_at
        return len(by_id) > 0 or any(
            len(between(np.sort(found), since, None)) > 0 for found in by_address
        )

    # --- listings -------------------------------------------------------------------------------

    async def listed(self, wanted: proto.Filter) -> Listed:
        """All that the database lists for a filter without bounds, left out or not.

        Some items may be there twice.
        """
        parts: list[Listed] = []
        windows = self._windows(None, None, TARGET)
        while not windows.finished:
            parts.append(
                await windows.next(
                    lambda begin, end: self._list(within(begin, end, wanted)),
                    lambda part: len(part.records),
                )
            )
        return await self._calls(Listed.joined, parts)

    async def matching(self, wanted: Filter) -> RecordSet:
        """The records held that match a filter without ids; its limit is ignored."""
        question = question_of(wanted)
        windows = self._windows(wanted.since, wanted.until, TARGET)
        parts: list[Records] = []
        while not windows.finished:
            parts.append(await self._next(windows, question))
        return await self._held.without_left_out(parts[::-1])

    async def newest(self, wanted: Filter, after: bytes | None, most: int) -> list[bytes]:
        """Up to ``most`` records held that match a filter without ids, newest first.

        :param after: only those that follow it in that order.
        """
        question = question_of(wanted)
        until = wanted.until
        if after is not None:
            until = min(_second(after), LATEST if until is None else until)
        windows = self._windows(wanted.since, until, _LOOKED_THROUGH * most)
        found: list[bytes] = []
        while not windows.finished and len(found) < most:
            part = await self._held.without_left_out([await self._next(windows, question)])
            found += newest_first(part, after, most - len(found))
        return found

    def _windows(self, since: int | None, until: int | None, first: int) -> Windows:
        """Windows over a span, of which the first one holds so many records of any kind."""
        since, until = since or 0, LATEST if until is None else min(until, LATEST)
        # Later events than now are few, whatever their seconds: the first window takes them all.
        newest = min(until, int(self._clock.seconds()))
        oldest = newest - _FIRST_REACH
        if self._held.is_loaded:
            known = self._held.records.window(since, until)
            oldest = since if len(known) <= first else _second(known.record(len(known) - first))
        return Windows(since, until, newest, max(0, newest - oldest))

    async def _next(self, windows: Windows, question: Question) -> Records:
        """What is listed in the next window. Sorted and distinct."""

        async def ask(begin: int, end: int) -> tuple[Records, int]:
            asked = [[within(begin, end, each) for each in united] for united in question]
            answers = [await self._list_all(united) for united in asked]
            records = await self._calls(combined, answers)
            size = sum(len(answer) for united in answers for answer in united)
            return between(records, begin, end), size

        records, _ = await windows.next(ask, lambda answer: answer[1])
        return records

    async def _list_all(self, wanted: Sequence[proto.Filter]) -> list[Records]:
        """What is listed for each of some filters."""
        answers: list[Listed] = []
        for at in range(0, len(wanted), _QUESTIONS):
            answers += await gathered(self._list(each) for each in wanted[at : at + _QUESTIONS])
        return [answer.records for answer in answers]

    async def _list(self, wanted: proto.Filter) -> Listed:
        return await self._listings.run(self._calls, self._database.listed, wanted)


def _second(record: bytes) -> int:
    return int.from_bytes(record[:8], "big")
