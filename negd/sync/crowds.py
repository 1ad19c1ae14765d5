"""Seconds of which a peer has more events than it shows at a time."""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace

from negd.nostr.event import Event
from negd.nostr.filter import Filter

_MOST_QUESTIONS = 200
"""REQs about one second."""


class Crowd:
    """The events of one second, asked for by kinds and authors, as far as these are known.

    NIP-01 has no other way to part the events of a second.  Whether a peer has further ones, of
    kinds and authors that it has not shown, nobody can tell.

    :param second: the filter, with that second alone.
    :param ask: one REQ; what it brings.
    """

    def __init__(
        self, second: Filter, ask: Callable[[Filter], Awaitable[dict[bytes, Event]]]
    ) -> None:
        self._second = second
        self._ask = ask
        self._line: deque[Filter] = deque()
        self._met: set[Filter] = set()

    async def beyond(
        self, events: dict[bytes, Event], most: int
    ) -> AsyncIterator[dict[bytes, Event]]:
        """What the peer shows beyond some events, question by question.

        :param events: what it has shown.
        :param most: as many as it shows at a time.
        """
        self._note(self._second, events)
        for _ in range(_MOST_QUESTIONS):
            if not self._line:
                return
            question = self._line.popleft()
            answer = await self._ask(question)
            yield answer
            self._note(self._second, answer)
            if len(answer) >= most:
                self._note(question, answer)

    def _note(self, question: Filter, events: dict[bytes, Event]) -> None:
        """Have it asked for the kinds that a question has brought, or for the authors of a kind."""
        for event in events.values():
            if question.kinds is None or len(question.kinds) > 1:
                narrower = replace(question, kinds=(event.kind,))
            else:
                narrower = replace(question, authors=(bytes.fromhex(event.pubkey),))
            if narrower not in self._met:
                self._met.add(narrower)
                self._line.append(narrower)
