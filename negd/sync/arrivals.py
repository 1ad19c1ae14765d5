"""Events that a peer sent, on their way into our store."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping

from twisted.internet.defer import Deferred

from negd.interfaces import Fault, Outcome, Residue, Verdict
from negd.nostr.event import Event
from negd.sync.contact import Contact
from negd.sync.ledger import Ledger
from negd.sync.node import Node
from negd.sync.rejoinders import rejoinders
from negd.sync.together import seen_through

_STORED = {Outcome.STORED, Outcome.DUPLICATE}
_SETTLED = {Outcome.DELETED, Outcome.EXPIRED}
"""Verdicts that stand; a newer version may be deleted, and leave its place to an older one."""


class Arrivals:
    """Hands one peer's events to the intake, and writes down what becomes of each.

    :param moved: told of counts to add to the progress, by :class:`SyncProgress`'s names.
    :param outdated: told of our ids because of which an event was superseded or deleted.
    """

    def __init__(
        self,
        peer: Contact,
        node: Node,
        ledger: Ledger,
        moved: Callable[..., None],
        outdated: Callable[[list[bytes]], None] | None = None,
    ) -> None:
        self._peer = peer
        self._store = node.store
        self._intake = node.intake
        self._ledger = ledger
        self._moved = moved
        self._outdated = outdated

    async def take(self, events: Mapping[bytes, Event]) -> None:
        """Store events, by id; returns when they are.

        What was handed to the intake is stored whatever becomes of the link: being cancelled waits
        for the verdicts, so that they are counted.

        :raises negd.errors.StorageError: they could not be stored.
        """
        if events:
            self._peer.hear(events)
            await seen_through(Deferred.fromCoroutine(self._store_all(events)))

    async def _store_all(self, events: Mapping[bytes, Event]) -> None:
        verdicts = await self._intake.submit(list(events.values()))
        outcomes = Counter(verdict.outcome for verdict in verdicts)
        already = outcomes[Outcome.DUPLICATE]
        stored = outcomes[Outcome.STORED] + already
        self._moved(fetched=stored, already=already, refused=len(verdicts) - stored)
        self._peer.dialogue.faults[Fault.INVALID] += outcomes[Outcome.INVALID]
        for event, verdict in zip(events.values(), verdicts, strict=True):
            if verdict.outcome in _STORED:
                self._ledger.settle(event.id_bytes)
            else:
                await self._explain(event, verdict)
        await self._ledger.write()

    async def _explain(self, event: Event, verdict: Verdict) -> None:
        """Note why an event is refused; whoever is to be told of it learns what it lost to."""
        outcome, ours = verdict.outcome, list[bytes]()
        is_superseded = outcome is Outcome.SUPERSEDED
        if self._outdated is not None or (is_superseded and self._ledger.is_kept):
            ours = await rejoinders(self._store, event, outcome)
        if self._outdated is not None and ours:
            self._outdated(ours)
        self._ledger.note(
            event.id_bytes,
            Residue.OURS_REJECTED,
            verdict.text or outcome.value,
            is_settled=outcome in _SETTLED,
            lost_to=ours[0] if is_superseded and ours else b"",
        )
