"""Links that carry only so many bytes a second."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from twisted.internet.interfaces import IDelayedCall, IReactorTime

from negd.interfaces import IPeerListener
from negd.websocket.link import PeerLink

_DEBT = 0.5
"""Bytes from which on there is something to wait for: less is an error of rounding."""


class Throttle:
    """Holds traffic to a rate: a second's worth may pass at once, and a debt is waited for.

    :param rate: bytes a second.
    :param go_on: called when waiting has ended.
    """

    def __init__(self, rate: int, clock: IReactorTime, go_on: Callable[[], None]) -> None:
        self._rate = rate
        self._clock = clock
        self._go_on = go_on
        self._credit = float(rate)
        self._counted_at = clock.seconds()
        self._waiting: IDelayedCall | None = None
        self._has_ended = False

    @property
    def is_waiting(self) -> bool:
        """Whether nothing may pass just now."""
        return self._waiting is not None

    def spend(self, amount: int) -> None:
        """So many bytes have passed."""
        self._count()
        self._credit -= amount
        self._wait()

    def end(self) -> None:
        """Hold nothing back any more; what waits is left to the caller."""
        self._has_ended = True
        if self._waiting is not None:
            self._waiting.cancel()
            self._waiting = None

    def _count(self) -> None:
        now = self._clock.seconds()
        earned = max(0.0, now - self._counted_at) * self._rate
        self._credit = min(float(self._rate), self._credit + earned)
        self._counted_at = now

    def _wait(self) -> None:
        if self._credit < -_DEBT and self._waiting is None and not self._has_ended:
            self._waiting = self._clock.callLater(-self._credit / self._rate, self._waited)

    def _waited(self) -> None:
        self._waiting = None
        self._count()
        self._wait()  # more may have passed meanwhile: reading does not stop at once
        if self._waiting is None:
            self._go_on()


class LimitedLink(PeerLink):
    """A link held to a rate, each way by itself: reading pauses, and messages wait in line.

    :param rate: bytes a second, of messages sent and of octets received.
    """

    def __init__(self, url: str, listener: IPeerListener, rate: int, clock: IReactorTime) -> None:
        super().__init__(url, listener)
        self._line: deque[bytes] = deque()
        self._sending = Throttle(rate, clock, self._send_on)
        self._receiving = Throttle(rate, clock, self._read_on)
        self._is_wanted = True

    def send(self, text: bytes) -> None:
        """See :meth:`IPeerLink.send`."""
        if self.state == self.STATE_OPEN:
            self._line.append(text)
            self._send_on()

    def _send_on(self) -> None:
        while self._line and not self._sending.is_waiting:
            text = self._line.popleft()
            super().send(text)
            self._sending.spend(len(text))
        self._wake()

    @property
    def _is_drained(self) -> bool:
        return super()._is_drained and not self._line

    def pause(self) -> None:
        """See :meth:`IPeerLink.pause`."""
        self._is_wanted = False
        super().pause()

    def resume(self) -> None:
        """See :meth:`IPeerLink.resume`."""
        self._is_wanted = True
        self._read_on()

    def _read_on(self) -> None:
        if self._is_wanted and not self._receiving.is_waiting:
            super().resume()

    def dataReceived(self, data: bytes) -> None:
        """Take it, and read no more until it is paid for."""
        super().dataReceived(data)
        self._receiving.spend(len(data))
        if self._receiving.is_waiting:
            super().pause()

    def close(self) -> None:
        """See :meth:`IPeerLink.close`; what waits in line is not sent any more."""
        self._end_limits()
        super().close()

    def onClose(self, wasClean: bool, code: int | None, reason: str | None) -> None:
        """The connection is gone."""
        self._end_limits()
        super().onClose(wasClean, code, reason)

    def _end_limits(self) -> None:
        self._line.clear()
        self._sending.end()
        self._receiving.end()
