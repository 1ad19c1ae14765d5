"""One REQ and all that comes of it (NIP-01)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from negd.errors import PeerError
from negd.interfaces import Fault
from negd.nostr.event import Event
from negd.nostr.filter import Filter
from negd.nostr.messages import Closed, Delivered, Eose, Notice, encode_close, encode_request
from negd.sync.contact import Contact


@dataclass(slots=True)
class Answer:
    """What came of a REQ.

    :ivar events: by id, as they came.
    :ivar refusal: the peer's words where it refused.
    :ivar failure: why there was no end to it: silence, a link that is lost, or a flood.
    :ivar is_cut: whether more was to come than is held in memory, and is not waited for.
    :ivar unasked: events that came and were not asked for.
    """

    events: dict[bytes, Event]
    refusal: str | None = None
    failure: PeerError | None = None
    is_cut: bool = False
    unasked: int = 0


class Requests:
    """REQs to one peer.

    :param patience: seconds the peer may be silent before it has answered all.
    :param largest: bytes of an answer from which on no more of it is taken.
    """

    def __init__(self, peer: Contact, patience: float, largest: int) -> None:
        self._peer = peer
        self._patience = patience
        self._largest = largest

    async def ask(self, wanted: Filter, expected: Callable[[Event], bool], most: int) -> Answer:
        """What the peer sends until EOSE or CLOSED; nothing is left open.

        :param expected: whether an event is one that was asked for; others are dropped.
        :param most: events that the peer may send beyond those.
        """
        name = self._peer.subscription_name()
        answer = Answer({})
        faults = self._peer.dialogue.faults
        repeated = size = 0

        def collect(letter: Delivered) -> bool:
            nonlocal repeated, size
            if answer.is_cut:
                return False
            event = letter.event
            event_id = event.id_bytes
            if event_id in answer.events:
                faults[Fault.REPEATED] += 1
                repeated += 1
            elif expected(event):
                answer.events[event_id] = event
                size += letter.size
                if size > self._largest:
                    answer.is_cut = True
                    box.put(Eose(name))
                return True
            else:
                faults[Fault.UNASKED] += 1
                answer.unasked += 1
            if answer.unasked + repeated > most:
                box.fail(PeerError("the peer sends events that were not asked for"))
            return False

        with self._peer.dialogue.subscription(name, collect) as box:
            self._peer.link.send(encode_request(name, [wanted]))
            is_closed = False
            try:
                await self._peer.link.drained()
                letter = await box.next(self._patience, "answer to a REQ")
                is_closed = isinstance(letter, Closed)
                if isinstance(letter, Closed | Notice):
                    answer.refusal = letter.text or "CLOSED"
            except PeerError as failure:
                answer.failure = failure
            finally:
                if not is_closed:
                    self._peer.link.send(encode_close(name))
        return answer
