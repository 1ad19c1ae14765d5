"""Finding differences with a peer that has no NIP-77: its events page by page, newest first."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from dataclasses import replace

from twisted.internet.task import deferLater

from negd.errors import PeerError
from negd.nostr.event import MAX_TIMESTAMP, Event
from negd.nostr.filter import Filter
from negd.reconcile import RecordSet
from negd.sync.arrivals import Arrivals
from negd.sync.contact import PAUSES, Contact
from negd.sync.crowds import Crowd
from negd.sync.ledger import Ledger
from negd.sync.node import Node
from negd.sync.refusals import asks_for_less, asks_for_patience, is_about_number, limit_in
from negd.sync.request import Answer, Requests

_MOST_SHOWN = 20_000
"""Events that a peer may show on a page, if it does not care how many were asked for."""

_MOST_UNASKED = 500
"""Events beside those asked for that a page may bring."""

_SMALLEST_CAP = 5
"""Events that any peer shows at a time: a page of fewer was not cut."""

_MOST_OF_A_SECOND = 100_000
"""Events of one second after which the seconds before it are gone on to."""

_PIECE = 5000
"""Records of ours looked at in one turn of the reactor."""

_LARGEST = 16 << 20
"""Bytes of a page from which on it is asked for again, in smaller pages."""

_TAKEN = 1000
"""Events of a page that are taken in one turn."""


class _Refused(PeerError):
    """The peer answers a REQ with CLOSED."""


class Paging:
    """Reads a peer's events from the newest down, and compares them with what we hold.

    A page says what the peer holds of every second but its oldest, which may be cut: that one
    begins the next page.  What we hold of a second that was shown and is not on a page, the peer
    lacks.  A page that shows nothing but what was shown before is stuck in a second with more
    events than it can hold: that second is asked for by itself (:class:`Crowd`).

    :param arrivals: where events go that we lack; None where they are not wanted.
    :param found: told of ids that we have and that we need, some thousand at a time; returns when
        there is room for more. It may raise BudgetSpent, which ends the paging.
    :param moved: told of counts to add to the progress, by :class:`SyncProgress`'s names.
    :param page_size: events asked for at first; more later, where they come.
    :ivar until: the second that the next page begins at; all after it is found.
    """

    def __init__(
        self,
        peer: Contact,
        arrivals: Arrivals | None,
        ledger: Ledger,
        node: Node,
        found: Callable[[Iterable[bytes], Iterable[bytes]], Awaitable[object]],
        moved: Callable[..., None],
        page_size: int,
    ) -> None:
        self._peer = peer
        self._requests = Requests(peer, node.settings.answer, _LARGEST)
        self._arrivals = arrivals
        self._ledger = ledger
        self._clock = node.clock
        self._found = found
        self._moved = moved
        self._most_shown = 0
        self._page, self._largest_page = page_size, node.page_size
        self.until = MAX_TIMESTAMP

    async def run(self, wanted: Filter, records: RecordSet) -> None:
        """Page to the end of what the peer shows.

        :param records: what we hold of ``wanted``.
        :raises PeerError: the peer refused, fell silent, or is gone.
        :raises negd.errors.StorageError: events could not be stored.
        """
        since = wanted.since or 0
        until = MAX_TIMESTAMP if wanted.until is None else min(wanted.until, MAX_TIMESTAMP)
        self.until = until
        left = wanted.limit
        listed: set[bytes] = set()
        while until >= since and left != 0:
            size = self._page if left is None else min(self._page, left)
            answer = await self._ask(_page(wanted, until, size))
            if answer.is_cut and size > 1:
                self._page = max(1, min(size, len(answer.events)) // 2)
                continue
            self._page = min(2 * self._page, self._largest_page)
            shown = answer.events
            if answer.unasked and not shown:
                raise PeerError("the peer shows events of other times than those asked for")
            self._most_shown = max(self._most_shown, len(shown))
            fresh = await self._fresh(shown, listed, records)
            if answer.failure is not None:
                raise answer.failure
            left = None if left is None else max(0, left - len(fresh))
            oldest = min((event.created_at for event in fresh.values()), default=until)
            if not shown:
                await self._settle(records.window(since, until), listed)
                return
            if not fresh or (oldest == until and len(listed) > _MOST_OF_A_SECOND):
                if left is None and len(shown) >= min(size, max(self._most_shown, _SMALLEST_CAP)):
                    await self._see_the_rest(wanted, until, listed, records)
                oldest = until - 1
            await self._settle(records.window(oldest + 1, until), listed)
            if oldest < until:
                listed = {key for key, event in fresh.items() if event.created_at == oldest}
            until = self.until = oldest

    async def _see_the_rest(
        self, wanted: Filter, second: int, listed: set[bytes], records: RecordSet
    ) -> None:
        """Take what there is of a second that a page did not get beyond."""
        alone = replace(wanted, since=second, until=second, limit=_MOST_SHOWN)
        answer = await self._granted(alone)
        if not answer.events:  # it will not be asked for so many
            alone = replace(alone, limit=self._page)
            answer = await self._granted(alone)
        self._most_shown = max(self._most_shown, len(answer.events))
        await self._fresh(answer.events, listed, records)
        may_be_more = answer.is_cut or await self._is_capped(alone, answer)
        async for more in Crowd(alone, self._shown).beyond(answer.events, self._most_shown):
            if await self._fresh(more, listed, records):
                may_be_more = True
        if may_be_more:
            how_many = f"the peer shows {self._most_shown} events, and may have more"
            self._ledger.leave_open(f"of second {second} {how_many}")

    async def _is_capped(self, alone: Filter, answer: Answer) -> bool:
        """Whether the peer shows no more than that of a second and the time before it.

        It may have no older events, too; that is not told apart.
        """
        further = replace(alone, since=None, limit=len(answer.events) + 1)
        shown = await self._shown(further)
        return all(event.created_at == alone.until for event in shown.values())

    async def _shown(self, wanted: Filter) -> dict[bytes, Event]:
        """The events that a REQ brings that need not be granted."""
        return (await self._granted(wanted)).events

    async def _granted(self, wanted: Filter) -> Answer:
        """The answer to a REQ; without events where it is refused."""
        try:
            answer = await self._ask(wanted)
        except _Refused:
            return Answer({})
        if answer.failure is not None:
            raise answer.failure
        return answer

    async def _fresh(
        self, shown: dict[bytes, Event], listed: set[bytes], records: RecordSet
    ) -> dict[bytes, Event]:
        """Those events that were not listed, which are taken and listed now."""
        fresh = {key: event for key, event in shown.items() if key not in listed}
        listed.update(fresh)
        keys = list(fresh)
        for begin in range(0, len(keys), _TAKEN):
            if begin:
                await deferLater(self._clock, 0)
            await self._take({key: fresh[key] for key in keys[begin : begin + _TAKEN]}, records)
        return fresh

    async def _ask(self, wanted: Filter) -> Answer:
        """One page; asked for again where the peer wants patience, or to know who we are, or is
        not to be asked for so much."""
        pauses = iter(PAUSES)
        admitted = False
        while True:
            answer = await self._requests.ask(wanted, _first(_MOST_SHOWN, wanted), _MOST_UNASKED)
            refusal = answer.refusal
            if refusal is None:
                return answer
            size = min(wanted.limit or self._page, self._page)
            if asks_for_patience(refusal) and (pause := next(pauses, None)) is not None:
                if pause > PAUSES[0] and is_about_number(refusal):
                    self._peer.give_up_tail(refusal)
                await self._peer.let_be(refusal, pause)
            elif asks_for_less(refusal) and size > 1:
                self._page = max(1, min(limit_in(refusal) or size, size // 2))
                self._largest_page = self._page
                wanted = replace(wanted, limit=self._page)
            elif not admitted and await self._peer.admitted_after(refusal):
                admitted = True
            else:
                raise _Refused(f"the peer refused a REQ: {refusal}")

    async def _take(self, fresh: dict[bytes, Event], records: RecordSet) -> None:
        """Report and store what we lack."""
        lacking = {key: event for key, event in fresh.items() if event.record not in records}
        await self._found((), lacking)
        if self._arrivals is not None:
            wanted = await self._ledger.unexplained(list(lacking))
            if len(wanted) < len(lacking):
                self._moved(explained=len(lacking) - len(wanted))
            await self._arrivals.take({key: lacking[key] for key in wanted})

    async def _settle(self, ours: RecordSet, listed: set[bytes]) -> None:
        """Report what we hold of seconds that the peer has shown, and it has not."""
        for begin in range(0, len(ours), _PIECE):
            found = ours.each_id(begin, min(begin + _PIECE, len(ours)))
            await self._found([event_id for event_id in found if event_id not in listed], ())
            if begin + _PIECE < len(ours):
                await deferLater(self._clock, 0)


def _page(wanted: Filter, until: int, size: int) -> Filter:
    """The filter of one page; a bound that limits nothing stays out of it."""
    return replace(wanted, until=None if until >= MAX_TIMESTAMP else until, limit=size)


def _first(most: int, wanted: Filter) -> Callable[[Event], bool]:
    """Whether an event is one of the first so many that match."""
    room = iter(range(most))
    return lambda event: wanted.matches(event) and next(room, None) is not None
