"""Fetching events by their ids, several REQs in flight (NIP-01)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from itertools import count

from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater

from negd.errors import PeerError
from negd.interfaces import IIntake, Outcome, Residue, Verdict
from negd.nostr.event import Event
from negd.nostr.filter import Filter
from negd.nostr.messages import Closed, Delivered, encode_close, encode_request
from negd.settings import SyncSettings
from negd.sync.contact import Contact
from negd.sync.differences import Differences
from negd.sync.ledger import Ledger
from negd.sync.together import together

_MOST_TRIES = 3
"""REQs that may be refused for an id before it counts as unfetchable."""

_PAUSE = 1.0
"""Seconds to let a peer be that refused a REQ: it may have too many of them open."""

_STORED = {Outcome.STORED, Outcome.DUPLICATE}


class Fetch:
    """Takes needed ids until there are no more, and hands their events to the intake.

    Each of the batches in flight waits for its events to be stored before it asks for more: a
    slow store slows the asking, and memory holds no more than the batches in flight.

    :param moved: told of counts to add to the progress, by :class:`SyncProgress`'s names.
    """

    def __init__(
        self,
        peer: Contact,
        needs: Differences,
        intake: IIntake,
        ledger: Ledger,
        settings: SyncSettings,
        clock: IReactorTime,
        moved: Callable[..., None],
    ) -> None:
        self._peer = peer
        self._dialogue = peer.dialogue
        self._link = peer.link
        self._needs = needs
        self._intake = intake
        self._ledger = ledger
        self._settings = settings
        self._clock = clock
        self._moved = moved
        self._numbers = count(1)
        self._tries: Counter[bytes] = Counter()

    async def run(self) -> None:
        """Fetch until the needs are finished and none is left.

        :raises PeerError: the peer fell silent or the link is lost.
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
        events, refusal = await self._request(ids)
        verdicts = await self._intake.submit(list(events.values()))
        self._account(dict(zip(events, verdicts, strict=True)))
        missing = [event_id for event_id in ids if event_id not in events]
        if events:
            self._needs.put_back(missing)  # a cap on events an answer: ask for the rest
        else:
            await self._peer.admitted_after(refusal)
            await self._retry(missing, refusal)
        await self._ledger.write()

    async def _request(self, ids: list[bytes]) -> tuple[dict[bytes, Event], str]:
        """What the peer sends for one REQ, and its words where it refused."""
        name = f"negd-{next(self._numbers)}"
        wanted = set(ids)
        events: dict[bytes, Event] = {}
        unasked = 0
        with self._dialogue.subscription(name) as box:
            self._link.send(encode_request(name, [Filter.build(ids=ids)]))
            while True:
                letter = await box.next(self._settings.answer, f"answer to a REQ of {len(ids)} ids")
                if isinstance(letter, Delivered):
                    event_id = letter.event.id_bytes
                    if event_id in wanted:
                        events[event_id] = letter.event
                        continue
                    unasked += 1
                    if unasked > len(ids):
                        raise PeerError("the peer sends events that were not asked for")
                elif isinstance(letter, Closed):
                    return events, letter.text
                else:
                    self._link.send(encode_close(name))
                    return events, ""

    def _account(self, verdicts: dict[bytes, Verdict]) -> None:
        stored = 0
        for event_id, verdict in verdicts.items():
            if verdict.outcome in _STORED:
                stored += 1
                self._ledger.settle(event_id)
            else:
                text = verdict.text or verdict.outcome.value
                self._ledger.note(event_id, Residue.OURS_REJECTED, text)
        if verdicts:
            self._moved(fetched=stored, refused=len(verdicts) - stored)

    async def _retry(self, ids: list[bytes], refusal: str) -> None:
        """Ask again, a little later, for ids of a REQ that was refused; give up after a while."""
        again = []
        for event_id in ids:
            self._tries[event_id] += 1
            if refusal and self._tries[event_id] < _MOST_TRIES:
                again.append(event_id)
            else:
                del self._tries[event_id]
                self._moved(unfetchable=1)
                self._ledger.note(event_id, Residue.UNFETCHABLE, refusal or "not returned")
        if again:
            await deferLater(self._clock, _PAUSE)
            self._needs.put_back(again)
