"""One REQ and all that comes of it (NIP-01)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from negd.errors import PeerError
from negd.interfaces import Fault
from negd.nostr.event import Event
from negd.nostr.filter import Filter
from negd.nostr.messages import Closed, Notice, encode_close, encode_request
from negd.sync.contact import Contact


@dataclass(frozen=True, slots=True)
class Answer:
    """:ivar events: by id, as they came. :ivar refusal: the peer's words where it refused."""

    events: dict[bytes, Event]
    refusal: str | None


class Requests:
    """REQs to one peer.

    :param patience: seconds the peer may be silent before it has answered all.
    """

    def __init__(self, peer: Contact, patience: float) -> None:
        self._peer = peer
        self._patience = patience

    async def ask(self, wanted: Filter, expected: Callable[[Event], bool], most: int) -> Answer:
        """What the peer sends until EOSE or CLOSED; nothing is left open.

        :param expected: whether an event is one that was asked for; others are dropped.
        :param most: events that the peer may send beyond those.
        :raises PeerError: the peer fell silent, sends what it was not asked for, or is gone.
        """
        name = self._peer.subscription_name()
        events: dict[bytes, Event] = {}
        faults = self._peer.dialogue.faults
        superfluous = 0

        def collect(event: Event) -> None:
            nonlocal superfluous
            event_id = event.id_bytes
            is_new = event_id not in events
            if is_new and expected(event):
                events[event_id] = event
                return
            faults[Fault.UNASKED if is_new else Fault.REPEATED] += 1
            superfluous += 1
            if superfluous > most:
                box.fail(PeerError("the peer sends events that were not asked for"))

        with self._peer.dialogue.subscription(name, collect) as box:
            self._peer.link.send(encode_request(name, [wanted]))
            is_closed = False
            try:
                await self._peer.link.drained()
                letter = await box.next(self._patience, "answer to a REQ")
                is_closed = isinstance(letter, Closed)
            finally:
                if not is_closed:
                    self._peer.link.send(encode_close(name))
        if isinstance(letter, Closed | Notice):
            return Answer(events, letter.text or "CLOSED")
        return Answer(events, None)
