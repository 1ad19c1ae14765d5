"""What stores hold, put there and read without a process of its own for each look."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from typing import TypeVar

from negd.interfaces import IStorage, PeerState
from negd.nostr.event import Event
from negd.nostr.filter import EVERYTHING
from negd.storage import open_store
from negd.testing.redis_server import OwnReactor

T = TypeVar("T")


def fill(store: str, events: Iterable[Event]) -> None:
    """Store events, which are taken as checked.

    :param store: a store string; no daemon may have it open for writing.
    """

    async def put(storage: IStorage) -> None:
        await storage.events.ingest(list(events))

    _with(store, put, read_only=False)


def lines_in(store: str) -> set[str]:
    """The JSON of every event held, as ``negctl export`` writes it."""

    async def read(storage: IStorage) -> set[str]:
        lines: set[str] = set()
        last: bytes | None = None
        while True:
            page = await storage.events.query(EVERYTHING, last, page=5000)
            lines.update(event.decode() for event in page.events)
            last = page.last
            if last is None:
                return lines

    return _with(store, read, read_only=True)


def peers_in(store: str) -> dict[str, PeerState]:
    """The peers that are kept, and how they were when that was written."""

    async def read(storage: IStorage) -> dict[str, PeerState]:
        peers: dict[str, PeerState] = await storage.book.peers()
        return peers

    return _with(store, read, read_only=True)


def _with(store: str, work: Callable[[IStorage], Awaitable[T]], read_only: bool) -> T:
    async def on(reactor: OwnReactor) -> T:
        storage = await open_store(store, reactor, read_only)
        try:
            return await work(storage)
        finally:
            await storage.close()

    reactor = OwnReactor()
    try:
        return reactor.wait(on(reactor))
    finally:
        reactor.close()
