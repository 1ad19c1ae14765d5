"""Finding differences with a peer that has no NIP-77: its events page by page, newest first."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace

from negd.errors import PeerError
from negd.nostr.event import MAX_TIMESTAMP, Event
from negd.nostr.filter import Filter
from negd.reconcile import RecordSet
from negd.sync.arrivals import Arrivals
from negd.sync.contact import Contact
from negd.sync.ledger import Ledger
from negd.sync.request import Answer, Requests

PAGE = 500
"""Events asked for at a time: what most servers give at most, whatever is asked."""


class Paging:
    """Reads a peer's events from the newest down, and compares them with what we hold.

    A page says what the peer holds of every second but its oldest, which may be cut: that one
    begins the next page.  What we hold of a second that was shown and is not on a page, the peer
    lacks.

    :param arrivals: where events go that we lack; None where they are not wanted.
    :param found: told of ids that we have and that we need, page by page.
    """

    def __init__(
        self,
        peer: Contact,
        arrivals: Arrivals | None,
        ledger: Ledger,
        patience: float,
        found: Callable[[Iterable[bytes], Iterable[bytes]], object],
    ) -> None:
        self._peer = peer
        self._requests = Requests(peer, patience)
        self._arrivals = arrivals
        self._ledger = ledger
        self._found = found

    async def run(self, wanted: Filter, records: RecordSet) -> None:
        """Page to the end of what the peer shows.

        :param records: what we hold of ``wanted``.
        :raises PeerError: the peer refused, fell silent, or is gone.
        :raises negd.errors.StorageError: events could not be stored.
        """
        since = wanted.since or 0
        until = MAX_TIMESTAMP if wanted.until is None else min(wanted.until, MAX_TIMESTAMP)
        left = wanted.limit
        listed: set[bytes] = set()
        while until >= since and left != 0:
            size = PAGE if left is None else min(PAGE, left)
            shown = (await self._ask(_page(wanted, until, size))).events
            fresh = {key: event for key, event in shown.items() if key not in listed}
            listed.update(fresh)
            await self._take(fresh, records)
            left = None if left is None else max(0, left - len(fresh))
            oldest = min((event.created_at for event in fresh.values()), default=until)
            if not shown:
                self._settle(records.window(since, until), listed)
                return
            if not fresh:  # a second with more events than the peer shows at once: go by
                oldest = until - 1
            self._settle(records.window(oldest + 1, until), listed)
            if oldest < until:
                listed = {key for key, event in fresh.items() if event.created_at == oldest}
            until = oldest

    async def _ask(self, wanted: Filter) -> Answer:
        for _ in range(2):
            answer = await self._requests.ask(wanted, wanted.matches, PAGE)
            if answer.refusal is None:
                return answer
            if not await self._peer.admitted_after(answer.refusal):
                break
        raise PeerError(f"the peer refused a REQ: {answer.refusal}")

    async def _take(self, fresh: dict[bytes, Event], records: RecordSet) -> None:
        """Report and store what we lack."""
        lacking = {key: event for key, event in fresh.items() if event.record not in records}
        self._found((), lacking)
        if self._arrivals is not None:
            wanted = await self._ledger.unexplained(list(lacking))
            await self._arrivals.take({key: lacking[key] for key in wanted})

    def _settle(self, ours: RecordSet, listed: set[bytes]) -> None:
        """Report what we hold of seconds that the peer has shown, and it has not."""
        self._found([record[8:] for record in ours if record[8:] not in listed], ())


def _page(wanted: Filter, until: int, size: int) -> Filter:
    """The filter of one page; a bound that limits nothing stays out of it."""
    return replace(wanted, until=None if until >= MAX_TIMESTAMP else until, limit=size)
