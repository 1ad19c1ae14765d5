"""One link's conversation, seen from the client: who waits for which of the peer's messages."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypeAlias

from twisted.internet.defer import Deferred, TimeoutError
from twisted.internet.interfaces import IReactorTime
from zope.interface import implementer

from negd.errors import PeerError
from negd.interfaces import IPeerListener
from negd.nostr.messages import (
    Challenge,
    Closed,
    Delivered,
    Eose,
    NegErr,
    NegMsg,
    Notice,
    Ok,
    RelayMessage,
    Unrecognised,
)
from negd.sync.refusals import concerns_negotiation

_MOST_UNREAD = 20_000
"""Messages a peer may pile up in one mailbox before it counts as flooding."""

_MOST_UNREADABLE = 100

Letter: TypeAlias = Delivered | Eose | Closed | Ok | NegMsg | NegErr | Notice


class Silence(PeerError):
    """The peer said nothing for too long."""


class Mailbox:
    """Messages for one who waits for them, in order."""

    def __init__(self, clock: IReactorTime) -> None:
        self._clock = clock
        self._letters: deque[Letter] = deque()
        self._waiter: Deferred[None] | None = None
        self._failure: PeerError | None = None

    def put(self, letter: Letter) -> None:
        """Hand over a message."""
        if len(self._letters) >= _MOST_UNREAD:
            self.fail(PeerError("the peer sends more than it was asked for"))
            return
        self._letters.append(letter)
        self._wake()

    def fail(self, error: PeerError) -> None:
        """Nothing more comes: whoever waits or will wait gets the error."""
        self._failure = error
        self._wake()

    async def next(self, seconds: float, awaited: str) -> Letter:
        """The next message.

        :param awaited: what is waited for, for the error's words.
        :raises Silence: nothing came for so many seconds.
        :raises PeerError: the link is lost.
        """
        if not self._letters and self._failure is None:
            self._waiter = Deferred()
            try:
                await self._waiter.addTimeout(seconds, self._clock)
            except TimeoutError:
                raise Silence(f"no {awaited} for {seconds:g} s") from None
            finally:
                self._waiter = None
        if self._letters:
            return self._letters.popleft()
        assert self._failure is not None
        raise self._failure

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.called:
            self._waiter.callback(None)


@implementer(IPeerListener)
class Dialogue:
    """The listener of one link: sorts messages into the mailboxes of those who wait for them.

    What nobody waits for is dropped: answers after a close, events that were not asked for.

    :ivar challenge: the peer's last one (NIP-42).
    """

    def __init__(self, clock: IReactorTime) -> None:
        self._clock = clock
        self._boxes: dict[str, Mailbox] = {}
        self._oks: Mailbox | None = None
        self._awaited_oks: dict[str, Mailbox] = {}
        self._negotiation: Mailbox | None = None
        self._lost: PeerError | None = None
        self._unreadable = 0
        self.challenge: str | None = None

    @contextmanager
    def subscription(self, name: str) -> Iterator[Mailbox]:
        """The mailbox of a subscription while the context lasts."""
        box = self._boxes[name] = self._box()
        try:
            yield box
        finally:
            del self._boxes[name]

    @contextmanager
    def negotiation(self, name: str) -> Iterator[Mailbox]:
        """As :meth:`subscription`; refusals that name no subscription come here too."""
        with self.subscription(name) as box:
            self._negotiation = box
            try:
                yield box
            finally:
                self._negotiation = None

    @contextmanager
    def ok_for(self, event_id: str) -> Iterator[Mailbox]:
        """The mailbox of the ``OK`` to one event, by its hex id, while the context lasts."""
        box = self._awaited_oks[event_id] = self._box()
        try:
            yield box
        finally:
            del self._awaited_oks[event_id]

    @contextmanager
    def oks(self) -> Iterator[Mailbox]:
        """The mailbox of all other ``OK`` answers while the context lasts."""
        box = self._oks = self._box()
        try:
            yield box
        finally:
            self._oks = None

    def _box(self) -> Mailbox:
        box = Mailbox(self._clock)
        if self._lost is not None:
            box.fail(self._lost)
        return box

    def received(self, message: RelayMessage) -> None:
        """See :meth:`IPeerListener.received`."""
        if isinstance(message, Notice):
            if self._negotiation is not None and concerns_negotiation(message):
                self._negotiation.put(message)
        elif isinstance(message, Ok):
            awaiting = self._awaited_oks.get(message.event_id, self._oks)
            if awaiting is not None:
                awaiting.put(message)
        elif isinstance(message, Challenge):
            self.challenge = message.challenge
        elif isinstance(message, NegErr) and not message.subscription:
            if self._negotiation is not None:
                self._negotiation.put(message)
        elif not isinstance(message, Unrecognised):
            box = self._boxes.get(message.subscription)
            if box is not None:
                box.put(message)

    def unreadable(self, text: str) -> None:
        """See :meth:`IPeerListener.unreadable`. A few are ignored, many end the dialogue."""
        self._unreadable += 1
        if self._unreadable > _MOST_UNREADABLE:
            self.lost(f"the peer keeps sending what cannot be read: {text}")

    def lost(self, reason: str) -> None:
        """See :meth:`IPeerListener.lost`."""
        self._lost = self._lost or PeerError(reason)
        boxes = [*self._boxes.values(), *self._awaited_oks.values()]
        if self._oks is not None:
            boxes.append(self._oks)
        for box in boxes:
            box.fail(self._lost)
