"""Links held to a rate, under a Clock over memory, and once over real sockets."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Callable, Iterator
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet import reactor as installed_reactor
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.trial.unittest import TestCase
from txaio.tx import config as txaio_config
from zope.interface.verify import verifyObject

from negd.interfaces import IPeerLink
from negd.nostr.messages import Notice, encode_notice
from negd.settings import PeerSettings, SyncSettings
from negd.testing.listeners import RecordingListener
from negd.testing.relays import ScriptedRelay, until
from negd.websocket.client import Dialer, _LinkFactory
from negd.websocket.limited import LimitedLink, Throttle
from negd.websocket.link import PeerLink
from negd.websocket.terms import terms_of

reactor: Any = installed_reactor
URL = "ws://relay.example"
RATE = 10_000


class Transport(StringTransport):
    producer: Any

    def setTcpNoDelay(self, enabled: bool) -> None:
        pass


class Connected:
    """A link whose handshake is done, to a relay that the test plays."""

    def __init__(self, clock: Clock, rate: int = RATE) -> None:
        self.listener = RecordingListener()
        terms = terms_of(PeerSettings(url=URL, max_rate=rate))
        factory = _LinkFactory(URL, self.listener, SyncSettings(), terms, clock)
        self.transport = Transport()
        self.transport.registerProducer(object(), True)  # real transports mind none missing
        self.link = factory.buildProtocol(None)
        self.link.makeConnection(self.transport)
        found = re.search(rb"Sec-WebSocket-Key: (\S+)", self.transport.value())
        assert found is not None
        accept = hashlib.sha1(found[1] + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest()
        self.link.dataReceived(
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Accept: " + base64.b64encode(accept) + b"\r\n\r\n"
        )
        self.transport.clear()
        clock.advance(1)  # the handshake is paid for

    def deliver(self, text: str) -> None:
        """A NOTICE of the relay, some bytes longer than its text."""
        payload = encode_notice(text)
        self.link.dataReceived(b"\x81\x7e" + len(payload).to_bytes(2) + payload)

    def sent(self) -> list[bytes]:
        """The messages sent since the last call, unmasked."""
        data, messages = self.transport.value(), []
        self.transport.clear()
        while data:
            size, start = data[1] & 0x7F, 2
            if size == 126:
                size, start = int.from_bytes(data[2:4]), 4
            mask, payload = data[start : start + 4], data[start + 4 : start + 4 + size]
            messages.append(bytes(b ^ mask[i % 4] for i, b in enumerate(payload)))
            data = data[start + 4 + size :]
        return messages

    @property
    def is_reading(self) -> bool:
        return self.transport.producerState == "producing"


@pytest.fixture
def clock() -> Iterator[Clock]:
    """A clock that autobahn's timers follow too."""
    clock, timers = Clock(), cast(Any, txaio_config)
    installed, timers.loop = timers.loop, clock
    yield clock
    timers.loop = installed


def rounds(clock: Clock, work: Callable[[], None], seconds: int, step: float = 0.1) -> None:
    for _ in range(round(seconds / step)):
        clock.advance(step)
        work()


# --- the bucket -----------------------------------------------------------------------------------


@given(
    st.lists(st.tuples(st.integers(0, 5000), st.floats(0, 3)), max_size=60),
    st.integers(100, 20_000),
)
def test_no_more_passes_than_the_rate_allows(traffic: list[tuple[int, float]], rate: int) -> None:
    clock, passed, gone = Clock(), 0, 0
    throttle = Throttle(rate, clock, lambda: None)
    for amount, pause in traffic:
        if not throttle.is_waiting:
            throttle.spend(amount)
            passed += amount
            gone = max(gone, amount)
        assert passed <= rate * (clock.seconds() + 1) + gone + 1
        clock.advance(pause)
    clock.advance(gone / rate + 1)
    assert not throttle.is_waiting
    assert not clock.getDelayedCalls()


def test_what_passes_while_waiting_is_waited_for_too() -> None:
    clock, went_on = Clock(), []
    throttle = Throttle(1000, clock, lambda: went_on.append(clock.seconds()))
    throttle.spend(2000)
    throttle.spend(3000)
    clock.pump([0.25] * 40)
    assert went_on == [4.0]


# --- the link -------------------------------------------------------------------------------------


def test_without_a_rate_a_link_is_what_it_was(clock: Clock) -> None:
    assert type(Connected(clock, 0).link) is PeerLink
    limited = Connected(clock).link
    assert isinstance(limited, LimitedLink)
    verifyObject(IPeerLink, limited)


