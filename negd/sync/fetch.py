"""Fetching events by their ids, several REQs in flight."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater

from negd.interfaces import Residue
from negd.nostr.filter import Filter
from negd.settings import SyncSettings
from negd.sync.arrivals import Arrivals
from negd.sync.contact import Contact
from negd.sync.differences import Differences
from negd.sync.ledger import Ledger
from negd.sync.request import Requests
from negd.sync.together import together

_MOST_TRIES = 3
"""REQs that may be refused for an id before it counts as unfetchable."""

_PAUSE = 1.0
"""Seconds to let a peer be that refused a REQ: it may have too many of them open."""


class Fetch:
    """Takes needed ids until there are no more, and has their events stored.

    Each of the batches in flight waits for its events to be stored before it asks for more: a
    slow store slows the asking, and memory holds no more than the batches in flight.

    :param moved: told of counts to add to the progress, by :class:`SyncProgress`'s names.
    """

    def __init__(
        self,
        peer: Contact,
        needs: Differences,
        arrivals: Arrivals,
        ledger: Ledger,
        settings: SyncSettings,
        clock: IReactorTime,
        moved: Callable[..., None],
    ) -> None:
        self._peer = peer
        self._requests = Requests(peer, settings.answer)
        self._needs = needs
        self._arrivals = arrivals
        self._ledger = ledger
        self._settings = settings
        self._clock = clock
        self._moved = moved
        self._tries: Counter[bytes] = Counter()

    async def run(self) -> None:
        """Fetch until the needs are finished and none is left.

        :raises negd.errors.PeerError: the peer fell silent or the link is lost.
        :raises negd.errors.StorageError: events could not be stored.
        """
        await together(*(self._lane() for _ in range(self._settings.fetch_in_flight)))

    async def _lane(self) -> None:
        """One REQ after another."""
        while ids := await self._needs.take(self._settings.fetch_batch):
            wanted = await self._ledger.unexplained(ids)
            if len(wanted) < len(ids):
                self._moved(explained=len(ids) - len(wanted))
            if wanted:
                await self._fetch(wanted)

    async def _fetch(self, ids: list[bytes]) -> None:
        asked = set(ids)
        answer = await self._requests.ask(
            Filter.build(ids=ids), lambda event: event.id_bytes in asked, len(ids)
        )
        await self._arrivals.take(answer.events)
        missing = [event_id for event_id in ids if event_id not in answer.events]
        if answer.events:
            self._needs.put(missing)  # a cap on events an answer: ask for the rest
        else:
            await self._retry(missing, answer.refusal)

    async def _retry(self, ids: list[bytes], refusal: str | None) -> None:
        """Ask again, a little later, for ids of a REQ that was refused; give up after a while."""
        if refusal is not None:
            await self._peer.admitted_after(refusal)
        again = []
        for event_id in ids:
            self._tries[event_id] += 1
            if refusal is not None and self._tries[event_id] < _MOST_TRIES:
                again.append(event_id)
            else:
                del self._tries[event_id]
                self._moved(unfetchable=1)
                self._ledger.note(event_id, Residue.UNFETCHABLE, refusal or "not returned")
        if again:
            await deferLater(self._clock, _PAUSE)
            self._needs.put(again)
        await self._ledger.write()
