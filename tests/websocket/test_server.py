"""The endpoint for clients over real loopback sockets: pacing, limits, TLS, saying goodbye."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from shutil import rmtree
from tempfile import mkdtemp
from typing import Any

from twisted.internet import reactor as installed_reactor
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import TCP4ClientEndpoint, connectProtocol
from twisted.internet.protocol import Protocol
from twisted.internet.ssl import Certificate, PrivateCertificate
from twisted.internet.task import deferLater
from twisted.trial.unittest import TestCase
from zope.interface import implementer

from negd.errors import PeerError
from negd.interfaces import IIntake, Outcome, PerClient, Use, Verdict
from negd.nostr.event import Event
from negd.nostr.filter import EVERYTHING
from negd.nostr.messages import (
    Delivered,
    Eose,
    Notice,
    Ok,
    RelayMessage,
    encode_notice,
    encode_publish,
    encode_request,
)
from negd.nostr.signing import Signer
from negd.settings import EndpointSettings, SyncSettings
from negd.storage import open_store
from negd.testing.certificates import certificate_for
from negd.testing.links import memory_backend
from negd.testing.listeners import RecordingListener
from negd.testing.relays import CannedServer, LoopbackRelay, until
from negd.websocket.client import Dialer
from negd.websocket.link import PeerLink

reactor: Any = installed_reactor
alice = Signer(b"\x01" * 32)


@implementer(IIntake)
class HeldIntake:
    """Accepts everything, once the test lets it."""

    def __init__(self) -> None:
        self.waiting: list[tuple[int, Deferred[list[Verdict]]]] = []
        self.submitted = 0

    async def submit(self, events: Sequence[Event]) -> list[Verdict]:
        done: Deferred[list[Verdict]] = Deferred()
        self.waiting.append((len(events), done))
        self.submitted += len(events)
        return await done

    def release(self) -> None:
        waiting, self.waiting = self.waiting, []
        for count, done in waiting:
            done.callback([Verdict(Outcome.STORED)] * count)


class RawClient(Protocol):
    """A TCP connection without manners."""

    transport: Any

    def __init__(self) -> None:
        self.data = b""
        self.lost = False

    def dataReceived(self, data: bytes) -> None:
        self.data += data

    def connectionLost(self, reason: object = None) -> None:
        self.lost = True


HANDSHAKE = (
    b"GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)


class ServerCase(TestCase):
    """:ivar listener: of the link that was dialed last."""

    timeout = 30
    listener: RecordingListener

    async def serve(self, relay: LoopbackRelay) -> LoopbackRelay:
        await relay.start()
        self.addCleanup(lambda: Deferred.fromCoroutine(relay.stop()))
        return relay

    async def dial(self, relay: LoopbackRelay, trust: Certificate | None = None) -> PeerLink:
        settings = SyncSettings(max_message=10_000_000)
        listener = self.listener = RecordingListener()
        link = await Dialer(reactor, settings, trust).dial(relay.url, listener)
        assert isinstance(link, PeerLink)

        async def hang_up() -> None:
            link.close()
            await until(reactor, lambda: listener.reasons)

        self.addCleanup(hang_up)
        return link

    async def connect(self, relay: LoopbackRelay) -> RawClient:
        port = int(relay.url.rstrip("/").rpartition(":")[2])
        client = RawClient()
        await connectProtocol(TCP4ClientEndpoint(reactor, "127.0.0.1", port), client)
        self.addCleanup(client.transport.abortConnection)
        return client


class PacingTests(ServerCase):
    """Nothing piles up on either side of the transport that twisted.web hands over."""

    certificate: PrivateCertificate | None = None

    async def dial(self, relay: LoopbackRelay, trust: Certificate | None = None) -> PeerLink:
        return await super().dial(relay, self.certificate)

    async def test_a_client_that_does_not_read_is_waited_for(self) -> None:
        relay = await self.serve(LoopbackRelay(reactor, certificate=self.certificate))
        events = [alice.sign(created_at=1000 + n, content="x" * 50_000) for n in range(400)]
        await relay.backend.store.ingest(events)
        link = await self.dial(relay)
        link.pause()
        link.send(encode_request("a", [EVERYTHING]))
        [connection] = relay.clients.connections
        assert connection.conversation is not None
        outgoing = connection.conversation.outgoing
        await until(reactor, lambda: not outgoing.flowing)
        await deferLater(reactor, 0.2)
        assert outgoing.queued == 0
        link.resume()
        await until(reactor, lambda: Eose("a") in self.listener.messages)
        came = [m.event for m in self.listener.messages if isinstance(m, Delivered)]
        assert came == events[::-1]

    async def test_commands_are_not_read_faster_than_they_are_answered(self) -> None:
        intake = HeldIntake()
        backend = dataclasses.replace(
            memory_backend(reactor, EndpointSettings(max_unanswered=8)), intake=intake
        )
        relay = await self.serve(LoopbackRelay(reactor, backend, certificate=self.certificate))
        link = await self.dial(relay)
        events = [alice.sign(created_at=1000 + n, content="x" * 100_000) for n in range(300)]
        for event in events:
            link.send(encode_publish(event.encode()))
        await until(reactor, lambda: intake.submitted >= 8)
        await deferLater(reactor, 0.2)
        assert intake.submitted < 20
        unanswered = relay.clients.load().unanswered
        assert unanswered.total == unanswered.largest >= unanswered.most == 8
        while len(self.listener.messages) < len(events):
            intake.release()
            await deferLater(reactor, 0)
        assert self.listener.messages == [Ok(event.id, True, "") for event in events]


class TLSPacingTests(PacingTests):
    """The same under TLS, where twisted.web hands over another transport."""

    certificate = certificate_for("localhost")


class TLSTests(ServerCase):
    async def test_a_certificate_of_an_unknown_authority_is_refused(self) -> None:
        relay = await self.serve(LoopbackRelay(reactor, certificate=certificate_for("localhost")))
        dial = Deferred.fromCoroutine(self.dial(relay))
        error = await self.assertFailure(dial, PeerError)
        assert "TLS failed: certificate verify failed" in str(error)

    async def test_a_certificate_for_another_name_is_refused(self) -> None:
        certificate = certificate_for("elsewhere.example")
        relay = await self.serve(LoopbackRelay(reactor, certificate=certificate))
        dial = Deferred.fromCoroutine(self.dial(relay, certificate))
        error = await self.assertFailure(dial, PeerError)
        assert str(error) == "TLS failed: the certificate is for another name"

    async def test_tls_to_a_port_without_it_is_refused(self) -> None:
        relay: Any = CannedServer(reactor, b"HTTP/1.1 400 Bad Request\r\n\r\n")
        await self.serve(relay)
        relay.url = relay.url.replace("ws://", "wss://")
        error = await self.assertFailure(Deferred.fromCoroutine(self.dial(relay)), PeerError)
        assert "TLS failed" in str(error)


class ConnectionTests(ServerCase):
    async def test_an_idle_websocket_outlives_the_http_timeout(self) -> None:
        relay = await self.serve(LoopbackRelay(reactor, http_timeout=0.3))
        link = await self.dial(relay)
        await deferLater(reactor, 1)
        link.send(encode_request("a", [EVERYTHING]))
        await until(reactor, lambda: self.listener.messages == [Eose("a")])

    async def test_a_client_too_many_is_told_so_and_room_is_found_again(self) -> None:
        relay = await self.serve(
            LoopbackRelay(reactor, settings=EndpointSettings(max_connections=1))
        )
        first = await self.dial(relay)
        told = self.listener
        error = await self.assertFailure(Deferred.fromCoroutine(self.dial(relay)), PeerError)
        assert "HTTP 503" in str(error)
        assert relay.backend.refusals["connections"] == 1
        first.close()
        await until(reactor, lambda: told.reasons and not relay.clients.countConnections)
        await self.dial(relay)

    async def test_what_clients_take_up_is_told(self) -> None:
        settings = EndpointSettings(max_connections=9, max_message=5000)
        relay = await self.serve(LoopbackRelay(reactor, settings=settings))
        assert relay.clients.load().connections == Use(0, 9)
        first = await self.dial(relay)
        first.send(encode_request("a", [EVERYTHING]))
        first.send(encode_request("b", [EVERYTHING]))
        await until(reactor, lambda: self.listener.messages == [Eose("a"), Eose("b")])
        (await self.dial(relay)).send(encode_request("c", [EVERYTHING]))
        await until(reactor, lambda: self.listener.messages == [Eose("c")])
        load = relay.clients.load()
        assert load.connections == Use(2, 9)
        assert load.subscriptions == PerClient(3, 2, settings.max_subscriptions)
        assert load.unanswered == PerClient(0, 0, settings.max_unanswered)
        assert load.unanswered_bytes == PerClient(0, 0, 20_000)
        assert load.outgoing_bytes == PerClient(0, 0, settings.max_outgoing)
        assert not any(relay.backend.refusals.values())

    async def test_a_handshake_that_is_wrong_is_no_client_too_many(self) -> None:
        relay = await self.serve(LoopbackRelay(reactor))
        client = await self.connect(relay)
        client.transport.write(HANDSHAKE.replace(b"Version: 13", b"Version: 1"))
        await until(reactor, lambda: client.lost)
        assert client.data.startswith(b"HTTP/1.1 400 ")
        assert relay.backend.refusals["connections"] == 0

    async def test_binary_messages_are_answered(self) -> None:
        link = await self.dial(await self.serve(LoopbackRelay(reactor)))
        link.sendMessage(b"\0", isBinary=True)
        await until(reactor, lambda: self.listener.messages)
        assert isinstance(self.listener.messages[0], Notice)

    async def test_a_message_beyond_the_limit_is_told_in_the_close(self) -> None:
        relay = await self.serve(LoopbackRelay(reactor, settings=EndpointSettings(max_message=999)))
        link = await self.dial(relay)
        link.send(encode_notice("x" * 1000))
        await until(reactor, lambda: self.listener.reasons)
        assert "1009" in self.listener.reasons[0]

    async def test_text_that_is_not_utf8_is_told_in_the_close(self) -> None:
        link = await self.dial(await self.serve(LoopbackRelay(reactor)))
        link.send(b'["\xff"]')
        await until(reactor, lambda: self.listener.reasons)
        assert "1007" in self.listener.reasons[0]

    async def test_an_event_larger_than_incoming_messages_may_be_is_served(self) -> None:
        relay = await self.serve(LoopbackRelay(reactor, settings=EndpointSettings(max_message=999)))
        event = alice.sign(created_at=1000, content="x" * 5000)
        await relay.backend.store.ingest([event])
        link = await self.dial(relay)
        link.send(encode_request("a", [EVERYTHING]))
        await until(reactor, lambda: len(self.listener.messages) == 2)
        assert self.listener.messages == [Delivered("a", event, len(event.encode())), Eose("a")]

    async def test_octets_that_are_no_frame_end_only_their_connection(self) -> None:
        relay = await self.serve(LoopbackRelay(reactor))
        rude = await self.connect(relay)
        rude.transport.write(HANDSHAKE)
        await until(reactor, lambda: b"101 Switching" in rude.data)
        rude.transport.write(b"\xff" * 100)
        link = await self.dial(relay)
        await until(reactor, lambda: rude.lost)
        link.send(encode_request("a", [EVERYTHING]))
        await until(reactor, lambda: self.listener.messages == [Eose("a")])

    async def test_a_client_that_vanishes_without_a_word_is_noticed(self) -> None:
        settings = EndpointSettings(ping_interval=1, ping_timeout=1)
        relay = await self.serve(LoopbackRelay(reactor, settings=settings))
        silent = await self.connect(relay)
        silent.transport.write(HANDSHAKE)
        await until(reactor, lambda: relay.clients.connections)
        await until(reactor, lambda: not relay.clients.connections)
        await until(reactor, lambda: silent.lost)

    async def test_clients_are_told_when_the_relay_stops(self) -> None:
        relay = await self.serve(LoopbackRelay(reactor))
        await self.dial(relay)
        silent = await self.connect(relay)
        silent.transport.write(HANDSHAKE)
        await until(reactor, lambda: len(relay.clients.connections) == 2)
        await relay.clients.close(patience=0.5)
        await until(reactor, lambda: silent.lost and self.listener.reasons)
        assert "1001: the relay is stopping" in self.listener.reasons[0]
        assert not relay.clients.connections

    async def test_connections_have_names_of_their_own(self) -> None:
        relay = await self.serve(LoopbackRelay(reactor))
        for _ in range(2):
            await self.dial(relay)
        names = {c.conversation.name for c in relay.clients.connections if c.conversation}
        assert len(names) == 2
        assert all(name.startswith("ws:127.0.0.1:") for name in names)


class CommitRaceTests(ServerCase):
    async def test_no_event_is_lost_or_comes_twice_while_others_are_committed(self) -> None:
        """Over LMDB, whose pages and commits come from threads of their own."""
        folder = mkdtemp()
        self.addCleanup(rmtree, folder)
        storage = await open_store(f"lmdb:{folder}", reactor)
        self.addCleanup(lambda: Deferred.fromCoroutine(storage.close()))
        store = storage.events
        events = [alice.sign(created_at=1000 + n * 7919 % 3000) for n in range(3000)]
        await store.ingest(events[:1000])
        # Room for all of it: one that is slow, as under load, may else be told CLOSED.
        backend = memory_backend(reactor, EndpointSettings(max_outgoing=10**8), store=store)
        relay = await self.serve(LoopbackRelay(reactor, backend))
        listener = self.listener = RecordingListener()
        heard: list[RelayMessage] = []
        listener.received = heard.append  # type: ignore[method-assign, assignment]
        link = await Dialer(reactor, SyncSettings()).dial(relay.url, listener)

        async def commit() -> None:
            for at in range(1000, 3000, 20):
                await store.ingest(events[at : at + 20])

        committing = Deferred.fromCoroutine(commit())
        names = [f"r{n}" for n in range(12)]
        for name in names:
            link.send(encode_request(name, [EVERYTHING]))
            await deferLater(reactor, 0.02)
        await committing
        await until(reactor, lambda: sum(isinstance(m, Delivered) for m in heard) >= 12 * 3000)
        await deferLater(reactor, 0.1)
        expected = {event.id for event in events}
        for name in names:
            came = [
                m.event.id for m in heard if isinstance(m, Delivered) and m.subscription == name
            ]
            assert len(came) == len(set(came))
            assert set(came) == expected
        link.close()
        await until(reactor, lambda: listener.reasons)
