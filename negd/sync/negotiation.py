"""Reconciling with a peer (NIP-77): the initiator's side over a link."""

from __future__ import annotations

from collections.abc import Callable

from negd.errors import PeerError
from negd.interfaces import IPeerLink
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
from negd.sync.dialogue import Dialogue, Letter, Mailbox
from negd.sync.offload import Offload

_SUBSCRIPTION = "negd"

_MOST_IDLE_ROUNDS = 1000
"""Rounds without a new difference after which a peer leads us nowhere."""


async def negotiate(
    dialogue: Dialogue,
    link: IPeerLink,
    wanted: Filter,
    records: RecordSet,
    settings: SyncSettings,
    offload: Offload,
    found: Callable[[Step], int],
) -> None:
    """Reconcile to the end.

    :param records: what we hold of ``wanted``.
    :param found: told of each round's step; returns how many of its ids were new.
    :raises PeerError: the peer refused, broke off, fell silent, or goes on for ever.
    :raises negd.errors.ProtocolViolation: its message cannot be read.
    """
    initiator = Initiator(records, settings.frame_limit)
    opening = await offload(initiator.initiate)
    with dialogue.negotiation(_SUBSCRIPTION) as box:
        link.send(encode_neg_open(_SUBSCRIPTION, wanted, opening))
        answer = await _answer(box, settings.first_answer, "answer to NEG-OPEN")
        idle = 0
        while True:
            step: Step = await offload(initiator.reconcile, answer)
            idle = 0 if found(step) else idle + 1
            if step.reply is None:
                link.send(encode_neg_close(_SUBSCRIPTION))
                return
            if idle > _MOST_IDLE_ROUNDS:
                link.send(encode_neg_close(_SUBSCRIPTION))
                raise PeerError(f"no new difference in {idle} rounds of reconciliation")
            link.send(encode_neg_msg(_SUBSCRIPTION, step.reply))
            answer = await _answer(box, settings.answer, "answer to NEG-MSG")


async def _answer(box: Mailbox, seconds: float, awaited: str) -> bytes:
    letter: Letter = await box.next(seconds, awaited)
    if isinstance(letter, NegMsg):
        return letter.message
    if isinstance(letter, NegErr):
        limit = "" if letter.limit is None else f" (it takes {letter.limit} records)"
        raise PeerError(f"the peer refused to reconcile: {letter.text or 'NEG-ERR'}{limit}")
    if isinstance(letter, Notice | Closed):
        raise PeerError(f"the peer does not reconcile: {letter.text or 'CLOSED'}")
    raise PeerError(f"the peer answered NEG-OPEN with {type(letter).__name__.upper()}")