def test_messages_are_sent_at_the_rate_and_in_order(clock: Clock) -> None:
    peer = Connected(clock)
    texts = [b"%04d" % n + b"x" * 996 for n in range(100)]
    for text in texts:
        peer.link.send(text)
    sent = peer.sent()
    assert 10 <= len(sent) <= 11  # a second's worth at once
    amounts: list[int] = []

    def note() -> None:
        sent.extend(came := peer.sent())
        amounts.append(sum(map(len, came)))

    rounds(clock, note, 10)
    assert sent == texts
    assert max(sum(amounts[n : n + 10]) for n in range(90)) <= RATE + 1000
    assert min(sum(amounts[n : n + 10]) for n in range(70)) >= RATE - 1000


def test_drained_waits_for_the_line(clock: Clock) -> None:
    peer = Connected(clock)
    peer.link.send(b"x" * 15_000)
    assert Deferred.fromCoroutine(peer.link.drained()).called
    peer.link.send(b"y" * 15_000)
    drained = Deferred.fromCoroutine(peer.link.drained())
    peer.transport.producer.pauseProducing()
    clock.advance(1)
    assert len(peer.sent()) == 2
    assert not drained.called  # as the transport's buffer is full
    peer.transport.producer.resumeProducing()
    assert drained.called


def test_reading_pauses_until_it_is_paid_for(clock: Clock) -> None:
    peer = Connected(clock)
    peer.deliver("x" * 40_000)
    assert len(peer.listener.messages) == 1
    assert not peer.is_reading
    clock.advance(2.9)
    assert not peer.is_reading
    clock.advance(0.2)
    assert peer.is_reading
    peer.deliver("x" * 1000)
    assert len(peer.listener.messages) == 2


def test_who_paused_reading_is_heeded_before_the_rate(clock: Clock) -> None:
    peer = Connected(clock)
    peer.deliver("x" * 40_000)
    peer.link.pause()
    clock.advance(10)
    assert not peer.is_reading
    peer.link.resume()
    assert peer.is_reading
    peer.deliver("x" * 40_000)
    peer.link.resume()
    assert not peer.is_reading
    clock.advance(3.1)
    assert peer.is_reading


def test_each_way_has_the_rate_for_itself(clock: Clock) -> None:
    peer = Connected(clock)
    peer.link.send(b"x" * 40_000)
    assert peer.is_reading
    peer.deliver("x" * 5000)
    assert peer.is_reading


def test_closing_drops_the_line_and_reads_the_goodbye(clock: Clock) -> None:
    peer = Connected(clock)
    peer.deliver("x" * 40_000)
    for _ in range(10):
        peer.link.send(b"x" * 5000)
    drained = Deferred.fromCoroutine(peer.link.drained())
    peer.sent()
    peer.link.close()
    peer.link.send(b"too late")
    assert peer.sent() == [b"\x03\xe8"]
    assert peer.is_reading
    peer.link.dataReceived(b"\x88\x02\x03\xe8")
    peer.link.connectionLost()
    assert drained.called
    assert peer.listener.reasons == ["closed by us"]
    clock.advance(100)
    assert peer.sent() == []


def test_a_lost_link_leaves_nothing_behind(clock: Clock) -> None:
    peer = Connected(clock)
    peer.deliver("x" * 40_000)
    peer.link.send(b"x" * 15_000)
    peer.link.send(b"x" * 15_000)
    drained = Deferred.fromCoroutine(peer.link.drained())
    peer.link.connectionLost()
    assert drained.called
    assert not clock.getDelayedCalls()


class RealTests(TestCase):
    timeout = 20

    async def test_over_real_sockets(self) -> None:
        relay = ScriptedRelay(reactor, lambda text: [text])
        await relay.start()
        self.addCleanup(lambda: Deferred.fromCoroutine(relay.stop()))
        terms = terms_of(PeerSettings(url=relay.url, max_rate=50_000))
        listener = RecordingListener()
        dialer = Dialer(reactor, SyncSettings(), terms={relay.url: terms})
        link = await dialer.dial(relay.url, listener)
        began = reactor.seconds()
        for n in range(100):
            link.send(encode_notice(f"{n:<1000}"))
        await link.drained()
        assert reactor.seconds() - began > 0.9
        await until(reactor, lambda: len(listener.messages) == 100)
        assert listener.messages == [Notice(f"{n:<200}") for n in range(100)]
        link.close()
        await until(reactor, lambda: listener.reasons)
