"""The storage over an ORLY relay's database keeps the promises, with the differences it names."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from tempfile import TemporaryDirectory

import pytest

from negd.storage.orlydb.address import DatabaseAddress
from negd.storage.orlydb.store import OrlydbStorage
from negd.testing.orlydb import FakeDatabase
from negd.testing.threads import ThreadedClock
from tests.storage.contract import LIMIT, NOW, Difference, Stand, StorageContract


@contextmanager
def opened(database: FakeDatabase, read_only: bool = False) -> Iterator[Stand]:
    clock = ThreadedClock(NOW)
    with TemporaryDirectory() as folder:
        address = DatabaseAddress(database.server, folder)
        storage = clock.wait(OrlydbStorage.open(address, clock, read_only, max_entries=LIMIT))
        try:
            yield Stand(clock, storage)
        finally:
            clock.wait(storage.close())


class TestOrlydb(StorageContract):
    differences = frozenset(Difference)
    database: FakeDatabase

    @pytest.fixture(autouse=True, scope="class")
    @classmethod
    def _database(cls) -> Iterator[None]:
        with FakeDatabase() as cls.database:
            yield

    @contextmanager
    def opened(self) -> Iterator[Stand]:
        self.database.reset()
        with opened(self.database) as stand:
            yield stand
