"""Links to peers without sockets: a dialer whose relays live in the same process.

Messages take one turn of the clock each way, as on a real link nothing arrives while its sender
still runs.  :func:`drive` turns a :class:`~twisted.internet.task.Clock` until a coroutine is done.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable, Coroutine, Iterable, Mapping
from typing import Any, Protocol, TypeVar

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import Clock
from zope.interface import implementer

from negd.errors import PeerError
from negd.interfaces import IPeerDialer, IPeerLink, IPeerListener
from negd.nostr.document import RelayDocument
from negd.nostr.messages import InvalidMessage, decode_relay
from negd.settings import EndpointSettings, IntakeSettings, SessionSettings
from negd.storage.memory import MemoryStore
from negd.sync.checking import check_here
from negd.sync.intake import Intake
from negd.sync.offload import inline
from negd.sync.sessions import SessionTable
from negd.websocket.conversation import Backend, Conversation
from negd.websocket.outgoing import IChannel

T = TypeVar("T")

_MOST_TURNS = 100_000


class MemoryPeer(Protocol):
    """The relay at the far end of one link."""

    def connected(self, end: PeerEnd) -> None:
        """The link is open; ``end`` is how to talk back."""

    def received(self, text: bytes) -> None:
        """A message from the client."""

    def lost(self) -> None:
        """The link is gone. Called once."""


class PeerEnd:
    """What a relay holds of a link: the way back to the client."""

    def __init__(self, link: MemoryLink) -> None:
        self._link = link

    def send(self, text: bytes) -> None:
        """Send one message to the client."""
        self._link.deliver(text)

    def close(self, reason: str = "closed by the peer") -> None:
        """End the link; messages that are still under way arrive before."""
        self._link.end(reason)


@implementer(IPeerLink)
class MemoryLink:
    """An :class:`IPeerLink` to a :class:`MemoryPeer`."""

    def __init__(
        self,
        url: str,
        listener: IPeerListener,
        peer: MemoryPeer,
        clock: IReactorTime,
        latency: Callable[[], float],
    ) -> None:
        self.url = url
        self.sent: list[bytes] = []
        self._listener = listener
        self._peer = peer
        self._clock = clock
        self._latency = latency
        self._outbound: deque[bytes] = deque()
        self._inbound: deque[bytes] = deque()
        self._drained: list[Deferred[None]] = []
        self._reason: str | None = None
        self._paused = self._lost = self._due = False
        peer.connected(PeerEnd(self))

    # --- IPeerLink ------------------------------------------------------------------------------

    def send(self, text: bytes) -> None:
        """See :meth:`IPeerLink.send`; ``sent`` keeps what was sent."""
        if self._reason is None:
            self.sent.append(text)
            self._outbound.append(text)
            self._schedule()

    async def drained(self) -> None:
        """See :meth:`IPeerLink.drained`."""
        if self._outbound and not self._lost:
            drained: Deferred[None] = Deferred(lambda gone: self._drained.remove(gone))
            self._drained.append(drained)
            await drained

    def pause(self) -> None:
        """See :meth:`IPeerLink.pause`."""
        self._paused = True

    def resume(self) -> None:
        """See :meth:`IPeerLink.resume`."""
        self._paused = False
        self._schedule()

    def close(self) -> None:
        """See :meth:`IPeerLink.close`."""
        self._paused = False
        self.end("closed")

    # --- the far end ----------------------------------------------------------------------------

    def deliver(self, text: bytes) -> None:
        """Put a message of the peer under way."""
        if self._reason is None:
            self._inbound.append(text)
            self._schedule()

    def end(self, reason: str) -> None:
        """Lose the link after what is under way."""
        if self._reason is None:
            self._reason = reason
            self._schedule()

    # --- the pump -------------------------------------------------------------------------------

    def _schedule(self) -> None:
        if not self._due and not self._lost:
            self._due = True
            self._clock.callLater(self._latency(), self._turn)

    def _turn(self) -> None:
        """Carry over what had been sent, each way, when this turn began."""
        self._due = False
        outbound, self._outbound = self._outbound, deque()
        for text in outbound:
            self._peer.received(text)
        for _ in range(len(self._inbound)):
            if self._paused:
                break
            self._hand_over(self._inbound.popleft())
        if not self._outbound:
            self._tell_drained()
        if self._reason is not None and not self._inbound and not self._outbound:
            self._lose(self._reason)
        elif self._outbound or (self._inbound and not self._paused):
            self._schedule()

    def _hand_over(self, text: bytes) -> None:
        try:
            message = decode_relay(text)
        except InvalidMessage as error:
            self._listener.unreadable(error.text, error.event_id)
        else:
            self._listener.received(message)

    def _lose(self, reason: str) -> None:
        self._lost = True
        self._tell_drained()
        self._peer.lost()
        self._listener.lost(reason)

    def _tell_drained(self) -> None:
        drained, self._drained = self._drained, []
        for waiter in drained:
            waiter.callback(None)


@implementer(IPeerDialer)
class MemoryDialer:
    """An :class:`IPeerDialer` among peers of the same process.

    :param peers: by canonical URL, what makes the peer of a new link, or the error that dialing
        it raises.
    :param latency: seconds that messages take, drawn for each turn of a link.
    :ivar documents: what peers say of themselves, by canonical URL.
    :ivar links: every link that was dialed, in order.
    """

    def __init__(
        self,
        peers: Mapping[str, Callable[[], MemoryPeer] | PeerError],
        clock: IReactorTime,
        latency: Callable[[], float] = lambda: 0.0,
    ) -> None:
        self.peers = dict(peers)
        self.documents: dict[str, RelayDocument] = {}
        self.links: list[MemoryLink] = []
        self._clock = clock
        self.latency = latency

    async def dial(self, url: str, listener: IPeerListener) -> IPeerLink:
        """See :meth:`IPeerDialer.dial`."""
        await _turn(self._clock)
        make = self.peers.get(url, PeerError(f"nobody listens at {url}"))
        if isinstance(make, PeerError):
            raise make
        link = MemoryLink(url, listener, make(), self._clock, self.latency)
        self.links.append(link)
        return link

    async def describe(self, url: str) -> RelayDocument | None:
        """See :meth:`IPeerDialer.describe`."""
        await _turn(self._clock)
        return self.documents.get(url)


class ScriptedPeer:
    """A :class:`MemoryPeer` that answers by a function from a message to answers.

    :ivar heard: every message received, in order.
    :ivar end: the way back, for messages that answer nothing.
    """

    def __init__(self, script: Callable[[bytes], Iterable[bytes]] = lambda _: ()) -> None:
        self.heard: list[bytes] = []
        self.is_lost = False
        self._script = script

    def connected(self, end: PeerEnd) -> None:
        """See :meth:`MemoryPeer.connected`."""
        self.end = end

    def received(self, text: bytes) -> None:
        """See :meth:`MemoryPeer.received`."""
        self.heard.append(text)
        for answer in self._script(text):
            self.end.send(answer)

    def lost(self) -> None:
        """See :meth:`MemoryPeer.lost`."""
        self.is_lost = True


def memory_backend(
    clock: IReactorTime,
    settings: EndpointSettings | None = None,
    store: MemoryStore | None = None,
    sessions: SessionSettings | None = None,
) -> Backend:
    """A whole relay in memory, without threads: real intake and sessions over a memory store."""
    store = store or MemoryStore(clock)
    return Backend(
        Intake(store, IntakeSettings(), check_here),
        store,
        SessionTable(store, sessions or SessionSettings(), clock, inline),
        settings or EndpointSettings(),
        clock,
    )


@implementer(IChannel)
class ConversationPeer:
    """A :class:`MemoryPeer` that is negd itself: one client's conversation with a relay."""

    _count = 0

    def __init__(self, backend: Backend) -> None:
        ConversationPeer._count += 1
        self._conversation = Conversation(f"memory:{self._count}", self, backend)

    def connected(self, end: PeerEnd) -> None:
        """See :meth:`MemoryPeer.connected`."""
        self._end = end

    def received(self, text: bytes) -> None:
        """See :meth:`MemoryPeer.received`."""
        self._conversation.received(text)
        self._conversation.end_of_read()

    def lost(self) -> None:
        """See :meth:`MemoryPeer.lost`."""
        self._conversation.lost()

    def send(self, text: bytes) -> None:
        """See :meth:`IChannel.send`."""
        self._end.send(text)

    def pause(self) -> None:
        """See :meth:`IChannel.pause`; what was sent already is bounded by the test."""

    def resume(self) -> None:
        """See :meth:`IChannel.resume`."""

    def abort(self, reason: str) -> None:
        """See :meth:`IChannel.abort`."""
        self._end.close(reason)


