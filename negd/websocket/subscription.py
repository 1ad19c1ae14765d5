"""One REQ of one client: stored events, EOSE, then live events; none lost, none twice (NIP-01)."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from twisted.internet.defer import DeferredSemaphore
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger

from negd.errors import NegdError
from negd.interfaces import IEventStore, IWatch
from negd.nostr.event import Event
from negd.nostr.messages import Request, encode_closed, encode_delivered, encode_eose
from negd.websocket.outgoing import Outgoing
from negd.websocket.stored import StoredEvent, StoredEvents

log = Logger()

_SETTLE = 5.0
"""Seconds after which a store has told of every event that it had in its last pages."""

_TOO_FAST = "error: new events come faster than they are read"


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What the subscriptions of one connection share.

    :ivar turns: at most so many of them read the store at a time.
    :ivar refusals: see :class:`negd.websocket.conversation.Backend`.
    """

    store: IEventStore
    outgoing: Outgoing
    clock: IReactorTime
    turns: DeferredSemaphore
    refusals: dict[str, int]


def weight_of(request: Request) -> int:
    """How many ids, authors, kinds and tag values the filters of a REQ name."""
    return sum(
        len(wanted.ids or ())
        + len(wanted.authors or ())
        + len(wanted.kinds or ())
        + sum(len(values) for _, values in wanted.tags)
        for wanted in request.filters
    )


class Subscription:
    """Watches first and reads then, so that nothing falls between; told twice is sent once.

    Live events that come before EOSE are held back, within the limit of the connection's line.

    :param ended: called when it ends by itself, after CLOSED was sent.
    :ivar weight: values in its filters: what its watches cost.
    """

    def __init__(
        self, request: Request, around: Surroundings, ended: Callable[[Subscription], None]
    ) -> None:
        self.name = request.subscription
        self.weight = weight_of(request)
        self._filters = request.filters
        self._around = around
        self._ended = ended
        self._over = False
        self._held: dict[str, bytes] | None = {}
        self._held_bytes = 0
        self._recent: deque[set[str]] = deque(maxlen=2)
        self._forgetting: IDelayedCall | None = None
        self._watches = [self._watch(index) for index in range(len(request.filters))]

    async def run(self) -> None:
        """Send the stored events, EOSE, and what came meanwhile."""
        try:
            await self._around.turns.acquire()
            try:
                await self._send_stored()
            finally:
                self._around.turns.release()
        except NegdError as error:
            self.fail(error.answer)
        except Exception:
            log.failure("a subscription failed")
            self.fail("error: internal error")

    def fail(self, reason: str) -> None:
        """End the subscription and tell the client why."""
        if not self._over:
            self.end()
            self._around.outgoing.send(encode_closed(self.name, reason))
            self._ended(self)

    def end(self) -> None:
        """Send nothing more."""
        self._over = True
        for watch in self._watches:
            watch.stop()
        self._watches.clear()  # they hold us
        self._release_held()
        self._recent.clear()
        if self._forgetting is not None and self._forgetting.active():
            self._forgetting.cancel()

    # --- stored ---------------------------------------------------------------------------------

    async def _send_stored(self) -> None:
        stored = StoredEvents(self._around.store, self._filters)
        while not self._over:
            batch = await stored.next()
            if not batch:
                self._go_live()
                return
            self._recent.append({event.id for event in batch})
            await self._send_batch(batch)

    async def _send_batch(self, batch: list[StoredEvent]) -> None:
        outgoing = self._around.outgoing
        for event in batch:
            if not outgoing.flowing:
                await outgoing.room()
            if self._over:
                return
            self._drop_held(event.id)
            outgoing.send(encode_delivered(self.name, event.json))

    def _go_live(self) -> None:
        """EOSE, then what came while stored events were sent."""
        if self._over:
            return
        outgoing = self._around.outgoing
        outgoing.send(encode_eose(self.name))
        held = self._release_held()
        for event_json in held.values():
            outgoing.send(encode_delivered(self.name, event_json))
        self._forgetting = self._around.clock.callLater(_SETTLE, self._recent.clear)

    # --- live -----------------------------------------------------------------------------------

    def _watch(self, index: int) -> IWatch:
        earlier = self._filters[:index]

        def tell(event: Event, event_json: bytes) -> None:
            if not any(wanted.matches(event) for wanted in earlier):
                self._arrived(event, event_json)

        return self._around.store.watch(self._filters[index], tell)

    def _arrived(self, event: Event, event_json: bytes) -> None:
        if self._over or any(event.id in page for page in self._recent):
            return
        outgoing = self._around.outgoing
        if not outgoing.flowing or self._held is not None:
            if not outgoing.admits(len(event_json)):
                self._around.refusals["outgoing"] += 1
                self.fail(_TOO_FAST)
                return
        if self._held is None:
            outgoing.send(encode_delivered(self.name, event_json))
        elif event.id not in self._held:
            self._held[event.id] = event_json
            self._count_held(len(event_json))

    def _drop_held(self, event_id: str) -> None:
        if self._held:
            event_json = self._held.pop(event_id, b"")
            self._count_held(-len(event_json))

    def _release_held(self) -> dict[str, bytes]:
        """What was held back; from here on nothing is."""
        held, self._held = self._held or {}, None
        self._count_held(-self._held_bytes)
        return held

    def _count_held(self, size: int) -> None:
        self._held_bytes += size
        self._around.outgoing.hold(size)
