"""Messages to one client: out at once while the transport takes them, in line while it does not."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from zope.interface import Interface


class IChannel(Interface):
    """The transport of one client's messages, as far as a conversation knows it."""

    def send(text: bytes) -> None:
        """Write one message; what is written on a closed channel is dropped."""

    def pause() -> None:
        """Read nothing more; what was read already still comes."""

    def resume() -> None:
        """Read on."""

    def abort(reason: str) -> None:
        """Drop the connection at once; ``reason`` is for our log."""


class Outgoing:
    """The line of messages to one client, and how much of it there is.

    Answers and live events join the line; stored events, which can be had again, wait for
    :meth:`room` instead.  So does the reading of further commands, from ``limit`` bytes on.

    :param limit: bytes that the line, and what subscriptions hold back, should not exceed.
    :param stall: seconds without room after which the client counts as gone.
    :param eased: called when the line has become shorter.
    :param refusals: see :class:`negd.websocket.conversation.Backend`.
    """

    def __init__(
        self,
        channel: IChannel,
        clock: IReactorTime,
        limit: int,
        stall: float,
        eased: Callable[[], None],
        refusals: dict[str, int],
    ) -> None:
        self._channel = channel
        self._clock = clock
        self._limit = limit
        self._stall = stall
        self._eased = eased
        self._refusals = refusals
        self._line: deque[bytes] = deque()
        self._waiting: list[Deferred[None]] = []
        self._giving_up: IDelayedCall | None = None
        self._closed = False
        self.flowing = True
        self.queued = 0

    def send(self, text: bytes) -> None:
        """Send a message, or put it in line."""
        if self._closed:
            return
        if self.flowing:
            self._channel.send(text)
        else:
            self._line.append(text)
            self.queued += len(text)

    def admits(self, size: int) -> bool:
        """Whether ``size`` more bytes stay within the limit."""
        return self.queued + size <= self._limit

    def hold(self, size: int) -> None:
        """Count bytes that a subscription holds back for later; negative to give them back."""
        self.queued += size

    async def room(self) -> None:
        """Return once messages flow again, or never will."""
        while not self.flowing and not self._closed:
            waiter: Deferred[None] = Deferred(lambda _: None)
            self._waiting.append(waiter)
            await waiter

    def stop(self) -> None:
        """The transport has no room."""
        if self.flowing and not self._closed:
            self.flowing = False
            self._giving_up = self._clock.callLater(self._stall, self._give_up)

    def resume(self) -> None:
        """The transport has room again."""
        self._forget_stall()
        self.flowing = True
        while self._line and self.flowing:
            text = self._line.popleft()
            self.queued -= len(text)
            self._channel.send(text)
        self._eased()
        if self.flowing:
            self._wake()

    def close(self) -> None:
        """The connection is gone."""
        self._closed = True
        self._forget_stall()
        self._line.clear()
        self._wake()

    def _give_up(self) -> None:
        self._giving_up = None
        self._refusals["stall"] += 1
        self._channel.abort(f"took nothing for {self._stall:g} s")

    def _forget_stall(self) -> None:
        if self._giving_up is not None:
            self._giving_up.cancel()
            self._giving_up = None

    def _wake(self) -> None:
        waiting, self._waiting = self._waiting, []
        for waiter in waiting:
            if not waiter.called:
                waiter.callback(None)
