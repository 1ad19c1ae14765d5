"""permessage-deflate with peers, over real loopback sockets (RFC 7692)."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable
from typing import Any

from autobahn.websocket.compress import PerMessageDeflateOffer, PerMessageDeflateOfferAccept
from twisted.internet import reactor as installed_reactor
from twisted.internet.defer import Deferred
from twisted.trial.unittest import TestCase

from negd.nostr.messages import NegMsg, encode_neg_msg
from negd.settings import PeerSettings, SyncSettings
from negd.testing.listeners import RecordingListener
from negd.testing.relays import Act, LoopbackRelay, Octets, ScriptedRelay, until
from negd.websocket.client import Dialer
from negd.websocket.link import PeerLink
from negd.websocket.terms import terms_of

reactor: Any = installed_reactor

MESSAGES = [b"hello", b"x" * 1_000_000, "häß 🤙".encode() * 100, b""]


def accept(offers: Iterable[Any]) -> PerMessageDeflateOfferAccept | None:
    """Both sides may keep what they have seen for the next message."""
    found = [offer for offer in offers if isinstance(offer, PerMessageDeflateOffer)]
    return PerMessageDeflateOfferAccept(found[0]) if found else None


def forget(offers: Iterable[Any]) -> PerMessageDeflateOfferAccept | None:
    """The client is to compress each message by itself."""
    found = [offer for offer in offers if isinstance(offer, PerMessageDeflateOffer)]
    return PerMessageDeflateOfferAccept(found[0], request_no_context_takeover=True)


def bomb(size: int) -> Octets:
    """A frame of a few kB, marked as compressed, that becomes ``size`` octets."""
    deflate = zlib.compressobj(9, zlib.DEFLATED, -15)
    payload = (deflate.compress(b"x" * size) + deflate.flush(zlib.Z_SYNC_FLUSH))[:-4]
    return Octets(b"\xc1\x7e" + len(payload).to_bytes(2) + payload)


class CompressionTests(TestCase):
    timeout = 20

    async def dial(
        self,
        compression: bool,
        accepting: Callable[[Any], Any] | None,
        script: Callable[[bytes], Iterable[Act]] = lambda text: [text],
        **settings: Any,
    ) -> PeerLink:
        self.relay = relay = ScriptedRelay(reactor, script, compression=accepting)
        await relay.start()
        self.addCleanup(lambda: Deferred.fromCoroutine(relay.stop()))
        terms = terms_of(PeerSettings(url=relay.url, compression=compression))
        dialer = Dialer(reactor, SyncSettings(**settings), terms={relay.url: terms})
        self.listener = RecordingListener()
        link = await dialer.dial(relay.url, self.listener)
        assert isinstance(link, PeerLink)
        self.addCleanup(self.hang_up, link)
        return link

    async def hang_up(self, link: PeerLink) -> None:
        link.close()
        await until(reactor, lambda: self.listener.reasons)

    async def octets_of(self, link: PeerLink) -> tuple[int, int]:
        """Octets sent and received for messages that are echoed."""
        for message in MESSAGES:
            link.send(encode_neg_msg("a", message))
        await until(reactor, lambda: len(self.listener.messages) == len(MESSAGES))
        self.assertEqual(self.listener.messages, [NegMsg("a", message) for message in MESSAGES])
        statistics = link.trafficStats
        return statistics.outgoingOctetsWireLevel, statistics.incomingOctetsWireLevel

    async def test_both_ways_take_fewer_octets(self) -> None:
        for accepting in (accept, forget):
            sent, received = await self.octets_of(await self.dial(True, accepting))
            self.assertLess(max(sent, received), 10_000)

    async def test_it_is_not_offered_unless_it_is_asked_for(self) -> None:
        sent, received = await self.octets_of(await self.dial(False, accept))
        self.assertGreater(min(sent, received), 1_000_000)

    async def test_a_peer_that_does_not_want_it_is_spoken_with_as_ever(self) -> None:
        sent, received = await self.octets_of(await self.dial(True, None))
        self.assertGreater(min(sent, received), 1_000_000)

    async def test_nothing_is_sent_after_a_goodbye(self) -> None:
        link = await self.dial(True, accept)
        link.close()
        link.send(b"too late")
        await until(reactor, lambda: self.listener.reasons)
        self.assertEqual(self.relay.heard, [])

    async def test_negds_own_endpoint_declines(self) -> None:
        relay = LoopbackRelay(reactor)
        await relay.start()
        self.addCleanup(lambda: Deferred.fromCoroutine(relay.stop()))
        terms = terms_of(PeerSettings(url=relay.url, compression=True))
        self.listener = RecordingListener()
        link = await Dialer(reactor, SyncSettings(), terms={relay.url: terms}).dial(
            relay.url, self.listener
        )
        assert isinstance(link, PeerLink)
        self.addCleanup(self.hang_up, link)
        self.assertEqual(link.websocket_extensions_in_use, [])

    async def test_a_message_that_inflates_beyond_the_limit_ends_the_link(self) -> None:
        link = await self.dial(True, accept, lambda _: [bomb(20_000_000)], max_message=10_000)
        link.send(b"x")
        await until(reactor, lambda: self.listener.reasons)
        self.assertIn("10000", self.listener.reasons[0])
        self.assertEqual(self.listener.messages, [])

    async def test_what_cannot_be_inflated_ends_the_link(self) -> None:
        broken = Octets(b"\xc1\x04\xff\xff\xff\xff")
        link = await self.dial(True, accept, lambda _: [broken])
        link.send(b"x")
        await until(reactor, lambda: self.listener.reasons)
        self.assertEqual(self.listener.messages, [])

    async def test_what_was_never_agreed_to_ends_the_link(self) -> None:
        link = await self.dial(False, None, lambda _: [bomb(100)])
        link.send(b"x")
        await until(reactor, lambda: self.listener.reasons)
        self.assertEqual(self.listener.messages, [])
