"""An open link to a peer, what is heard on it, and who we are there (NIP-42)."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from twisted.internet.defer import DeferredLock
from twisted.internet.interfaces import IReactorTime

from negd.interfaces import IPeerDialer, IPeerLink
from negd.nostr.kinds import RELAY_AUTH
from negd.nostr.messages import Ok, encode_auth
from negd.nostr.signing import Signer
from negd.sync.dialogue import Dialogue
from negd.sync.refusals import asks_who_we_are


class Contact:
    """A link and its dialogue.

    :param signer: the key to answer challenges with; None for a node that has none.
    :param patience: seconds a peer may take to answer our answer.
    """

    def __init__(
        self,
        link: IPeerLink,
        dialogue: Dialogue,
        signer: Signer | None,
        clock: IReactorTime,
        patience: float,
    ) -> None:
        self.link = link
        self.dialogue = dialogue
        self._signer = signer
        self._clock = clock
        self._patience = patience
        self._answered: str | None = None
        self._admitted = False
        self._answering = DeferredLock()

    async def admitted_after(self, refusal: str) -> bool:
        """Whether what was refused in these words is worth one more try.

        It is when the peer asked who we are and takes, or took, our answer; a challenge is
        answered once, however many requests were refused for it.

        :raises PeerError: the peer did not answer.
        """
        challenge = self.dialogue.challenge
        if not asks_who_we_are(refusal) or self._signer is None or challenge is None:
            return False
        async with self._answering:
            if challenge != self._answered:
                self._answered = challenge
                self._admitted = await self._answer(self._signer, challenge)
        return self._admitted

    async def _answer(self, signer: Signer, challenge: str) -> bool:
        answer = signer.sign(
            created_at=int(self._clock.seconds()),
            kind=RELAY_AUTH,
            tags=[("relay", self.link.url), ("challenge", challenge)],
        )
        with self.dialogue.oks() as box:
            box.expect(answer.id)
            self.link.send(encode_auth(answer))
            letter = await box.next(self._patience, "answer to AUTH")
        return isinstance(letter, Ok) and letter.accepted


@asynccontextmanager
async def contact(
    dialer: IPeerDialer,
    url: str,
    signer: Signer | None,
    clock: IReactorTime,
    patience: float,
) -> AsyncIterator[Contact]:
    """A contact while the context lasts; the link is closed however that ends.

    :raises PeerError: the peer cannot be reached.
    """
    dialogue = Dialogue(clock)
    link = await dialer.dial(url, dialogue)
    try:
        yield Contact(link, dialogue, signer, clock, patience)
    finally:
        link.close()
