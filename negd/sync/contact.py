"""An open link to a peer, what is heard on it, and who we are there (NIP-42)."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from itertools import count

from twisted.internet.defer import DeferredLock
from twisted.internet.task import deferLater

from negd.interfaces import IPeerLink
from negd.nostr.kinds import RELAY_AUTH
from negd.nostr.messages import Notice, Ok, encode_auth
from negd.nostr.signing import Signer
from negd.sync.dialogue import Dialogue, Mailbox, Silence
from negd.sync.node import Node
from negd.sync.refusals import asks_who_we_are

_MOST_HEARD = 20_000

_CHALLENGE_LATE = 2.0
"""Seconds for which a first challenge is waited for: some relays send it after their refusal."""

_MOST_ANSWERS = 10

PAUSES = (1.0, 2.0, 4.0, 8.0, 16.0)
"""Seconds to let a peer be that asks for patience, before it is asked for the same again."""

_SLOWED_FOR = 60.0
"""Seconds for which a peer counts as slowing us, after it has asked for patience."""


class Contact:
    """A link and its dialogue; made by :func:`get_in_touch`.

    :ivar fault: why the link is given up, where that is the peer's fault; else nothing.
    :ivar tail: where letters to the subscription for new events go, while there is one.
    :ivar tail_refused: the peer's words, while it will not be tailed on this link; else nothing.
    """

    def __init__(self, node: Node, link: IPeerLink, dialogue: Dialogue) -> None:
        self.link = link
        self.dialogue = dialogue
        self.fault = self.tail_refused = ""
        self.tail: Mailbox | None = None
        self._node = node
        self._names = count(1)
        self._answered: str | None = None
        self._admitted = False
        self._has_waited = self._is_untold = False
        self._answering = DeferredLock()
        self._asked_for_patience = ("", 0.0)
        # A plain dict is slow to find its first key where many before it were deleted.
        self._heard: OrderedDict[bytes, None] = OrderedDict()

    def subscription_name(self) -> str:
        """A name that this link has not had: what still comes for an earlier one is not mistaken.

        Some relays take a few characters only (NIP-11, ``max_subid_length``).
        """
        return f"n{next(self._names)}"

    def close(self) -> None:
        """Close the link; what waits for the peer is told that it is lost."""
        self.link.close()

    # --- what need not be told back -------------------------------------------------------------

    def hear(self, ids: Iterable[bytes]) -> None:
        """Remember events that the peer has sent, the latest so many of them."""
        for event_id in ids:
            self._heard[event_id] = None
        while len(self._heard) > _MOST_HEARD:
            self._heard.popitem(last=False)

    def has_told(self, event_id: bytes) -> bool:
        """Whether the peer has sent this event lately."""
        return event_id in self._heard

    # --- patience -------------------------------------------------------------------------------

    async def let_be(self, refusal: str, seconds: float) -> None:
        """Wait for so long, as the peer has asked for patience in these words."""
        clock = self._node.clock
        self._asked_for_patience = (refusal, clock.seconds() + seconds)
        await deferLater(clock, seconds)

    def give_up_tail(self, refusal: str) -> None:
        """Have the tail end for a while, where the peer may take no other request beside it.

        :param refusal: the peer's words, which count as said to the tail.
        """
        if self.tail is not None:
            self.tail.put(Notice(refusal))

    @property
    def slowed_by(self) -> str:
        """The peer's words, where it asked for patience lately; else nothing."""
        text, until = self._asked_for_patience
        return text if self._node.clock.seconds() < until + _SLOWED_FOR else ""

    # --- who we are -----------------------------------------------------------------------------

    async def admitted_after(self, refusal: str) -> bool:
        """Whether what was refused in these words is worth one more try.

        It is when the peer asked who we are and takes, or took, our answer, or says nothing to it;
        a challenge is answered once, however many requests were refused for it.  A peer that
        challenges with every refusal may take the answer to the last only, or one and no other.

        :raises PeerError: the link is lost.
        """
        signer = self._node.signer
        if not asks_who_we_are(refusal) or signer is None:
            return False
        async with self._answering:
            if self.dialogue.challenge is None and not self._has_waited:
                self._has_waited = True
                await deferLater(self._node.clock, _CHALLENGE_LATE)
            await self._answer_the_last(signer)
        return self._admitted

    async def _answer_the_last(self, signer: Signer) -> None:
        """Answer the last challenge, and the next where that was not the last any more."""
        for _ in range(_MOST_ANSWERS):
            challenge = self.dialogue.challenge
            if challenge is None or challenge == self._answered:
                return
            self._answered = challenge
            if await self._answer(signer, challenge):
                self._admitted = True
                return

    async def _answer(self, signer: Signer, challenge: str) -> bool:
        """Answer a challenge; whether the peer takes it, as far as it says so."""
        answer = signer.sign(
            created_at=int(self._node.clock.seconds()),
            kind=RELAY_AUTH,
            tags=[("relay", self.link.url), ("challenge", challenge)],
        )
        with self.dialogue.oks() as box:
            box.expect(answer.id)
            self.link.send(encode_auth(answer))
            await self.link.drained()
            if self._is_untold:
                return True
            try:
                letter = await box.next(self._node.settings.answer, "answer to AUTH")
            except Silence:  # the next try will show; it is not waited for again
                self._is_untold = True
                return True
        return isinstance(letter, Ok) and letter.accepted


async def get_in_touch(node: Node, url: str) -> Contact:
    """A contact over a new link, which is the caller's to close.

    :raises negd.errors.PeerError: the peer cannot be reached.
    """
    dialogue = Dialogue(node.clock)
    return Contact(node, await node.dialer.dial(url, dialogue), dialogue)
