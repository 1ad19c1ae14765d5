"""Keeping up between two reconciliations: new events both ways as they come."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from twisted.internet.defer import DeferredQueue
from twisted.internet.task import deferLater
from twisted.logger import Logger

from negd.interfaces import Direction, Fault
from negd.nostr.event import Event
from negd.nostr.filter import Filter
from negd.nostr.messages import Closed, Delivered, Notice, encode_close, encode_request
from negd.sync.arrivals import Arrivals
from negd.sync.contact import Contact
from negd.sync.differences import Line
from negd.sync.ledger import Ledger
from negd.sync.node import Node
from negd.sync.together import together
from negd.sync.upload import Upload

log = Logger()

_BACK = 60
"""Seconds before now that a tail begins: clocks differ, and events take a while to spread."""

_BATCH = 500

_PAUSE, _LONGEST_PAUSE = 20.0, 3600.0
"""Seconds until a tail that the peer has ended begins again."""

_MOST_DOUBLINGS = 10

_LASTED = 60.0
"""Seconds after which the end of a tail counts as the first in a row."""

_HIGH_WATER = 1000
"""Events waiting to be stored from which on the peer's socket is not read."""

_MOST_IN_LINE = 10_000
"""New events waiting to be pushed; what comes beyond waits for the next reconciliation."""


class Tail:
    """Live events over one contact, as far as ``direction`` lets them move.

    :param moved: told of counts to add to the progress.
    """

    def __init__(
        self,
        peer: Contact,
        node: Node,
        wanted: Filter,
        direction: Direction,
        ledger: Ledger,
        moved: Callable[..., None],
    ) -> None:
        self._peer = peer
        self._node = node
        self._wanted = replace(wanted, limit=None)
        self._direction = direction
        self._ledger = ledger
        ledger.write_at = 1  # a tail may last for weeks, and the syncs meanwhile look it up
        self._arrivals = Arrivals(peer, node, ledger, moved)
        self._clock = node.clock
        self._line = Line()
        self._upload = Upload(peer, self._line, node, ledger, moved)
        self._arrived: DeferredQueue[Event] = DeferredQueue()

    async def run(self) -> None:
        """Go on until the link is lost, even where the peer will not be tailed.

        :raises negd.errors.PeerError: the link is lost, which is how this ends.
        :raises negd.errors.StorageError: events could not be stored or read.
        """
        works = [self._peer.dialogue.end()]
        if self._direction is not Direction.UP:
            works += [self._pull(), self._store()]
        if self._direction is not Direction.DOWN:
            works.append(self._push())
        try:
            await together(*works)
        finally:
            await self._ledger.write(at_least=1)

    # --- the peer's new events ------------------------------------------------------------------

    async def _pull(self) -> None:
        """Subscribe, and after a refusal again, later each time that nothing came before it."""
        refusals, is_admitted = 0, False
        while True:
            began = self._clock.seconds()
            refusal = await self._subscribe()
            if not is_admitted and await self._peer.admitted_after(refusal):
                is_admitted = True
                continue
            if self._clock.seconds() - began > _LASTED:
                refusals = 0
            pause = min(_LONGEST_PAUSE, _PAUSE * 2 ** min(refusals, _MOST_DOUBLINGS))
            refusals += 1
            log.info(
                "{url} ends the tail, which begins again in {s:.0f} s: {text}",
                url=self._peer.link.url,
                s=pause,
                text=refusal,
            )
            self._peer.tail_refused = refusal
            await deferLater(self._clock, pause)
            self._peer.tail_refused = ""

    async def _subscribe(self) -> str:
        """Have events come until the peer sends none any more; its words."""
        name = self._peer.subscription_name()
        with self._peer.dialogue.subscription(name, self._hear) as box:
            self._peer.tail = box
            self._peer.link.send(encode_request(name, [self._beginning()]))
            try:
                while True:
                    letter = await box.next(None, "event")
                    if isinstance(letter, Closed):
                        return letter.text or "CLOSED"
                    if isinstance(letter, Notice):
                        self._peer.link.send(encode_close(name))
                        return letter.text
            finally:
                self._peer.tail = None

    def _beginning(self) -> Filter:
        """The filter from a little back on."""
        return self._wanted.since_at_least(max(0, int(self._clock.seconds()) - _BACK))

    def _hear(self, letter: Delivered) -> bool:
        """Take an event that came; where too many wait, leave what comes next in the socket.

        A sync on the same link waits with it, until one batch is stored and no longer.
        """
        if not self._wanted.matches(letter.event):
            self._peer.dialogue.faults[Fault.UNASKED] += 1
            return False
        self._arrived.put(letter.event)
        if len(self._arrived.pending) >= _HIGH_WATER:
            self._peer.link.pause()
        return True

    async def _store(self) -> None:
        """Store what comes, as much together as has come."""
        waiting = self._arrived.pending
        try:
            while True:
                batch = [await self._arrived.get(), *waiting[: _BATCH - 1]]
                del waiting[: _BATCH - 1]
                if len(waiting) < _HIGH_WATER:
                    self._peer.link.resume()
                await self._arrivals.take({event.id_bytes: event for event in batch})
        finally:
            self._peer.link.resume()

    # --- our new events -------------------------------------------------------------------------

    async def _push(self) -> None:
        watch = self._node.store.watch(self._wanted, self._stored)
        try:
            await self._upload.run()
        finally:
            watch.stop()

    def _stored(self, event: Event, event_json: bytes) -> None:
        event_id = event.id_bytes
        if not self._peer.has_told(event_id) and len(self._line) < _MOST_IN_LINE:
            self._line.put([event_id])
