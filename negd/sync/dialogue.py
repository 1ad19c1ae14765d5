"""One link's conversation, seen from the client: who waits for which of the peer's messages."""

from __future__ import annotations

from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeAlias

from twisted.internet.defer import Deferred, TimeoutError
from twisted.internet.interfaces import IReactorTime
from zope.interface import implementer

from negd.errors import PeerError
from negd.interfaces import Fault, IPeerListener
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
from negd.sync.refusals import asks_for_patience, concerns_a_request, concerns_negotiation

_MOST_UNREAD = 20_000
"""Messages a peer may pile up in one mailbox before it counts as flooding."""

_MOST_UNREADABLE = 1000
"""Messages that cannot be read beyond those that can: old relays hold events that are none by
today's rules."""

_MOST_SPOILT = 10_000
"""Of them, events whose faults are remembered."""

_MOST_ENDED = 100
"""Subscriptions remembered after their end: answers to them may still be on their way."""

Collect: TypeAlias = Callable[[Delivered], bool]
Letter: TypeAlias = Delivered | Eose | Closed | Ok | NegMsg | NegErr | Notice


class Silence(PeerError):
    """The peer said nothing for too long."""


class Mailbox:
    """Messages for one who waits for them, in order.

    :param collect: takes events as they come, without waking whoever waits for other messages:
        most of what a peer sends are events. It returns whether that was one to wait for.
    :ivar is_untouched: whether no message has come yet.
    """

    def __init__(self, clock: IReactorTime, collect: Collect | None = None) -> None:
        self._clock = clock
        self._collect = collect
        self._collected = 0
        self.is_untouched = True
        self._letters: deque[Letter] = deque()
        self._waiter: Deferred[None] | None = None
        self._failure: PeerError | None = None

    def put(self, letter: Letter) -> None:
        """Hand over a message; none is taken after a failure."""
        if self._failure is not None:
            return
        self.is_untouched = False
        if self._collect is not None and isinstance(letter, Delivered):
            self._collected += self._collect(letter)
            return
        if len(self._letters) >= _MOST_UNREAD:
            self.fail(PeerError("the peer sends more than it was asked for"))
            return
        self._letters.append(letter)
        self._wake()

    def fail(self, error: PeerError) -> None:
        """Nothing more comes: whoever waits or will wait gets the error."""
        self._failure = error
        self._wake()

    async def next(self, seconds: float | None, awaited: str) -> Letter:
        """The next message.

        :param seconds: how long to wait for it; None for as long as the link lasts.
        :param awaited: what is waited for, for the error's words.
        :raises Silence: nothing came for so many seconds.
        :raises PeerError: the link is lost.
        """
        while not self._letters and self._failure is None:
            before = self._collected
            try:
                await self._letter(seconds)
            except TimeoutError:
                if self._collected == before:
                    raise Silence(f"no {awaited} for {seconds:g} s") from None
        if self._letters:
            return self._letters.popleft()
        assert self._failure is not None
        raise self._failure

    async def _letter(self, seconds: float | None) -> None:
        self._waiter = Deferred()
        if seconds is not None:
            self._waiter.addTimeout(seconds, self._clock)
        try:
            await self._waiter
        finally:
            self._waiter = None

    def ready(self, most: int) -> list[Letter]:
        """Up to ``most`` messages of those that came already."""
        return [self._letters.popleft() for _ in range(min(most, len(self._letters)))]

    def end(self) -> None:
        """Collect no more: who collects holds the mailbox, mostly, and would never be let go."""
        self._collect = None

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.called:
            self._waiter.callback(None)


class OkMailbox(Mailbox):
    """A mailbox that takes the ``OK`` answers to the events it was told of, each once.

    Whoever waits is woken a turn of the reactor later, for all answers that came with one read.
    """

    def __init__(self, clock: IReactorTime) -> None:
        super().__init__(clock)
        self._expected: set[str] = set()
        self._late: set[str] = set()
        self._is_waking = False

    def expect(self, event_id: str) -> None:
        """An event was sent, whose hex id this is."""
        self._expected.add(event_id)

    @property
    def is_expecting(self) -> bool:
        """Whether an answer is due."""
        return bool(self._expected)

    def expect_no_more(self, event_id: str) -> None:
        """Its answer comes too late from now on."""
        self._late.discard(event_id)

    def is_late(self, event_id: str) -> None:
        """Its answer is not waited for any more; it is taken where it comes all the same."""
        self._expected.discard(event_id)
        self._late.add(event_id)

    def offer(self, letter: Ok) -> None:
        """Take an answer, if it is one of those expected."""
        event_id = letter.event_id.lower()
        if event_id in self._expected or event_id in self._late:
            self._expected.discard(event_id)
            self._late.discard(event_id)
            self.put(letter)

    def _wake(self) -> None:
        if self._failure is not None:
            super()._wake()
        elif not self._is_waking:
            self._is_waking = True
            self._clock.callLater(0, self._awake)

    def _awake(self) -> None:
        self._is_waking = False
        super()._wake()