class PagedPeer(ConversationPeer):
    """As :class:`ConversationPeer`, without NIP-77: who wants all of it reads it page by page.

    :ivar largest: events that it shows at a time.
    :ivar asked: how many REQs it was sent.
    """

    largest = 20

    def __init__(self, backend: Backend) -> None:
        super().__init__(backend)
        self.asked = 0

    def received(self, text: bytes) -> None:
        """See :meth:`MemoryPeer.received`."""
        label, name, *rest = json.loads(text)
        if label == "NEG-OPEN":
            self.send(b'["NOTICE","ERROR: bad msg: unknown cmd"]')
            return
        if label == "REQ":
            self.asked += 1
            limits = [{**wanted, "limit": self._most(wanted)} for wanted in rest]
            text = json.dumps([label, name, *limits]).encode()
        super().received(text)

    def _most(self, wanted: dict[str, Any]) -> int:
        return min(self.largest, int(wanted.get("limit", self.largest)))


def _turn(clock: IReactorTime) -> Deferred[None]:
    done: Deferred[None] = Deferred(lambda _: call.cancel())
    call = clock.callLater(0, done.callback, None)
    return done


def settle(clock: Clock) -> None:
    """Turn the clock, without letting time pass, until nothing is due any more."""
    for _ in range(_MOST_TURNS):
        calls = clock.getDelayedCalls()
        if not any(call.getTime() <= clock.seconds() for call in calls):
            return
        clock.advance(0)
    raise AssertionError(f"still busy after {_MOST_TURNS} turns")


def drive(clock: Clock, work: Coroutine[Deferred[Any], Any, T]) -> T:
    """The result of a coroutine that needs turns of the clock, but no time to pass."""
    done = Deferred.fromCoroutine(work)
    settle(clock)
    results: list[Any] = []
    done.addBoth(results.append)
    if not results:
        raise AssertionError("it waits for time to pass, or for ever")
    if hasattr(results[0], "raiseException"):
        results[0].raiseException()
    return results[0]  # type: ignore[no-any-return]
