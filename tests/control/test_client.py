"""The client: values for values, and every failure in words for a person."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.threads import deferToThread
from twisted.trial.unittest import SynchronousTestCase, TestCase

from negd.control import operators, server
from negd.control.client import ControlClient, ControlError, Status, Unsupported
from negd.control.gen.negd.control.v1 import service_pb2 as own
from negd.control.server import ControlService
from negd.errors import ConfigError, PeerError
from negd.interfaces import (
    LedgerEntry,
    PeerProfile,
    PeerState,
    PeerStatus,
    Residue,
    SessionInfo,
    SyncProgress,
)
from negd.nostr.document import RelayDocument
from negd.nostr.filter import EVERYTHING, Filter, InvalidFilter
from negd.settings import ControlSettings
from negd.testing.control import FakePeers, FakeSessions, FakeSync

PEER = "wss://peer.example"
FAILED = PeerState(
    last_sync=5,
    events_synced=6,
    status=PeerStatus.ERROR,
    last_error="no answer",
    consecutive_failures=2,
)


class Served(TestCase):
    timeout = 60

    def setUp(self) -> None:
        self.sessions, self.peers = FakeSessions(), FakePeers()
        settings = ControlSettings(address="127.0.0.1:0")
        service = ControlService(reactor, settings, self.sessions, self.peers, lambda: True)
        service.startService()
        self.addCleanup(service.stopService)
        self.client = ControlClient(service.address, timeout=30)
        self.addCleanup(self.client.close)

    def call(self, method: Callable[..., Any], *args: Any) -> Deferred[Any]:
        return deferToThread(method, *args)

    async def begin(self, *args: Any) -> tuple[Any, FakeSync]:
        """A sync under way: its progress, and the end that the test drives."""
        started: Deferred[FakeSync] = Deferred()
        self.peers.on_sync = started.callback
        progress = self.client.sync(PEER, *args)
        first = self.call(next, progress)
        sync = await started
        sync.tell(round=1)
        await first
        return progress, sync


class ClientTests(Served):
    async def test_every_call_reaches_its_service(self) -> None:
        self.assertTrue(await self.call(self.client.ready))
        await self.call(self.client.stop)
        self.assertFalse(self.peers.background)
        await self.call(self.client.start)
        self.assertTrue(self.peers.background)
        await self.call(self.client.add_peer, PEER)
        self.assertEqual(await self.call(self.client.peers), [PEER])
        self.peers.listed[PEER] = FAILED
        self.assertEqual(
            await self.call(self.client.status),
            Status(active=True, last_sync=5, listed=1, peers={PEER: FAILED}),
        )
        self.assertEqual(await self.call(self.client.peer_state, PEER), FAILED)
        self.assertIsNone(await self.call(self.client.peer_state, "wss://x.example"))
        await self.call(self.client.trigger, PEER, Filter.build(kinds=[1]))
        await self.call(self.client.trigger)
        self.assertEqual(
            self.peers.triggered, [(PEER, Filter.build(kinds=[1])), (None, EVERYTHING)]
        )
        await self.call(self.client.remove_peer, PEER)
        self.assertEqual(await self.call(self.client.peers), [])

    async def test_a_peer_is_shown_and_its_ledger_forgotten(self) -> None:
        profile = PeerProfile(nip77=False, refusal="no", document=RelayDocument("strfry"))
        state = replace(FAILED, next_sync=7.5, profile=profile)
        entries = {
            bytes([n]) * 32: LedgerEntry(residue, "no", n, 5.5)
            for n, residue in enumerate((*Residue, *Residue))
        }
        self.peers.listed[PEER], self.peers.ledgers[PEER] = state, entries
        shown = await self.call(self.client.show_peer, PEER, 1)
        expected = replace(
            self.peers.terms,
            url=PEER,
            state=state,
            residues=dict.fromkeys(Residue, 2),
            entries=dict(list(entries.items())[: len(Residue)]),
        )
        self.assertEqual(shown, expected)
        self.assertEqual(await self.call(self.client.forget_ledger, PEER), 2 * len(Residue))
        self.assertEqual((await self.call(self.client.show_peer, PEER)).residues, {})

    async def test_a_peer_that_is_not_there_is_named(self) -> None:
        for method in (self.client.show_peer, self.client.forget_ledger):
            error: Any = await self.assertFailure(self.call(method, PEER), ControlError)
            self.assertEqual(error.text, f"peer {PEER} is not listed")

    async def test_what_a_later_release_tells_is_not_guessed_at(self) -> None:
        self.peers.listed[PEER] = PeerState()
        self.patch(operators, "peer_to_proto", lambda _: own.Peer(direction="sideways"))
        error: Any = await self.assertFailure(self.call(self.client.show_peer, PEER), ControlError)
        self.assertIn("tells what is not known ('sideways' is not a valid", error.text)

    async def test_sessions_are_listed_and_closed(self) -> None:
        await self.sessions.open("c", "s", EVERYTHING, b"a")
        listed = await self.call(self.client.sessions)
        self.assertEqual(listed, [SessionInfo("c", "s", 100, 200, 1)])
        await self.call(self.client.close_session, "s", "d")
        self.assertEqual(len(self.sessions.live), 1)
        await self.call(self.client.close_session, "s")
        self.assertEqual(self.sessions.live, {})

    async def test_a_sync_yields_its_progress(self) -> None:
        progress, sync = await self.begin(Filter.build(kinds=[1]), 7)
        self.assertEqual(sync.wanted, Filter.build(kinds=[1], since=7))
        sync.tell(have=1, need=2, fetched=3, sent=4, refused=5, explained=6)
        sync.finish()
        rest = await self.call(list, progress)
        last = SyncProgress(
            PEER, 1, have=1, need=2, fetched=3, sent=4, refused=5, explained=6, complete=True
        )
        self.assertEqual(rest[-1], last)

    async def test_a_sync_that_fails_raises_what_was_said(self) -> None:
        progress, sync = await self.begin()
        sync.fail(PeerError("the peer closed the connection"))
        error: Any = await self.assertFailure(self.call(list, progress), PeerError)
        self.assertEqual(error.text, "the peer closed the connection")

    async def test_closing_the_progress_cancels_the_sync(self) -> None:
        progress, sync = await self.begin()
        progress.close()
        await sync.cancelled

    async def test_a_sync_has_no_thread_that_could_hold_up_the_end_of_the_process(self) -> None:
        before = set(threading.enumerate())
        progress, _ = await self.begin()
        begun = {thread.name for thread in set(threading.enumerate()) - before}
        ours = {name for name in begun if name.startswith(("control", "PoolThread"))}
        self.assertEqual(begun - ours, set())
        progress.close()

    async def test_a_filter_that_matches_nothing_arrives(self) -> None:
        _, sync = await self.begin(Filter(ids=()))
        self.assertEqual(sync.wanted, Filter(ids=()))

    async def test_a_refusal_is_raised_with_its_text(self) -> None:
        error: Any = await self.assertFailure(self.call(self.client.add_peer, "x"), ControlError)
        self.assertEqual(error.text, "peer 'x': expected ws://HOST[:PORT] or wss://HOST")

    async def test_a_daemon_that_does_not_answer_in_time_is_named(self) -> None:
        self.patch(self.client, "_timeout", 0.05)
        self.patch(self.peers, "add", lambda url: Deferred())
        error: Any = await self.assertFailure(self.call(self.client.add_peer, PEER), ControlError)
        self.assertIn("did not answer in time", error.text)


class PlainServiceTests(Served):
    """A server that has orlysync's service and not negd's own."""

    def setUp(self) -> None:
        self.patch(server, "add_ControlServiceServicer_to_server", lambda *_: None)
        super().setUp()

    async def test_a_sync_yields_its_progress(self) -> None:
        progress, sync = await self.begin(Filter.build(kinds=[1]), 7)
        self.assertEqual(sync.wanted, Filter.build(kinds=[1], since=7))
        sync.tell(have=1, need=2, fetched=3, sent=4, refused=5, explained=6)
        sync.finish()
        rest = await self.call(list, progress)
        last = SyncProgress(PEER, 1, have=1, need=2, fetched=3, sent=4, complete=True)
        self.assertEqual(rest[-1], last)

    async def test_a_sync_that_fails_raises_what_was_said(self) -> None:
        progress, sync = await self.begin()
        sync.fail(PeerError("the peer closed the connection"))
        error: Any = await self.assertFailure(self.call(list, progress), PeerError)
        self.assertEqual(error.text, "the peer closed the connection")

    async def test_a_filter_that_matches_nothing_cannot_be_said_there(self) -> None:
        """Its proto would match everything."""
        progress = self.client.sync(PEER, Filter(ids=()))
        await self.assertFailure(self.call(next, progress), InvalidFilter)
        self.assertEqual(self.peers.syncs, [])

    async def test_what_only_negds_own_service_knows_is_not_supported(self) -> None:
        self.peers.listed[PEER] = PeerState()
        for method in (self.client.show_peer, self.client.forget_ledger):
            error: Any = await self.assertFailure(self.call(method, PEER), Unsupported)
            address = self.client.address
            self.assertEqual(error.text, f"what answers at {address} is no negd, or an old one")


class UnconnectedTests(SynchronousTestCase):
    def test_an_address_where_nobody_listens_is_named(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as gone:
            address = f"127.0.0.1:{gone.getsockname()[1]}"
        with ControlClient(address, timeout=10) as client:
            with self.assertRaises(ControlError) as caught:
                client.ready()
            self.assertIn(f"no negd answers at {address} (", caught.exception.text)
            self.assertNotIn("\n", caught.exception.text)
            with self.assertRaises(ControlError):
                list(client.sync(PEER))

    def test_an_address_that_is_none_is_refused(self) -> None:
        with self.assertRaises(ConfigError):
            ControlClient("50064")

    def test_a_filter_that_cannot_be_sent_is_refused(self) -> None:
        with ControlClient("127.0.0.1:1") as client, self.assertRaises(InvalidFilter):
            client.trigger(None, Filter(ids=()))