@implementer(IPeerListener)
class Dialogue:
    """The listener of one link: sorts messages into the mailboxes of those who wait for them.

    What nobody waits for is dropped: answers after a close, events that were not asked for.

    :ivar challenge: the peer's last one (NIP-42).
    :ivar faults: what the peer did wrong so far.
    :ivar spoilt: events, by id, of which the peer has sent something that cannot be read.
    """

    def __init__(self, clock: IReactorTime) -> None:
        self._clock = clock
        self._boxes: dict[str, Mailbox] = {}
        self._ok_boxes: list[OkMailbox] = []
        self._negotiation: Mailbox | None = None
        self._lost: PeerError | None = None
        self._end = Mailbox(clock)
        self._ended_lately: deque[str] = deque(maxlen=_MOST_ENDED)
        self.challenge: str | None = None
        self.faults: Counter[Fault] = Counter()
        self.spoilt: OrderedDict[bytes, str] = OrderedDict()
        self._readable = 0
        self._faults_taken: Counter[Fault] = Counter()

    @contextmanager
    def subscription(self, name: str, collect: Collect | None = None) -> Iterator[Mailbox]:
        """The mailbox of a subscription while the context lasts.

        :param collect: where its events go, in place of the mailbox.
        """
        box = self._boxes[name] = Mailbox(self._clock, collect)
        if self._lost is not None:
            box.fail(self._lost)
        try:
            yield box
        finally:
            del self._boxes[name]
            box.end()
            self._ended_lately.append(name)

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
    def oks(self) -> Iterator[OkMailbox]:
        """A mailbox for ``OK`` answers to events of its owner, while the context lasts."""
        box = OkMailbox(self._clock)
        if self._lost is not None:
            box.fail(self._lost)
        self._ok_boxes.append(box)
        try:
            yield box
        finally:
            self._ok_boxes.remove(box)

    def take_faults(self) -> Counter[str]:
        """What the peer did wrong since this was called last, by the words of :class:`Fault`."""
        new = self.faults - self._faults_taken
        self._faults_taken = Counter(self.faults)
        return Counter({fault.value: count for fault, count in new.items()})

    @property
    def awaits_oks(self) -> bool:
        """Whether events were sent and are not answered."""
        return any(box.is_expecting for box in self._ok_boxes)

    @property
    def is_lost(self) -> bool:
        """Whether the link has ended."""
        return self._lost is not None

    async def end(self) -> None:
        """Wait for the end of the link.

        :raises PeerError: it has come, with the reason.
        """
        await self._end.next(None, "")

    def received(self, message: RelayMessage) -> None:
        """See :meth:`IPeerListener.received`."""
        self._readable += 1
        if isinstance(message, Notice):
            self._hear(message)
        elif isinstance(message, Ok):
            for ok_box in self._ok_boxes:
                ok_box.offer(message)
        elif isinstance(message, Challenge):
            self.challenge = message.challenge
        elif isinstance(message, NegErr) and not message.subscription:
            if self._negotiation is not None:
                self._negotiation.put(message)
        elif not isinstance(message, Unrecognised):
            self._deliver(message)

    def _hear(self, notice: Notice) -> None:
        """A notice names nobody: guess from its words whom it answers."""
        if self._negotiation is not None and concerns_negotiation(notice):
            self._negotiation.put(notice)
        elif concerns_a_request(notice.text):
            # It is the last request that was one too many, or one for too much.
            for box in reversed(self._boxes.values()):
                if box.is_untouched and (
                    box is not self._negotiation or asks_for_patience(notice.text)
                ):
                    box.put(notice)
                    return

    def _deliver(self, message: Delivered | Eose | Closed | NegMsg | NegErr) -> None:
        """To whom it is addressed; what was on its way when they left is dropped."""
        box = self._boxes.get(message.subscription)
        if box is not None:
            box.put(message)
        elif isinstance(message, Delivered) and message.subscription not in self._ended_lately:
            self.faults[Fault.UNASKED] += 1

    def unreadable(self, text: str, event_id: str = "") -> None:
        """See :meth:`IPeerListener.unreadable`. Some are ignored, many end the dialogue."""
        self.faults[Fault.UNREADABLE] += 1
        if event_id:
            self.spoilt[bytes.fromhex(event_id)] = text
            if len(self.spoilt) > _MOST_SPOILT:
                self.spoilt.popitem(last=False)
        if self.faults[Fault.UNREADABLE] > _MOST_UNREADABLE + self._readable:
            self.lost(f"the peer keeps sending what cannot be read: {text}")

    def lost(self, reason: str) -> None:
        """See :meth:`IPeerListener.lost`."""
        self._lost = self._lost or PeerError(reason)
        for box in (*self._boxes.values(), *self._ok_boxes, self._end):
            box.fail(self._lost)
