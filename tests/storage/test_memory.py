"""The memory storage keeps the promises of all storages, and keeps them at once."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from negd.interfaces import Outcome, Verdict
from negd.storage.memory import MemoryBook, MemoryStorage, MemoryStore
from negd.testing.threads import ThreadedClock
from tests.storage.contract import LIMIT, NOW, Stand, StorageContract, note


class TestMemory(StorageContract):
    @contextmanager
    def opened(self) -> Iterator[Stand]:
        clock = ThreadedClock(NOW)
        storage = MemoryStorage(clock)
        storage.book = MemoryBook(max_entries=LIMIT)
        yield Stand(clock, storage)
        clock.wait(storage.close())


def test_a_call_is_done_when_it_returns() -> None:
    store = MemoryStore(Clock())
    verdicts: list[list[Verdict]] = []
    Deferred.fromCoroutine(store.ingest([note()])).addCallback(verdicts.append)
    assert verdicts == [[Verdict(Outcome.STORED)]]
