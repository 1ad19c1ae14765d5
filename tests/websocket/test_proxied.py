"""Dialing peers through SOCKS5 proxies: pproxy, which nobody here wrote, and one that bends."""

from __future__ import annotations

import json
import subprocess
import sys
from functools import partial
from typing import Any

from twisted.internet import reactor as installed_reactor
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.endpoints import TCP4ClientEndpoint, connectProtocol
from twisted.internet.error import ConnectError
from twisted.internet.interfaces import IHostnameResolver
from twisted.internet.protocol import Protocol
from twisted.trial.unittest import TestCase
from twisted.web.server import Site
from zope.interface import implementer

from negd.errors import PeerError
from negd.interfaces import IPeerLink
from negd.nostr.document import RelayDocument
from negd.nostr.messages import NegMsg, Notice, encode_neg_msg, encode_notice
from negd.settings import PeerSettings, SyncSettings
from negd.testing.certificates import certificate_for
from negd.testing.listeners import RecordingListener
from negd.testing.ports import free_port
from negd.testing.proxies import LoopbackProxy
from negd.testing.relays import CannedServer, LoopbackRelay, ScriptedRelay, until
from negd.websocket.client import Dialer
from negd.websocket.terms import terms_of
from tests.websocket.test_information import About

reactor: Any = installed_reactor
ONION = "x" * 56 + ".onion"

# pproxy asks for an event loop that newer Pythons do not make by themselves.
PPROXY = "import asyncio; asyncio.set_event_loop(asyncio.new_event_loop()); import pproxy.server; "


@implementer(IHostnameResolver)
class Deaf:
    """Resolves addresses only; keeps the names that it was asked for."""

    def __init__(self, resolver: Any) -> None:
        self.names: list[str] = []
        self._resolver = resolver

    def resolveHostName(
        self,
        receiver: Any,
        name: str,
        portNumber: int = 0,
        addressTypes: Any = None,
        transportSemantics: str = "TCP",
    ) -> Any:
        if name != "127.0.0.1":
            self.names.append(name)
        return self._resolver.resolveHostName(
            receiver, name, portNumber, addressTypes, transportSemantics
        )


def port_of(url: str) -> int:
    return int(url.rstrip("/").rpartition(":")[2])


class ProxyCase(TestCase):
    timeout = 30

    def setUp(self) -> None:
        self.listener = RecordingListener()
        self.resolver = Deaf(reactor.nameResolver)
        self.addCleanup(reactor.installNameResolver, reactor.installNameResolver(self.resolver))

    async def start(self, server: Any) -> str:
        await server.start()
        self.addCleanup(lambda: Deferred.fromCoroutine(server.stop()))
        return str(server.url)

    def dialer(self, url: str, proxy: str, trust: Any = None, **settings: Any) -> Dialer:
        terms = {url: terms_of(PeerSettings(url=url, proxy=proxy))}
        return Dialer(reactor, SyncSettings(**settings), trust, terms)

    async def dial(self, url: str, proxy: str, trust: Any = None) -> IPeerLink:
        link = await self.dialer(url, proxy, trust).dial(url, self.listener)
        self.addCleanup(self.hang_up, link)
        return link

    async def hang_up(self, link: IPeerLink) -> None:
        link.close()
        await until(reactor, lambda: self.listener.reasons)

    async def refusal(self, url: str, proxy: str, **settings: Any) -> str:
        dialer = self.dialer(url, proxy, **settings)
        dial = Deferred.fromCoroutine(dialer.dial(url, self.listener))
        error = await self.assertFailure(dial, PeerError)
        self.assertEqual(self.listener.reasons, [])
        return str(error)


class PproxyTests(ProxyCase):
    async def spawn(self, login: str = "") -> str:
        port = free_port()
        listen = f"socks5://127.0.0.1:{port}{login}"
        process = subprocess.Popen(
            [sys.executable, "-c", f"{PPROXY}pproxy.server.main(['-l', {listen!r}])"],
            stdout=subprocess.DEVNULL,
        )
        self.addCleanup(process.wait)
        self.addCleanup(process.terminate)
        endpoint = TCP4ClientEndpoint(reactor, "127.0.0.1", port)

        async def answers() -> bool:
            try:
                probe = await connectProtocol(endpoint, Protocol())
            except ConnectError:
                return False
            assert probe.transport is not None
            probe.transport.loseConnection()
            return True

        deadline = reactor.seconds() + 20
        while not await answers():
            assert reactor.seconds() < deadline and process.poll() is None
        return f"127.0.0.1:{port}"

    async def echo(self, url: str, proxy: str) -> None:
        """Messages go both ways, large ones too."""
        link = await self.dial(url, proxy)
        for count, message in enumerate((b"hello", b"x" * 1_000_000), 1):
            link.send(encode_neg_msg("a", message))
            await until(reactor, partial(self.has_heard, count))
            self.assertEqual(self.listener.messages[-1], NegMsg("a", message))

    def has_heard(self, count: int) -> bool:
        return len(self.listener.messages) == count

    async def test_names_and_addresses_are_reached(self) -> None:
        relay = await self.start(ScriptedRelay(reactor, lambda text: [text]))
        proxy = await self.spawn()
        await self.echo(relay, f"socks5://{proxy}")
        self.listener = RecordingListener()
        await self.echo(relay.replace("127.0.0.1", "localhost"), f"socks5://{proxy}")
        self.assertEqual(self.resolver.names, [])

    async def test_a_proxy_that_wants_a_login_gets_it(self) -> None:
        relay = await self.start(ScriptedRelay(reactor, lambda text: [text]))
        proxy = await self.spawn("#spam:e@gs")
        said = await self.refusal(relay, f"socks5://spam:wrong@{proxy}")
        self.assertEqual(said, f"the proxy {proxy} closed the connection")
        await self.echo(relay, f"socks5://spam:e%40gs@{proxy}")

    async def test_a_peer_that_is_not_there_is_not_blamed_on_the_handshake(self) -> None:
        proxy = await self.spawn()
        said = await self.refusal(f"ws://127.0.0.1:{free_port()}", f"socks5://{proxy}")
        self.assertEqual(said, "closed before the handshake ended")


