"""Syncs on demand with progress, for the streaming calls of both services."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from threading import Lock
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
    :ivar running: how many do.
    :ivar refused: how many were too many, since the start.
    """

    def __init__(self, bridge: Bridge, peers: IPeerSync, most: int) -> None:
        self._bridge = bridge
        self._peers = peers
        self._most = most
        self._counting = Lock()
        self.running = self.refused = 0

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
        with self._counting:
            if self.running >= self._most:
                self.refused += 1
                raise LimitReached("too many syncs with progress are running; try later")
            self.running += 1
        try:
            yield
        finally:
            with self._counting:
                self.running -= 1
