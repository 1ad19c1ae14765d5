"""Reconciling with a peer (NIP-77): the initiator's side over a link."""

from __future__ import annotations

from collections.abc import Callable
from itertools import count

from twisted.internet.interfaces import IReactorTime

from negd.errors import PeerError
from negd.nostr.filter import Filter
from negd.nostr.messages import (
    Closed,
    NegErr,
    NegMsg,
    Notice,
    encode_neg_close,
    encode_neg_msg,
    encode_neg_open,
)
from negd.reconcile import Initiator, RecordSet, Step
from negd.settings import SyncSettings
from negd.sync.budget import BudgetSpent
from negd.sync.contact import Contact
from negd.sync.dialogue import Letter, Mailbox, Silence
from negd.sync.offload import Offload
from negd.sync.refusals import AuthRequired, NoReconciliation, TooManyRecords, refusal_of
from negd.sync.windows import Window, split, whole

_MOST_IDLE_ROUNDS = 1000
"""Rounds without a new difference after which a peer leads us nowhere."""

_MOST_SPLITS = 1000
"""Windows cut into smaller ones in one negotiation."""


class Negotiation:
    """Finds the differences with one peer over one link.

    :param limit: the largest set that the peer is known to take; None where none is known.
    :param found: told of each round's step; returns how many of its ids were new. It may raise
        BudgetSpent, which ends the negotiation.
    :ivar limit: as given, or as the peer said since.
    """

    def __init__(
        self,
        peer: Contact,
        settings: SyncSettings,
        clock: IReactorTime,
        offload: Offload,
        limit: int | None,
        found: Callable[[Step], int],
    ) -> None:
        self._peer = peer
        self._dialogue = peer.dialogue
        self._link = peer.link
        self._settings = settings
        self._clock = clock
        self._offload = offload
        self.limit = limit
        self._found = found
        self._numbers = count(1)

    async def run(self, wanted: Filter, records: RecordSet) -> None:
        """Reconcile to the end, in windows of time where the peer finds the whole too large.

        :param records: what we hold of ``wanted``.
        :raises NoReconciliation: the peer says so, or says nothing.
        :raises PeerError: the peer refused, broke off, fell silent later, or goes on for ever.
        :raises negd.errors.ProtocolViolation: its message cannot be read.
        """
        pending = [whole(wanted)]
        if self.limit is not None and len(records) > self.limit and wanted.limit is None:
            pending = self._split(pending[0], records) or pending
        splits = 0
        admitted = False
        while pending:
            window = pending.pop()
            ours = records.window(window.since, window.until)
            try:
                await self._reconcile(window.of(wanted), ours)
            except AuthRequired as refusal:
                if admitted or not await self._peer.admitted_after(refusal.said):
                    raise
                admitted = True
                pending.append(window)
            except TooManyRecords as refusal:
                self.limit = refusal.limit or self.limit
                parts = self._split(window, ours)
                splits += 1
                if wanted.limit is not None or not parts or splits > _MOST_SPLITS:
                    raise
                pending.extend(parts)

    def _split(self, window: Window, ours: RecordSet) -> list[Window]:
        return split(window, ours, self.limit, int(self._clock.seconds()))

    async def _reconcile(self, wanted: Filter, records: RecordSet) -> None:
        name = f"negd-neg-{next(self._numbers)}"
        initiator = Initiator(records, self._settings.frame_limit)
        opening = await self._offload(initiator.initiate)
        with self._dialogue.negotiation(name) as box:
            self._link.send(encode_neg_open(name, wanted, opening))
            await self._link.drained()  # the peer cannot answer what has not left yet
            try:
                answer = await _answer(box, self._settings.first_answer, "answer to NEG-OPEN")
            except Silence as silence:
                raise NoReconciliation(silence.text) from None
            idle = 0
            while True:
                step: Step = await self._offload(initiator.reconcile, answer)
                try:
                    idle = 0 if self._found(step) else idle + 1
                except BudgetSpent:
                    self._link.send(encode_neg_close(name))
                    raise
                if step.reply is None or idle > _MOST_IDLE_ROUNDS:
                    self._link.send(encode_neg_close(name))
                if step.reply is None:
                    return
                if idle > _MOST_IDLE_ROUNDS:
                    raise PeerError(f"no new difference in {idle} rounds of reconciliation")
                self._link.send(encode_neg_msg(name, step.reply))
                await self._link.drained()
                answer = await _answer(box, self._settings.answer, "answer to NEG-MSG")


async def _answer(box: Mailbox, seconds: float, awaited: str) -> bytes:
    letter: Letter = await box.next(seconds, awaited)
    if isinstance(letter, NegMsg):
        return letter.message
    if isinstance(letter, NegErr | Closed | Notice):
        raise refusal_of(letter)
    raise PeerError(f"the peer answered NEG-OPEN with {type(letter).__name__.upper()}")
