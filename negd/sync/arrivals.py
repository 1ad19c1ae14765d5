"""Events that a peer sent, on their way into our store."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping

from negd.interfaces import Fault, IIntake, Outcome, Residue
from negd.nostr.event import Event
from negd.sync.contact import Contact
from negd.sync.ledger import Ledger

_STORED = {Outcome.STORED, Outcome.DUPLICATE}


class Arrivals:
    """Hands one peer's events to the intake, and writes down what becomes of each.

    :param moved: told of counts to add to the progress, by :class:`SyncProgress`'s names.
    """

    def __init__(
        self, peer: Contact, intake: IIntake, ledger: Ledger, moved: Callable[..., None]
    ) -> None:
        self._peer = peer
        self._intake = intake
        self._ledger = ledger
        self._moved = moved

    async def take(self, events: Mapping[bytes, Event]) -> None:
        """Store events, by id; returns when they are.

        :raises negd.errors.StorageError: they could not be stored.
        """
        if not events:
            return
        self._peer.hear(events)
        outcomes: Counter[Outcome] = Counter()
        verdicts = await self._intake.submit(list(events.values()))
        for event_id, verdict in zip(events, verdicts, strict=True):
            outcomes[verdict.outcome] += 1
            if verdict.outcome in _STORED:
                self._ledger.settle(event_id)
            else:
                if verdict.outcome is Outcome.INVALID:
                    self._peer.dialogue.faults[Fault.INVALID] += 1
                text = verdict.text or verdict.outcome.value
                self._ledger.note(event_id, Residue.OURS_REJECTED, text)
        already = outcomes[Outcome.DUPLICATE]
        stored = outcomes[Outcome.STORED] + already
        self._moved(fetched=stored, already=already, refused=len(verdicts) - stored)
        await self._ledger.write()
