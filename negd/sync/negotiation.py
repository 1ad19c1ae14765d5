"""Reconciling with a peer (NIP-77): the initiator's side over a link."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from negd.errors import NegdError, PeerError, ProtocolViolation
from negd.interfaces import Fault
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
from negd.reconcile import SMALLEST_FRAME_LIMIT, Initiator, RecordSet, Step
from negd.sync.contact import PAUSES, Contact
from negd.sync.dialogue import Letter, Mailbox, Silence
from negd.sync.node import Node
from negd.sync.refusals import (
    FrameTooLarge,
    NoReconciliation,
    Postponed,
    TooManyRecords,
    TooMuch,
    is_about_a_frame,
    is_ambiguous,
    refusal_of,
)
from negd.sync.windows import Window, split, whole

_MOST_IDLE_ROUNDS = 1000
"""Rounds without a new difference after which a peer leads us nowhere."""

_MOST_SPLITS = 1000
"""Windows cut into smaller ones in one negotiation."""

_MOST_ADMISSIONS = 2
"""NEG-OPENs refused for who we are that are sent again after our answer to a challenge."""

_SECOND_THOUGHT = 2.0
"""Seconds for which an answer is waited for after a notice, which names nobody."""

_MOST_HELD_UP = 60.0
"""Seconds of ours between two messages after which a peer may have forgotten what it was at."""


class HeldUp(NegdError):
    """The differences found wait for so long that the rest is better looked for anew."""


class Negotiation:
    """Finds the differences with one peer over one link.

    :param limit: the largest set that the peer is known to take; None where none is known.
    :param frame: bytes of a message at most.
    :param is_able: whether the peer is known to reconcile, from other times.
    :param found: told of each round's step; returns how many of its ids were new, when there is
        room for more. It may raise BudgetSpent, which ends the negotiation.
    :ivar limit: as given, or as the peer said since.
    :ivar frame: as given, or as much less as the peer wanted.
    :ivar has_begun: whether the peer has answered, so that it does reconcile.
    :ivar left: windows that the peer finds too large and that are not cut any further, newest
        first.
    """

    def __init__(
        self,
        peer: Contact,
        node: Node,
        limit: int | None,
        frame: int,
        is_able: bool,
        found: Callable[[Step], Awaitable[int]],
    ) -> None:
        self._peer = peer
        self._dialogue = peer.dialogue
        self._link = peer.link
        self._settings = node.settings
        self._clock = node.clock
        self._offload = node.offload
        self.limit = limit
        self.frame = frame
        self._is_able = is_able
        self._found = found
        self._pauses = iter(PAUSES)
        self._admissions = 0
        self.has_begun = False
        self.left: list[Window] = []

    async def run(self, wanted: Filter, records: RecordSet) -> None:
        """Reconcile to the end, in windows of time where the peer finds the whole too large.

        :param records: what we hold of ``wanted``.
        :raises HeldUp: ``found`` took long; what is left is to be negotiated with new records.
        :raises NoReconciliation: the peer says so, says nothing, or nothing that can be read.
        :raises PeerError: the peer broke off, fell silent later, or goes on for ever.
        :raises ProtocolViolation: a later message of it cannot be read.
        """
        pending = [whole(wanted)]
        if self.limit is not None and len(records) > self.limit and wanted.limit is None:
            pending = self._split(pending[0], records) or pending
        splits, self.left = 0, []
        while pending:
            window = pending.pop()
            ours = records.window(window.since, window.until)
            try:
                await self._reconcile(window.of(wanted), ours)
            except Postponed as refusal:
                await self._wait_or_be_admitted(refusal)
                pending.append(window)
            except TooManyRecords as refusal:
                self._pauses = iter(PAUSES)
                self.limit = refusal.limit or self.limit
                parts = self._split(window, ours) if wanted.limit is None else []
                splits += 1
                if parts and splits <= _MOST_SPLITS:
                    pending.extend(parts)
                    continue
                if not self.has_begun:  # it takes nothing, however small
                    raise NoReconciliation(refusal.text, wanted.limit is None) from None
                self.left.append(window)
                if splits > _MOST_SPLITS:
                    self.left += reversed(pending)
                    return
            except FrameTooLarge as refusal:
                if not self._lessen_frame(refusal):
                    raise NoReconciliation(refusal.text) from None
                pending.append(window)
            except PeerError as error:
                self._lessen_frame(error)  # where the link was lost over one
                raise
            else:
                self._pauses = iter(PAUSES)

    async def _wait_or_be_admitted(self, refusal: Postponed) -> None:
        """Do what may make the peer reconcile after it would not; only so often.

        :raises NoReconciliation: it is not to be expected any more this time.
        """
        if isinstance(refusal, TooMuch):
            pause = next(self._pauses, None)
            if pause is not None:
                await self._peer.let_be(refusal.said, pause)
                return
        elif self._admissions < _MOST_ADMISSIONS:
            self._admissions += 1
            if await self._peer.admitted_after(refusal.said):
                return
        raise NoReconciliation(refusal.text, is_lasting=False) from None

    def _lessen_frame(self, error: PeerError) -> bool:
        """Whether the peer found a message too large, and smaller ones are possible."""
        if not is_about_a_frame(error.text) or self.frame <= SMALLEST_FRAME_LIMIT:
            return False
        self.frame = max(SMALLEST_FRAME_LIMIT, self.frame // 2)
        return True

    def _split(self, window: Window, ours: RecordSet) -> list[Window]:
        return split(window, ours, self.limit, int(self._clock.seconds()))

    async def _reconcile(self, wanted: Filter, records: RecordSet) -> None:
        name = self._peer.subscription_name()
        initiator = Initiator(records, self.frame)
        opening = await self._offload(initiator.initiate)
        with self._dialogue.negotiation(name) as box:
            self._link.send(encode_neg_open(name, wanted, opening))
            try:
                await self._exchange(name, initiator, box)
            except _Refused as refused:
                raise refusal_of(refused.answer, self.has_begun, self._is_able) from None
            except ProtocolViolation as error:
                self._dialogue.faults[Fault.UNREADABLE] += 1
                if self.has_begun:
                    raise
                raise NoReconciliation(f"its answer cannot be read: {error.text}") from None
            except BaseException:
                self._link.send(encode_neg_close(name))
                raise
            self._link.send(encode_neg_close(name))

    async def _exchange(self, name: str, initiator: Initiator, box: Mailbox) -> None:
        """Messages to and fro, until nothing is left to ask."""
        await self._link.drained()  # the peer cannot answer what has not left yet
        try:
            answer = await self._answer(box, self._settings.first_answer, "answer to NEG-OPEN")
        except Silence as silence:
            raise NoReconciliation(silence.text) from None
        idle = 0
        while True:
            step: Step = await self._offload(initiator.reconcile, answer)
            self.has_begun = True
            began = self._clock.seconds()
            idle = 0 if await self._found(step) else idle + 1
            if step.reply is None:
                return
            if idle > _MOST_IDLE_ROUNDS:
                raise PeerError(f"no new difference in {idle} rounds of reconciliation")
            if self._clock.seconds() - began > _MOST_HELD_UP:
                raise HeldUp("the differences found had to wait")
            self._link.send(encode_neg_msg(name, step.reply))
            await self._link.drained()
            answer = await self._answer(box, self._settings.answer, "answer to NEG-MSG")

    async def _answer(self, box: Mailbox, seconds: float, awaited: str) -> bytes:
        """The next message, also where notices came before that are about else."""
        doubtful: _Refused | None = None
        ends = self._clock.seconds() + seconds
        while True:
            try:
                return await _answer(box, max(0, ends - self._clock.seconds()), awaited)
            except _Refused as refused:
                if not (isinstance(refused.answer, Notice) and is_ambiguous(refused.answer)):
                    raise
                doubtful = doubtful or refused
                if not self._dialogue.awaits_oks:  # or else it may be about an event
                    ends = min(ends, self._clock.seconds() + _SECOND_THOUGHT)
            except Silence:
                if doubtful is None:
                    raise
                raise doubtful from None


class _Refused(Exception):
    """The peer has ended the negotiation."""

    def __init__(self, answer: NegErr | Closed | Notice) -> None:
        super().__init__(answer)
        self.answer = answer


async def _answer(box: Mailbox, seconds: float, awaited: str) -> bytes:
    letter: Letter = await box.next(seconds, awaited)
    if isinstance(letter, NegMsg):
        return letter.message
    if isinstance(letter, NegErr | Closed | Notice):
        raise _Refused(letter)
    raise PeerError(f"the peer answered NEG-OPEN with {type(letter).__name__.upper()}")