class LoopbackProxyTests(ProxyCase):
    async def test_onion_names_are_told_to_the_proxy_and_nobody_else(self) -> None:
        relay = ScriptedRelay(reactor, greeting=[encode_notice("welcome")])
        proxy = LoopbackProxy(reactor, port_of(await self.start(relay)))
        await self.dial(f"ws://{ONION}", await self.start(proxy))
        await until(reactor, lambda: self.listener.messages == [Notice("welcome")])
        self.assertEqual(proxy.asked, [(ONION.encode(), 80)])
        self.assertEqual(self.resolver.names, [])

    async def test_onion_names_are_looked_up_by_nobody_without_a_proxy(self) -> None:
        for url in (f"ws://{ONION}", f"wss://{ONION}:4443", f"ws://{ONION}."):
            self.assertIn("reached through Tor only", await self.refusal(url, ""))
            self.assertIsNone(await self.dialer(url, "").describe(url))
        self.assertEqual(self.resolver.names, [])

    async def test_certificates_are_verified_by_the_peers_name(self) -> None:
        certificate = certificate_for("relay.example")
        relay = LoopbackRelay(reactor, certificate=certificate)
        proxy = LoopbackProxy(reactor, port_of(await self.start(relay)))
        url = await self.start(proxy)
        await self.dial("wss://relay.example", url, certificate)
        self.assertEqual(proxy.asked, [(b"relay.example", 443)])
        dialer = self.dialer("wss://other.example", url, certificate)
        other = Deferred.fromCoroutine(dialer.dial("wss://other.example", RecordingListener()))
        error = await self.assertFailure(other, PeerError)
        self.assertEqual(str(error), "TLS failed: the certificate is for another name")

    async def test_the_relays_document_comes_the_same_way(self) -> None:
        about = Site(About(json.dumps({"software": "strfry"}).encode()), reactor=reactor)
        port = reactor.listenTCP(0, about, interface="127.0.0.1")
        self.addCleanup(port.stopListening)
        proxy = LoopbackProxy(reactor, port.getHost().port)
        dialer = self.dialer(f"ws://{ONION}", await self.start(proxy))
        found = await dialer.describe(f"ws://{ONION}")
        self.assertEqual(found, RelayDocument(software="strfry"))
        self.assertEqual(self.resolver.names, [])

    async def test_what_the_proxy_cannot_do_is_said(self) -> None:
        proxy = await self.start(LoopbackProxy(reactor, 1, reply=5))
        said = await self.refusal(f"ws://{ONION}", proxy)
        name = proxy.removeprefix("socks5://")
        self.assertEqual(said, f"the proxy {name} does not reach the peer: connection refused")

    async def test_a_proxy_out_of_reach_is_named(self) -> None:
        name = f"127.0.0.1:{free_port()}"
        said = await self.refusal("ws://relay.example", f"socks5://{name}")
        self.assertEqual(said, f"the proxy {name} refuses connections")
        said = await self.refusal("ws://relay.example", "socks5://no-such-host.invalid:9050")
        self.assertEqual(said, "no address found for the proxy no-such-host.invalid:9050")
        self.assertEqual(self.resolver.names, ["no-such-host.invalid"])

    async def test_what_is_no_proxy_is_said(self) -> None:
        for octets in (b"HTTP/1.1 400 Bad Request\r\n\r\n", b"\x05\xff"):
            server = CannedServer(reactor, octets)
            name = (await self.start(server)).removeprefix("ws://").rstrip("/")
            said = await self.refusal("ws://relay.example", f"socks5://{name}")
            self.assertIn(f"the proxy {name} ", said)
            await until(reactor, partial(self.is_alone, server))

    def is_alone(self, server: CannedServer) -> bool:
        return not server.connected

    async def test_a_silent_proxy_times_out_and_is_hung_up_on(self) -> None:
        server = CannedServer(reactor, None)
        name = (await self.start(server)).removeprefix("ws://").rstrip("/")
        said = await self.refusal("ws://relay.example", f"socks5://{name}", connect=0.3)
        self.assertEqual(said, f"no connection through the proxy {name} within 0.3 s")
        await until(reactor, lambda: not server.connected)

    async def test_a_dial_through_a_proxy_can_be_cancelled(self) -> None:
        server = CannedServer(reactor, None)
        name = (await self.start(server)).removeprefix("ws://").rstrip("/")
        for connected in (False, True):
            dialer = self.dialer("ws://relay.example", f"socks5://{name}")
            dial = Deferred.fromCoroutine(dialer.dial("ws://relay.example", self.listener))
            if connected:
                await until(reactor, lambda: server.connected)
            dial.cancel()
            await self.assertFailure(dial, CancelledError)
            await until(reactor, lambda: not server.connected)
