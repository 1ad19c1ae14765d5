"""Finding, once, which of the versions that the database has piled up are the ones that count.

A listing says who wrote an event and when, but not what it replaces.  So the replaceable kinds
are listed apart, and where an author has several events there, these are read.
"""

from __future__ import annotations

import numpy as np
from twisted.internet.interfaces import IReactorTime

from negd.nostr.event import Event
from negd.nostr.kinds import MAX_KIND, is_addressable, is_replaceable
from negd.nostr.lifecycle import Address, address_of, is_expired
from negd.storage.order import listing_key
from negd.storage.orlydb.database import Listed
from negd.storage.orlydb.gen.orlydb.v1 import service_pb2 as proto
from negd.storage.orlydb.held import Held
from negd.storage.orlydb.reading import Reading
from negd.storage.postings import as_list
from negd.sync.offload import Offload

_KINDS = [kind for kind in range(MAX_KIND + 1) if is_replaceable(kind) or is_addressable(kind)]

_KINDS_AT_ONCE = 1000
"""Kinds of one listing: the database scans for each."""

_EVENTS_AT_ONCE = 500


class Survey:
    """Reads what may be a version of something else, and leaves out what does not count."""

    def __init__(self, clock: IReactorTime, calls: Offload, reading: Reading, held: Held) -> None:
        self._clock = clock
        self._calls = calls
        self._reading = reading
        self._held = held
        self._author = ""
        self._latest: dict[Address, bytes] = {}

    async def run(self) -> None:
        """Survey everything, a little at a time.

        :raises negd.errors.StorageError: it was not finished.
        """
        for at in range(0, len(_KINDS), _KINDS_AT_ONCE):
            wanted = proto.Filter(kinds=_KINDS[at : at + _KINDS_AT_ONCE])
            listed = await self._reading.listed(wanted)
            await self._compare(await self._calls(_by_busy_authors, listed))

    async def _compare(self, ids: list[bytes]) -> None:
        """:param ids: those of one author together."""
        for at in range(0, len(ids), _EVENTS_AT_ONCE):
            part = ids[at : at + _EVENTS_AT_ONCE]
            events = await self._reading.by_ids(part)
            for event_id in part:
                if event_id in events and not self._held.is_left_out(event_id):
                    self._judge(events[event_id])
            await self._held.flush()

    def _judge(self, event: Event) -> None:
        if event.pubkey != self._author:
            self._author = event.pubkey
            self._latest.clear()
        address, record = address_of(event), event.record
        if is_expired(event, self._clock.seconds()):
            self._held.leave_out(record)
        elif address is not None:
            latest = self._latest.setdefault(address, record)
            if listing_key(record) < listing_key(latest):
                self._held.leave_out(latest)
                self._latest[address] = record
            elif record != latest:
                self._held.leave_out(record)


def _by_busy_authors(listed: Listed) -> list[bytes]:
    """The ids of events whose authors have several of them, author by author."""
    order = np.argsort(listed.authors)
    authors = listed.authors[order]
    like_next = np.zeros(len(order), np.bool_)
    like_next[:-1] = authors[1:] == authors[:-1]
    like_last = np.roll(like_next, 1)  # the last one is like none that follows
    return [record[8:] for record in as_list(listed.records[order][like_next | like_last])]
