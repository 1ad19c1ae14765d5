"""Events that a peer sent, on their way into our store."""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable, Mapping

from negd.interfaces import Fault, IIntake, Outcome, Residue
from negd.nostr.event import Event
from negd.sync.contact import Contact
from negd.sync.ledger import Ledger

_STORED = {Outcome.STORED, Outcome.DUPLICATE}
_OUTDATED = {Outcome.SUPERSEDED, Outcome.DELETED}
_SETTLED = {Outcome.DELETED, Outcome.EXPIRED}
"""Verdicts that stand; a newer version may be deleted, and leave its place to an older one."""


class Arrivals:
    """Hands one peer's events to the intake, and writes down what becomes of each.

    :param moved: told of counts to add to the progress, by :class:`SyncProgress`'s names.
    :param outdated: told of the events that were superseded or deleted.
    """

    def __init__(
        self,
        peer: Contact,
        intake: IIntake,
        ledger: Ledger,
        moved: Callable[..., None],
        outdated: Callable[[list[tuple[Event, Outcome]]], Awaitable[None]] | None = None,
    ) -> None:
        self._peer = peer
        self._intake = intake
        self._ledger = ledger
        self._moved = moved
        self._outdated = outdated

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
                is_settled = verdict.outcome in _SETTLED
                self._ledger.note(event_id, Residue.OURS_REJECTED, text, is_settled=is_settled)
        already = outcomes[Outcome.DUPLICATE]
        stored = outcomes[Outcome.STORED] + already
        self._moved(fetched=stored, already=already, refused=len(verdicts) - stored)
        if self._outdated is not None and outcomes.keys() & _OUTDATED:
            await self._outdated(
                [
                    (event, verdict.outcome)
                    for event, verdict in zip(events.values(), verdicts, strict=True)
                    if verdict.outcome in _OUTDATED
                ]
            )
        await self._ledger.write()
