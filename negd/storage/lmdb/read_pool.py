"""A few threads in which a store reads."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import lmdb
from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from negd.errors import StorageError
from negd.sync.offload import Stopped, ThreadOffload

T = TypeVar("T")


class ReadPool:
    """Runs reads in threads.

    :param reactor: an IReactorFromThreads.
    :param name: of the store, for what LMDB complains of.
    """

    def __init__(self, reactor: Any, name: str, threads: int) -> None:
        self._name = name
        self._offload = ThreadOffload(reactor, threads, "negd-lmdb-reader")

    def __call__(self, work: Callable[..., T], *args: Any) -> Deferred[T]:
        """The result of ``work(*args)``; a StorageError where LMDB fails or all is closed."""
        return self._offload(work, *args).addErrback(self._explain)

    def _explain(self, failure: Failure) -> Failure:
        if failure.check(Stopped):
            return Failure(StorageError(f"store {self._name} is closed"))
        if failure.check(lmdb.Error):
            return Failure(StorageError(f"store {self._name}: {failure.getErrorMessage()}"))
        return failure

    async def stop(self) -> None:
        """Return once the reads under way are done; later ones fail."""
        await self._offload.stop()
