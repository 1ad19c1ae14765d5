"""Syncs on demand with progress, for the streaming calls of both services."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from threading import BoundedSemaphore
from typing import TypeVar

import grpc
from twisted.internet.defer import CancelledError

from negd.control.bridge import Abandoned, Bridge, Stopping
from negd.errors import ConfigError, LimitReached, NegdError
from negd.interfaces import IPeerSync, SyncProgress
from negd.nostr.filter import Filter

Message = TypeVar("Message")


class Syncs:
    """Runs syncs with progress; each holds a pool thread.

    :param most: that may run at a time, so that they leave threads for everything else.
    """

    def __init__(self, bridge: Bridge, peers: IPeerSync, most: int) -> None:
        self._bridge = bridge
        self._peers = peers
        self._places = BoundedSemaphore(most)

    def stream(
        self,
        context: grpc.ServicerContext,
        url: str,
        wanted: Filter,
        message: Callable[[SyncProgress, str], Message],
    ) -> Iterator[Message]:
        """A sync's progress as it comes, in messages made of it and an error.

        The last one is complete, or has an error: what went wrong, in words.

        :raises ConfigError: not a relay's URL.
        :raises LimitReached: too many such syncs are running.
        :raises Abandoned: the gRPC call has ended.
        :raises Stopping: the daemon stops.
        """

        async def sync(tell: Callable[[SyncProgress], None]) -> SyncProgress:
            return await self._peers.sync(url, wanted, tell)

        last = SyncProgress(url)
        with self._place():
            try:
                for progress in self._bridge.stream(context, sync):
                    last = replace(progress, complete=False)
                    if not progress.complete:
                        yield message(last, "")
            except (ConfigError, Abandoned, Stopping):
                raise
            except NegdError as error:
                yield message(last, error.text)
            except CancelledError:
                yield message(last, "the sync was cancelled")
            else:
                yield message(replace(last, complete=True), "")

    @contextmanager
    def _place(self) -> Iterator[None]:
        if not self._places.acquire(blocking=False):
            raise LimitReached("too many syncs with progress are running; try later")
        try:
            yield
        finally:
            self._places.release()
