"""The stored events of a REQ: pages of all its filters, merged newest first, without doubles."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import NamedTuple

import msgspec

from negd.interfaces import IEventStore
from negd.nostr.filter import Filter

_FIRST_PAGE = 100
"""Events of a page that a client waits for; stores end pages of large events before that."""

_LATER_PAGE = 500


class StoredEvent(NamedTuple):
    """``rank`` sorts newest first, ties by the lower id, as NIP-01 wants answers."""

    rank: tuple[int, str]
    json: bytes

    @property
    def id(self) -> str:
        """The event's id, hex."""
        return self.rank[1]


class _Head(msgspec.Struct):
    id: str
    created_at: int


_head = msgspec.json.Decoder(_Head)


def _ranked(event_json: bytes) -> StoredEvent:
    head = _head.decode(event_json)
    return StoredEvent((-head.created_at, head.id), event_json)


class _Stream:
    """The events of one filter, page after page, up to its limit."""

    def __init__(self, store: IEventStore, wanted: Filter) -> None:
        self._store = store
        self._wanted = wanted
        self._left = wanted.limit
        self._after: bytes | None = None
        # Ids are looked up anew for every page.
        self._page = _FIRST_PAGE if wanted.ids is None else _LATER_PAGE
        self._finished = wanted.limit == 0
        self.ready: deque[StoredEvent] = deque()

    async def load(self) -> None:
        """Have events ready, unless there are none left."""
        while not self.ready and not self._finished:
            await self._turn_page()

    async def _turn_page(self) -> None:
        size = self._page if self._left is None else min(self._page, self._left)
        page = await self._store.query(self._wanted, self._after, size)
        self.ready.extend(_ranked(event) for event in page.events)
        self._after = page.last
        if self._left is not None:
            self._left -= len(page.events)
        self._finished = page.last is None or self._left == 0
        self._page = _LATER_PAGE


class StoredEvents:
    """What a store holds for a REQ, in batches of about one page; each event once."""

    def __init__(self, store: IEventStore, filters: Sequence[Filter]) -> None:
        self._streams = [_Stream(store, wanted) for wanted in filters]
        self._last: tuple[int, str] | None = None

    async def next(self) -> list[StoredEvent]:
        """The next events, newest first; none when there are no more.

        :raises negd.errors.StorageError: the storage failed.
        """
        while True:
            for stream in self._streams:
                await stream.load()
            self._streams = [stream for stream in self._streams if stream.ready]
            if not self._streams:
                return []
            batch = self._merge()
            if batch:
                return batch

    def _merge(self) -> list[StoredEvent]:
        """Take events in order until one stream has none ready."""
        batch: list[StoredEvent] = []
        streams = [stream.ready for stream in self._streams]
        while all(streams):
            event = min(streams, key=lambda ready: ready[0].rank).popleft()
            if event.rank != self._last:
                batch.append(event)
                self._last = event.rank
        return batch
