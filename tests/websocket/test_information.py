"""What relays say of themselves, asked over real loopback sockets: well, badly and not at all."""

from __future__ import annotations

import json
from typing import Any

from twisted.internet import reactor as installed_reactor
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.protocol import Factory, Protocol
from twisted.trial.unittest import TestCase
from twisted.web.resource import Resource
from twisted.web.server import Site

from negd import __version__
from negd.nostr.document import RelayDocument
from negd.settings import SyncSettings
from negd.testing.relays import CannedServer, LoopbackRelay, until
from negd.websocket.client import Dialer

reactor: Any = installed_reactor

DOCUMENT = {"software": "strfry", "limitation": {"max_limit": 500}}
READ = RelayDocument(software="strfry", max_limit=500)


class About(Resource):
    """A relay's web side.

    :ivar asked: path and headers of each request.
    """

    isLeaf = True

    def __init__(self, body: bytes) -> None:
        super().__init__()
        self.asked: list[tuple[bytes, dict[bytes, bytes]]] = []
        self._body = body

    def render_GET(self, request: Any) -> bytes:
        headers = {k.lower(): v[0] for k, v in request.requestHeaders.getAllRawHeaders()}
        self.asked.append((request.uri, headers))
        return self._body


class Halting(Factory):
    """Sends the first part of an answer, and keeps the connection.

    :ivar ended: how many connections the other side has ended.
    """

    def __init__(self, octets: bytes) -> None:
        self.octets = octets
        self.ended = 0

    def buildProtocol(self, addr: object) -> Any:
        factory = self

        class Half(Protocol):
            def connectionMade(self) -> None:
                assert self.transport is not None
                self.transport.write(factory.octets)

            def connectionLost(self, reason: object = None) -> None:
                factory.ended += 1

        return Half()


def answer(body: bytes, status: bytes = b"200 OK", headers: bytes = b"") -> bytes:
    return b"HTTP/1.1 " + status + b"\r\n" + headers + b"\r\n" + body


class DescribeTests(TestCase):
    timeout = 20

    async def describe(self, url: str, **settings: Any) -> RelayDocument | None:
        return await Dialer(reactor, SyncSettings(**settings)).describe(url)

    async def canned(self, octets: bytes | None, **settings: Any) -> RelayDocument | None:
        """What comes of an answer of these octets; its connection is closed afterwards."""
        server = CannedServer(reactor, octets)
        await server.start()
        self.addCleanup(lambda: Deferred.fromCoroutine(server.stop()))
        found = await self.describe(server.url, **settings)
        await until(reactor, lambda: not server.connected)
        return found

    def site(self, about: About) -> str:
        port = reactor.listenTCP(0, Site(about, reactor=reactor), interface="127.0.0.1")
        self.addCleanup(port.stopListening)
        return f"ws://127.0.0.1:{port.getHost().port}"

    async def test_a_document_is_asked_for_where_the_relay_is(self) -> None:
        about = About(json.dumps(DOCUMENT).encode())
        url = self.site(about)
        self.assertEqual(await self.describe(url), READ)
        self.assertEqual(await self.describe(f"{url}/inbox/?a=b"), READ)
        self.assertEqual([path for path, _ in about.asked], [b"/", b"/inbox/?a=b"])
        headers = about.asked[0][1]
        self.assertEqual(headers[b"accept"], b"application/nostr+json")
        self.assertEqual(headers[b"host"], url.removeprefix("ws://").encode())
        self.assertEqual(headers[b"user-agent"], f"negd/{__version__}".encode())

    async def test_an_answer_without_length_is_read_to_its_end(self) -> None:
        self.assertEqual(await self.canned(answer(json.dumps(DOCUMENT).encode())), READ)

    async def test_what_is_no_document_is_none(self) -> None:
        bodies = [
            answer(b"<html>"),
            answer(json.dumps(DOCUMENT).encode(), b"404 Not Found"),
            answer(b"", b"301 Moved", b"Location: http://127.0.0.1:1/\r\n"),
            answer(b"{", headers=b"Content-Length: 500\r\n"),
            answer(b"", headers=b"Content-Length: -7\r\n"),
            b"SSH-2.0-OpenSSH_9.2\r\n\r\n",
            b"",
        ]
        for octets in bodies:
            self.assertIsNone(await self.canned(octets), octets)

    async def test_an_answer_that_is_too_large_is_cut(self) -> None:
        large = json.dumps(DOCUMENT | {"name": "x" * 200_000}).encode()
        self.assertIsNone(await self.canned(answer(large)))
        self.assertIsNone(
            await self.canned(answer(b"{}", headers=b"X: " + b"y" * 20_000 + b"\r\n"))
        )
        many = b"".join(b"X-%d: %b\r\n" % (n, b"y" * 900) for n in range(1000))
        self.assertIsNone(await self.canned(answer(json.dumps(DOCUMENT).encode(), headers=many)))

    async def test_a_relay_that_says_nothing_delays_by_its_patience_only(self) -> None:
        began = reactor.seconds()
        self.assertIsNone(await self.canned(None, connect=0.3))
        self.assertLess(reactor.seconds() - began, 2)

    async def test_a_document_that_does_not_end_is_hung_up_on(self) -> None:
        server = Halting(answer(b"{", headers=b"Content-Length: 500\r\n"))
        port = reactor.listenTCP(0, server, interface="127.0.0.1")
        self.addCleanup(port.stopListening)
        url = f"ws://127.0.0.1:{port.getHost().port}"
        self.assertIsNone(await self.describe(url, connect=0.3))
        await until(reactor, lambda: server.ended)

    async def test_a_relay_out_of_reach_is_none(self) -> None:
        server = CannedServer(reactor, None)
        await server.start()
        await server.stop()
        self.assertIsNone(await self.describe(server.url))
        self.assertIsNone(await self.describe("ws://no-such-host.invalid"))
        self.assertIsNone(await self.describe("ws://a b/"))

    async def test_a_relay_without_a_web_side_is_none(self) -> None:
        relay = LoopbackRelay(reactor)
        await relay.start()
        self.addCleanup(lambda: Deferred.fromCoroutine(relay.stop()))
        self.assertIsNone(await self.describe(relay.url))

    async def test_asking_can_be_cancelled(self) -> None:
        server = CannedServer(reactor, None)
        await server.start()
        self.addCleanup(lambda: Deferred.fromCoroutine(server.stop()))
        for connected in (False, True):
            asking = Deferred.fromCoroutine(self.describe(server.url))
            if connected:
                await until(reactor, lambda: server.connected)
            asking.cancel()
            await self.assertFailure(asking, CancelledError)
            await until(reactor, lambda: not server.connected)
