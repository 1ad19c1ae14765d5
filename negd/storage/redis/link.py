"""One connection to a Redis server, over txredisapi.

txredisapi's own pools are left aside: a command given to one that is not connected waits for ever,
and their reconnecting cannot be told when to give up.  Its protocol is all that is used: commands
without charset and number conversion, bytes in and bytes out.
"""

from __future__ import annotations

from importlib.resources import files
from typing import Any, cast

import txredisapi
from twisted.internet.defer import Deferred, TimeoutError, maybeDeferred
from twisted.internet.error import ConnectError
from twisted.internet.protocol import Factory
from twisted.python.failure import Failure

from negd.errors import StorageError
from negd.storage.redis.address import ServerAddress
from negd.storage.redis.frames import frames

_SCRIPT = files(__package__).joinpath("store.lua").read_bytes()

REPLY_WITHIN = 10.0
"""Seconds after which a server that says nothing is taken for dead."""

_TURNED_AWAY = ("READONLY", "MOVED", "LOADING", "MASTERDOWN", "CLUSTERDOWN", "NOAUTH", "NOSCRIPT")
"""Errors that another connection, some time later, may not get."""


class Refused(StorageError):
    """The server answered with an error.

    :ivar words: its text in words, the first of which names the error in most cases.
    """

    def __init__(self, address: ServerAddress, text: str) -> None:
        super().__init__(f"{address}: {text}")
        self.words = text.split() or [""]


class _Protocol(txredisapi.RedisProtocol):  # type: ignore[misc]
    """As txredisapi has it, on a given reactor, keeping in mind why it ended."""

    def __init__(self, reactor: Any) -> None:
        super().__init__(charset=None, convertNumbers=False)
        self.callLater = reactor.callLater
        self.reason = ""
        self.lost: Deferred[None] = Deferred()

    def connectionLost(self, why: Failure) -> None:
        self.reason = self.reason or why.getErrorMessage().rstrip(".")
        super().connectionLost(why)
        self.lost.callback(None)


class Link:
    """An open connection. Use :meth:`open`.

    :ivar lost: fires once the connection is gone.
    """

    def __init__(self, address: ServerAddress, protocol: _Protocol, reactor: Any) -> None:
        self.address = address
        self.lost = protocol.lost
        self._protocol = protocol
        self._reactor = reactor
        self._prefix = f"{{{address.prefix}}}:".encode()
        self._script = b""
        self._running: set[Deferred[Any]] = set()

    @classmethod
    async def open(cls, address: ServerAddress, reactor: Any) -> Link:
        """Connect, say who we are, and choose the database.

        :raises StorageError: no connection, or a server that does not want us.
        """
        factory = Factory.forProtocol(lambda: _Protocol(reactor))
        factory.noisy = False
        endpoint, password = address.endpoint(reactor), address.password()
        try:
            protocol = cast(_Protocol, await endpoint.connect(factory))
        except (ConnectError, TimeoutError, OSError, ValueError) as error:  # the name too is tried
            raise StorageError(f"{address}: {str(error).rstrip('.')}") from None
        link = cls(address, protocol, reactor)
        try:
            await link._introduce(password)
            link._script = await link.command("SCRIPT", "LOAD", _SCRIPT)
        except StorageError:
            link.abort()
            raise
        return link

    async def _introduce(self, password: str) -> None:
        """Say who we are, and choose the database: the first that is heard of a server."""
        address = self.address
        try:
            if address.user:
                await self.command("AUTH", address.user, password)
            elif password:
                await self.command("AUTH", password)
            await self.command("SELECT", address.database)
        except Refused:
            raise
        except StorageError as error:
            tls = "with TLS" if address.tls else "without TLS"
            raise StorageError(f"{error.text}; expected a Redis server {tls}") from None

    def key(self, name: str) -> bytes:
        """A key of ours, whole."""
        return self._prefix + name.encode()

    def command(self, *words: object, within: float = REPLY_WITHIN) -> Deferred[Any]:
        """Send a command at once; its reply, in bytes, numbers and lists of them.

        Fails with :class:`StorageError`: an error as :class:`Refused`, a lost connection, or no
        reply within so many seconds, which ends the connection.
        """
        reply = maybeDeferred(self._protocol.execute_command, *words)
        self._running.add(reply)
        reply.addTimeout(within, self._reactor)
        reply.addBoth(self._answered, reply)
        return reply

    def run(self, command: str, *arguments: object) -> Deferred[list[bytes]]:
        """Run a command of ``store.lua``; its reply. It fails as :meth:`command` does."""
        words = (command, *arguments)
        return self.command("EVALSHA", self._script, 1, self._prefix, *words).addCallback(frames)

    def _answered(self, result: Any, reply: Deferred[Any]) -> Any:
        self._running.discard(reply)
        if not isinstance(result, Failure):
            return result
        if result.check(TimeoutError):
            self._protocol.reason = "no answer"
            self.abort()
            raise StorageError(f"{self.address}: no answer")
        if result.check(txredisapi.ResponseError):
            refused = Refused(self.address, str(result.value).strip().removeprefix("ERR "))
            if refused.words[0] in _TURNED_AWAY:
                self.abort()
            raise refused
        if result.check(txredisapi.ConnectionError):
            raise StorageError(f"{self.address}: {self._protocol.reason or 'not connected'}")
        return result

    async def idle(self) -> None:
        """Return once everything sent has been answered."""
        while self._running:
            waiting: Deferred[None] = Deferred()
            next(iter(self._running)).addBoth(_pass_on, waiting)
            await waiting

    @property
    def reason(self) -> str:
        """Why the connection ended; empty while it has not."""
        return self._protocol.reason

    def abort(self, reason: str = "") -> None:
        """End the connection now, if it has not ended; what waits for a reply fails.

        :param reason: why, where that is not for the connection itself to say.
        """
        if self._protocol.connected:
            self._protocol.reason = self._protocol.reason or reason
            self._protocol.transport.abortConnection()

    async def close(self) -> None:
        """:meth:`abort`, and return once the connection is gone."""
        self.abort()
        waiting: Deferred[None] = Deferred()
        self.lost.addBoth(_pass_on, waiting)
        await waiting


def _pass_on(result: Any, waiting: Deferred[None]) -> Any:
    waiting.callback(None)
    return result
