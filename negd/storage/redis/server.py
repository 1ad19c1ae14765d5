"""The server as a node has it: reached, or being tried again."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from twisted.internet.defer import CancelledError, Deferred, fail
from twisted.internet.error import ConnectingCancelledError
from twisted.internet.task import deferLater
from twisted.logger import Logger
from twisted.python.failure import Failure

from negd.errors import StorageError
from negd.storage.redis.address import ServerAddress
from negd.storage.redis.link import Link, Refused

log = Logger()

_FIRST_WAIT, _LONGEST_WAIT = 0.1, 5.0
"""Seconds until a lost server is tried again, at first and after many vain attempts."""

_LOADING_WAIT = 1.0
"""Seconds between looks whether a server that starts has read its files."""

_STAYED_UP = 10.0
"""Seconds a connection must last for the next wait to be short again."""

_REDIRECTIONS = 3
"""How often a node of a cluster may send us to another one."""


class Server:
    """Two links to a server, both made again whenever one is lost: for calls, and for the feed.

    :param prepare: awaited with a new link for calls before it is used.
    :param follow: awaited with the link for the feed as long as both last; it ends by failing.
    """

    def __init__(
        self,
        address: ServerAddress,
        reactor: Any,
        prepare: Callable[[Link], Awaitable[None]],
        follow: Callable[[Link], Awaitable[None]],
    ) -> None:
        self.address = address
        self._reactor = reactor
        self._prepare = prepare
        self._follow = follow
        self._calls: Link | None = None
        self._links: tuple[Link, ...] = ()
        self._closed = False
        self._why_not = f"{address}: not connected"
        self._life: Deferred[None] | None = None

    @property
    def link(self) -> Link:
        """The link for calls.

        :raises StorageError: there is none now.
        """
        if self._closed:
            raise StorageError(f"{self.address}: the store is closed")
        if self._calls is None:
            raise StorageError(self._why_not)
        return self._calls

    def run(self, command: str, *arguments: object) -> Deferred[list[bytes]]:
        """Run a command, see :meth:`Link.run`; it fails at once where the server is away."""
        try:
            return self.link.run(command, *arguments)
        except StorageError as error:
            return fail(error)

    async def start(self) -> None:
        """Connect, and stay connected from then on; wait for a server that is reading its files.

        :raises StorageError: the server cannot be reached, or cannot be used.
        """
        while True:
            try:
                calls, feed = await self._connected()
                break
            except Refused as error:
                if error.words[0] != "LOADING":
                    raise
                log.info("{text}", text=error.text)
                await deferLater(self._reactor, _LOADING_WAIT)
        self._calls = calls
        self._life = Deferred.fromCoroutine(self._live(calls, feed))
        self._life.addErrback(_note)

    async def stop(self) -> None:
        """Wait for the answers to what was sent, then disconnect; later calls fail."""
        self._closed = True
        if self._calls is not None:
            await self._calls.idle()
        if self._life is not None:
            self._life.cancel()
        for link in self._links:
            await link.close()

    # --- life -----------------------------------------------------------------------------------

    async def _live(self, calls: Link, feed: Link) -> None:
        wait = _FIRST_WAIT
        while not self._closed:  # stop() may be called by whom the feed tells, and cancels nothing
            began = self._reactor.seconds()
            self._calls = calls
            await self._stay(calls, feed)
            if self._reactor.seconds() - began > _STAYED_UP:
                wait = _FIRST_WAIT
            while not self._closed:
                await deferLater(self._reactor, wait)
                wait = min(2 * wait, _LONGEST_WAIT)
                try:
                    calls, feed = await self._connected()
                except CancelledError:
                    raise
                except Exception as error:
                    self._failed(error)
                else:
                    log.info("{address}: connected again", address=self.address)
                    break

    async def _stay(self, calls: Link, feed: Link) -> None:
        """Return when one of the links is lost."""
        self._links = (calls, feed)
        calls.lost.addCallback(lambda _: feed.abort(calls.reason))
        try:
            await self._follow(feed)
        except CancelledError:
            raise
        except Exception as error:
            self._why_not = ""  # it was there in between: to be said again
            self._failed(error)
        finally:
            self._calls = None
            calls.abort()
            feed.abort()

    def _failed(self, error: Exception) -> None:
        """Say why the server is away, unless that has been said last."""
        text = error.text if isinstance(error, StorageError) else f"{self.address}: {error!r}"
        if text == self._why_not:
            return
        self._why_not = text
        if isinstance(error, StorageError):
            log.warn("{text}; trying again", text=text)
        else:
            log.failure("{text}; trying again", Failure(error), text=text)

    async def _connected(self) -> tuple[Link, Link]:
        calls = await self._dial()
        try:
            await self._prepare(calls)
            return calls, await Link.open(calls.address, self._reactor)
        except BaseException:
            calls.abort()
            raise

    async def _dial(self) -> Link:
        """A link to the server that has our keys."""
        address = self.address
        for _ in range(_REDIRECTIONS):
            link = await Link.open(address, self._reactor)
            try:
                await link.run("head")
                return link
            except StorageError as error:
                link.abort()
                if not (isinstance(error, Refused) and error.words[0] == "MOVED"):
                    raise
                host, _, port = error.words[2].rpartition(":")
                address = address.elsewhere(host, int(port))
        raise StorageError(f"{self.address}: the cluster sends us from node to node")


def _note(failure: Failure) -> None:
    if not failure.check(CancelledError, ConnectingCancelledError):
        log.failure("the connection to Redis is not kept any more", failure)
