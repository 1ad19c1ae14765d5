"""Dialing peers over real loopback sockets: good relays, bad ones and none at all."""

from __future__ import annotations

from typing import Any

from twisted.internet import reactor as installed_reactor
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import deferLater
from twisted.trial.unittest import TestCase
from zope.interface.verify import verifyObject

from negd.errors import PeerError
from negd.interfaces import IPeerDialer, IPeerLink
from negd.nostr.filter import EVERYTHING
from negd.nostr.messages import (
    Delivered,
    Eose,
    Notice,
    Ok,
    encode_notice,
    encode_publish,
    encode_request,
)
from negd.nostr.signing import Signer
from negd.settings import SyncSettings
from negd.testing.listeners import RecordingListener
from negd.testing.relays import (
    Act,
    Binary,
    CannedServer,
    Drop,
    Goodbye,
    LoopbackRelay,
    Octets,
    ScriptedRelay,
    until,
)
from negd.websocket.client import Dialer

reactor: Any = installed_reactor
alice = Signer(b"\x01" * 32)


class LinkTests(TestCase):
    """One link each, to a relay that is stopped when the test ends."""

    timeout = 20

    def setUp(self) -> None:
        self.listener = RecordingListener()

    async def serve(self, relay: Any) -> str:
        await relay.start()
        self.addCleanup(lambda: Deferred.fromCoroutine(relay.stop()))
        return str(relay.url)

    async def dial(self, url: str, **settings: Any) -> IPeerLink:
        dialer = Dialer(reactor, SyncSettings(**settings))
        verifyObject(IPeerDialer, dialer)
        link = await dialer.dial(url, self.listener)
        self.addCleanup(self.hang_up, link)
        return link

    async def hang_up(self, link: IPeerLink) -> None:
        link.close()
        await until(reactor, lambda: self.listener.reasons)

    async def refusal(self, url: str, **settings: Any) -> str:
        """What dialing says when it does not work."""
        error = await self.assertFailure(
            Deferred.fromCoroutine(
                Dialer(reactor, SyncSettings(**settings)).dial(url, self.listener)
            ),
            PeerError,
        )
        self.assertEqual(self.listener.reasons, [])
        return str(error)

    # --- a link that works ----------------------------------------------------------------------

    async def test_messages_go_both_ways(self) -> None:
        relay = LoopbackRelay(reactor)
        link = await self.dial(await self.serve(relay))
        verifyObject(IPeerLink, link)
        event = alice.sign(created_at=1000, content="häß 🤙")
        link.send(encode_publish(event.encode()))
        await until(reactor, lambda: self.listener.messages)
        link.send(encode_request("a", [EVERYTHING]))
        await until(reactor, lambda: len(self.listener.messages) == 3)
        self.assertEqual(
            self.listener.messages,
            [Ok(event.id, True, ""), Delivered("a", event, len(event.encode())), Eose("a")],
        )

    async def test_a_relay_knows_the_handshakes_of_its_own_daemon(self) -> None:
        relay = LoopbackRelay(reactor)
        url = await self.serve(relay)
        dialer = Dialer(reactor, SyncSettings())
        relay.clients.own_handshakes = dialer.handshakes
        for _ in range(2):
            dialing = Deferred.fromCoroutine(dialer.dial(url, self.listener))
            refusal = await self.assertFailure(dialing, PeerError)
            self.assertIn("HTTP 508 the peer is this daemon itself", str(refusal))
            self.assertEqual(dialer.handshakes, set())
        await self.dial(url)  # another one's

    async def test_dial_returns_after_the_handshake(self) -> None:
        relay = ScriptedRelay(reactor)
        await self.dial(await self.serve(relay))
        self.assertEqual(relay.connected, 1)

    async def test_what_the_relay_says_at_once_is_not_missed(self) -> None:
        relay = ScriptedRelay(reactor, greeting=[encode_notice("welcome")])
        await self.dial(await self.serve(relay))
        await until(reactor, lambda: self.listener.messages == [Notice("welcome")])

    async def test_closing_is_told_once_and_nothing_comes_after(self) -> None:
        relay = ScriptedRelay(reactor)
        link = await self.dial(await self.serve(relay))
        link.close()
        link.close()
        link.send(b"too late")
        await until(reactor, lambda: self.listener.reasons)
        await link.drained()
        self.assertEqual(self.listener.reasons, ["closed by us"])
        self.assertEqual(relay.heard, [])

    async def test_a_paused_link_can_be_closed(self) -> None:
        link = await self.dial(await self.serve(ScriptedRelay(reactor)))
        link.pause()
        link.close()
        await until(reactor, lambda: self.listener.reasons)

    async def test_pause_holds_messages_back_and_resume_lets_them_come(self) -> None:
        relay = ScriptedRelay(reactor, lambda text: [text])
        link = await self.dial(await self.serve(relay))
        link.pause()
        for number in range(100):
            link.send(encode_notice(str(number)))
        await until(reactor, lambda: len(relay.heard) == 100)
        await deferLater(reactor, 0.05)
        self.assertEqual(self.listener.messages, [])
        link.resume()
        await until(reactor, lambda: len(self.listener.messages) == 100)
        self.assertEqual(self.listener.messages, [Notice(str(n)) for n in range(100)])

    async def test_drained_waits_while_the_relay_does_not_read(self) -> None:
        relay = LoopbackRelay(reactor)
        link = await self.dial(await self.serve(relay))
        [connection] = relay.clients.connections
        connection.pause()
        await link.drained()
        for _ in range(40):
            link.send(encode_notice("x" * 500_000))
        drained = Deferred.fromCoroutine(link.drained())
        await deferLater(reactor, 0.1)
        self.assertFalse(drained.called)
        connection.resume()
        await drained

    async def test_drained_returns_when_the_link_is_lost(self) -> None:
        relay = LoopbackRelay(reactor)
        link = await self.dial(await self.serve(relay))
        [connection] = relay.clients.connections
        connection.pause()
        link.send(encode_notice("x" * 20_000_000))
        drained = Deferred.fromCoroutine(link.drained())
        connection.abort("test")
        await drained
        await link.drained()
        await until(reactor, lambda: self.listener.reasons)

    # --- relays that misbehave ------------------------------------------------------------------

    async def test_garbage_is_told_and_the_link_lives(self) -> None:
        acts: list[Act] = [b"no json", b'["EVENT"]', Binary(b"\0"), encode_notice("still here")]
        relay = ScriptedRelay(reactor, lambda _: acts)
        link = await self.dial(await self.serve(relay))
        link.send(b"x")
        await until(reactor, lambda: self.listener.messages == [Notice("still here")])
        self.assertEqual(len(self.listener.complaints), 3)

    async def test_a_message_beyond_the_limit_ends_the_link(self) -> None:
        relay = ScriptedRelay(reactor, lambda _: [encode_notice("x" * 10_000)])
        link = await self.dial(await self.serve(relay), max_message=10_000)
        link.send(b"x")
        await until(reactor, lambda: self.listener.reasons)
        self.assertIn("10000", self.listener.reasons[0])
        self.assertEqual(self.listener.messages, [])

    async def test_octets_that_are_no_frame_end_the_link(self) -> None:
        link = await self.dial(
            await self.serve(ScriptedRelay(reactor, lambda _: [Octets(b"\xff" * 40)]))
        )
        link.send(b"x")
        await until(reactor, lambda: self.listener.reasons)

    async def test_a_goodbye_of_the_relay_is_told_with_its_words(self) -> None:
        link = await self.dial(
            await self.serve(ScriptedRelay(reactor, lambda _: [Goodbye("maintenance\n\x1b[31m")]))
        )
        link.send(b"x")
        await until(reactor, lambda: self.listener.reasons)
        self.assertEqual(
            self.listener.reasons, ["the peer closed the link (1000: maintenance??[31m)"]
        )

    async def test_a_cut_connection_is_told(self) -> None:
        link = await self.dial(await self.serve(ScriptedRelay(reactor, lambda _: [Drop()])))
        link.send(b"x")
        await until(reactor, lambda: self.listener.reasons)
        self.assertEqual(self.listener.reasons, ["the connection was lost"])

    async def test_a_listener_that_fails_loses_the_link_and_is_logged(self) -> None:
        link = await self.dial(
            await self.serve(ScriptedRelay(reactor, lambda _: [encode_notice("x")]))
        )

        def fail(message: object) -> None:
            raise ZeroDivisionError

        self.listener.received = fail  # type: ignore[method-assign]
        link.send(b"x")
        await until(reactor, lambda: self.listener.reasons)
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)

    # --- relays that cannot be reached ----------------------------------------------------------

    async def test_a_closed_port_is_refused(self) -> None:
        relay = CannedServer(reactor, None)
        await relay.start()
        await relay.stop()
        self.assertIn("refuses connections", await self.refusal(relay.url))

    async def test_a_name_without_address_is_said_so(self) -> None:
        self.assertEqual(
            await self.refusal("ws://no-such-host.invalid/"),
            "no address found for no-such-host.invalid",
        )

    async def test_a_server_without_websocket_is_said_with_its_status(self) -> None:
        url = await self.serve(CannedServer(reactor, b"HTTP/1.1 403 Forbidden\r\n\r\n"))
        self.assertEqual(await self.refusal(url), "the peer refuses WebSocket (HTTP 403 Forbidden)")

    async def test_a_redirect_names_the_other_url(self) -> None:
        answer = b"HTTP/1.1 301 Moved\r\nLocation: wss://new.example/\r\n\r\n"
        self.assertIn(
            "redirects to wss://new.example/ (HTTP 301 Moved)",
            await self.refusal(await self.serve(CannedServer(reactor, answer))),
        )

    async def test_answers_that_are_no_http_are_survived(self) -> None:
        answers = [
            b"\xff\xfe\r\n\r\n",
            b"SSH-2.0-OpenSSH_9.2\r\n\r\n",
            b"HTTP/1.1 101 Switching Protocols\r\n\r\n",
            b"HTTP/1.1 x\r\n\r\n",
            b"x" * 100_000,
            b"",
        ]
        for answer in answers:
            text = await self.refusal(await self.serve(CannedServer(reactor, answer)))
            self.assertTrue(text.isprintable(), text)

    async def test_a_url_that_cannot_be_dialed_is_said_so(self) -> None:
        for url in ("http://127.0.0.1/", "ws://127.0.0.1:99999/", "ws://a b/", "ws:///"):
            assert await self.refusal(url, connect=2)

    async def test_a_silent_server_times_out_and_is_hung_up_on(self) -> None:
        server = CannedServer(reactor, None)
        url = await self.serve(server)
        self.assertEqual(
            await self.refusal(url, connect=0.3), "no WebSocket handshake within 0.3 s"
        )
        await until(reactor, lambda: not server.connected)

    async def test_a_cancelled_dial_hangs_up(self) -> None:
        server = CannedServer(reactor, None)
        url = await self.serve(server)
        dial = Deferred.fromCoroutine(Dialer(reactor, SyncSettings()).dial(url, self.listener))
        await until(reactor, lambda: server.connected)
        dial.cancel()
        await self.assertFailure(dial, CancelledError)
        await until(reactor, lambda: not server.connected)
        self.assertEqual(self.listener.reasons, [])

    async def test_a_dial_cancelled_before_it_connects_is_cancelled(self) -> None:
        dial = Deferred.fromCoroutine(
            Dialer(reactor, SyncSettings()).dial("ws://127.0.0.1:1/", self.listener)
        )
        dial.cancel()
        await self.assertFailure(dial, CancelledError)
