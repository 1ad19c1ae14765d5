"""Peers that are dialed at public addresses only."""

from __future__ import annotations

from typing import Any

from twisted.internet import reactor as installed_reactor
from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import (
    IHostnameResolver,
    IHostResolution,
    IReactorPluggableNameResolver,
)
from twisted.internet.testing import MemoryReactorClock
from twisted.trial.unittest import SynchronousTestCase, TestCase
from zope.interface import implementer

from negd.errors import PeerError
from negd.settings import PeerSettings, SyncSettings
from negd.testing.listeners import RecordingListener
from negd.testing.proxies import LoopbackProxy
from negd.testing.relays import ScriptedRelay
from negd.websocket.client import Dialer
from negd.websocket.terms import terms_of

reactor: Any = installed_reactor
PUBLIC_ONLY = SyncSettings(private_targets=False)


@implementer(IHostnameResolver, IHostResolution)
class Names:
    """Answers every name with the same addresses.

    :ivar asked: the names.
    """

    name = ""

    def __init__(self, addresses: list[str]) -> None:
        self.asked: list[str] = []
        self._addresses = addresses

    def cancel(self) -> None:
        raise NotImplementedError

    def resolveHostName(
        self,
        receiver: Any,
        name: str,
        portNumber: int = 0,
        addressTypes: Any = None,
        transportSemantics: str = "TCP",
    ) -> Any:
        self.asked.append(name)
        receiver.resolutionBegan(self)
        for address in self._addresses:
            kind = IPv6Address if ":" in address else IPv4Address
            receiver.addressResolved(kind("TCP", address, portNumber))
        receiver.resolutionComplete()
        return self


@implementer(IReactorPluggableNameResolver)
class FakeReactor(MemoryReactorClock):
    """A reactor without sockets, and with these addresses for every name."""

    def __init__(self, *addresses: str) -> None:
        super().__init__()
        self.nameResolver: Any = Names(list(addresses))

    def installNameResolver(self, resolver: Any) -> Any:
        raise NotImplementedError


class PublicTests(SynchronousTestCase):
    def dial(
        self, fake: FakeReactor, url: str, settings: SyncSettings = PUBLIC_ONLY
    ) -> Deferred[Any]:
        return Deferred.fromCoroutine(Dialer(fake, settings).dial(url, RecordingListener()))

    def refusal(self, fake: FakeReactor, url: str) -> str:
        error = self.failureResultOf(self.dial(fake, url), PeerError).value
        self.assertEqual(fake.tcpClients, [])
        return str(error)

    def connected(self, fake: FakeReactor) -> list[str]:
        """The addresses that a dial has tried, each for as long as it may take."""
        fake.pump([0.5] * 10)
        return [client[0] for client in fake.tcpClients]

    def test_a_public_address_is_dialed(self) -> None:
        fake = FakeReactor("8.8.8.8")
        dial = self.dial(fake, "ws://relay.example")
        self.assertEqual(self.connected(fake), ["8.8.8.8"])
        dial.cancel()
        self.failureResultOf(dial, CancelledError)

    def test_a_private_address_is_refused_before_anything_is_sent(self) -> None:
        for url in ("ws://127.0.0.1:7777", "wss://[fe80::1]", "ws://localhost", "ws://10.0.0.1"):
            fake = FakeReactor("8.8.8.8")
            said = self.refusal(fake, url)
            self.assertIn("is a private address, which private_targets in [sync] forbids", said)
            self.assertEqual(fake.nameResolver.asked, [])

    def test_a_name_that_stands_for_private_addresses_is_refused(self) -> None:
        for url in ("ws://relay.example", "wss://127.1", "ws://0x7f000001", "ws://2130706433"):
            said = self.refusal(FakeReactor("127.0.0.1", "::1"), url)
            self.assertIn(
                "is at a private address (127.0.0.1), which private_targets in [sync] forbids", said
            )

    def test_a_name_without_address_is_said_so(self) -> None:
        self.assertIn("no address found", self.refusal(FakeReactor(), "ws://relay.example"))

    def test_of_several_addresses_the_public_ones_are_used(self) -> None:
        fake = FakeReactor("10.0.0.1", "8.8.8.8", "::1", "2606:4700::1111")
        dial = self.dial(fake, "wss://relay.example")
        self.assertEqual(self.connected(fake), ["8.8.8.8", "2606:4700::1111"])
        dial.cancel()
        self.failureResultOf(dial, CancelledError)

    def test_the_relays_document_is_not_asked_for_either(self) -> None:
        for url in ("ws://127.0.0.1:7777", "ws://relay.example"):
            fake = FakeReactor("127.0.0.1")
            asking = Deferred.fromCoroutine(Dialer(fake, PUBLIC_ONLY).describe(url))
            self.assertIsNone(self.successResultOf(asking))
            self.assertEqual(fake.tcpClients, [])

    def test_every_address_is_dialed_where_that_is_allowed(self) -> None:
        fake = FakeReactor("127.0.0.1", "8.8.8.8")
        dial = self.dial(fake, "ws://relay.example", SyncSettings())
        self.assertEqual(self.connected(fake), ["127.0.0.1", "8.8.8.8"])
        dial.cancel()
        self.failureResultOf(dial, CancelledError)


class PublicThroughProxyTests(TestCase):
    timeout = 20

    async def test_a_proxy_may_be_private_and_looks_names_up_itself(self) -> None:
        relay = ScriptedRelay(reactor)
        await relay.start()
        self.addCleanup(lambda: Deferred.fromCoroutine(relay.stop()))
        proxy = LoopbackProxy(reactor, int(relay.url.rstrip("/").rpartition(":")[2]))
        await proxy.start()
        self.addCleanup(lambda: Deferred.fromCoroutine(proxy.stop()))
        urls = ("ws://relay.example", "ws://192.168.1.1")
        terms = {url: terms_of(PeerSettings(url=url, proxy=proxy.url)) for url in urls}
        dialer = Dialer(reactor, PUBLIC_ONLY, terms=terms)
        link = await dialer.dial(urls[0], RecordingListener())
        self.assertEqual(proxy.asked, [(b"relay.example", 80)])
        link.close()
        refused = Deferred.fromCoroutine(dialer.dial(urls[1], RecordingListener()))
        await self.assertFailure(refused, PeerError)
        self.assertEqual(len(proxy.asked), 1)
