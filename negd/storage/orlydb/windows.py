"""Time windows, from the newest to the oldest, sized so that each answer stays small."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVar

from negd.errors import StorageError
from negd.storage.orlydb.database import AnswerTooLarge

A = TypeVar("A")

TARGET = 50_000
"""Items of one answer that are aimed at: a third of a second of the server's time."""

_STEP = 8


class Windows:
    """Cuts a span of seconds, inclusive at both ends, into windows.

    The database answers only so much at a time.  A window's width follows from what the one
    before held, at most eight times more or less; one that holds too much is cut until it fits.

    :param newest: about the second of the newest event; the first window has all that is later.
    :param reach: seconds before ``newest`` in the first window.
    :ivar finished: whether the windows so far cover the span.
    """

    def __init__(self, since: int, until: int, newest: int, reach: int) -> None:
        self._since = since
        self._until = until
        self._newest = newest
        self._width = reach
        self.finished = since > until

    async def next(self, ask: Callable[[int, int], Awaitable[A]], size: Callable[[A], int]) -> A:
        """The answer for the next older window.

        :param ask: called with its bounds, inclusive.
        :param size: how many items were in an answer.
        :raises StorageError: one second holds more than an answer can.
        """
        while True:
            begin = max(self._since, min(self._until, self._newest) - self._width)
            try:
                answer = await ask(begin, self._until)
            except AnswerTooLarge as error:
                self._narrow(begin, error)
            else:
                self._width = _scaled(self._width, size(answer))
                self._until = begin - 1
                self.finished = self._until < self._since
                return answer

    def _narrow(self, begin: int, error: AnswerTooLarge) -> None:
        if begin == self._until:
            raise StorageError(f"{error.text}, for the one second {begin}") from None
        if begin < self._newest:
            self._width = (min(self._until, self._newest) - begin) // _STEP
        else:
            self._newest += max(1, (self._until - self._newest) // _STEP)


def _scaled(width: int, items: int) -> int:
    wished = (width + 1) * TARGET // max(1, items)
    return min(max(wished, width // _STEP), (width + 1) * _STEP)
