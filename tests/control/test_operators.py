"""negd's own three calls, from a real gRPC client to peers that a test drives."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, TypeVar

import grpc
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.threads import deferToThread
from twisted.trial.unittest import TestCase

from negd.control.gen.negd.control.v1 import service_pb2 as proto
from negd.control.gen.negd.control.v1.service_pb2_grpc import ControlServiceStub
from negd.control.gen.orlysync.negentropy.v1 import service_pb2 as orlysync
from negd.control.gen.orlysync.negentropy.v1.service_pb2_grpc import NegentropyServiceStub
from negd.control.operators import MOST_ENTRIES
from negd.control.server import ControlService
from negd.errors import PeerError, StorageError
from negd.interfaces import Direction, LedgerEntry, PeerProfile, PeerState, PeerStatus, Residue
from negd.nostr.filter import EVERYTHING, Filter
from negd.settings import ControlSettings
from negd.testing.control import FakePeers, FakeSessions, FakeSync

T = TypeVar("T")

PEER, OTHER = "wss://peer.example", "wss://other.example"


class Served(TestCase):
    """A running service and a client of it. Calls block, so they are made in threads."""

    timeout = 60

    def setUp(self) -> None:
        self.peers = FakePeers()
        settings = ControlSettings(address="127.0.0.1:0", workers=4)
        service = ControlService(reactor, settings, FakeSessions(), self.peers, lambda: True)
        service.startService()
        self.addCleanup(service.stopService)
        self.channel = grpc.insecure_channel(service.address)
        self.addCleanup(self.channel.close)
        self.stub = ControlServiceStub(self.channel)

    def call(self, method: Callable[..., T], request: Any) -> Deferred[T]:
        return deferToThread(method, request, timeout=30)

    async def status_of(self, call: Deferred[Any]) -> tuple[grpc.StatusCode, str]:
        """The status that a call fails with."""
        error: Any = await self.assertFailure(call, grpc.RpcError)
        return error.code(), error.details()

    def next_sync(self) -> Deferred[FakeSync]:
        """Fires with the next sync as it starts."""
        started: Deferred[FakeSync] = Deferred()
        self.peers.on_sync = started.callback
        return started


class PeerTests(Served):
    def show(self, url: str = PEER, entries: int = 0) -> Deferred[proto.Peer]:
        return self.call(self.stub.ShowPeer, proto.ShowPeerRequest(url=url, entries=entries))

    def forget(self, url: str = PEER) -> Deferred[proto.ForgetLedgerResponse]:
        return self.call(self.stub.ForgetLedger, proto.ForgetLedgerRequest(url=url))

    def explain(self, residue: Residue, differences: int) -> None:
        """Put entries into the peer's ledger."""
        ledger = self.peers.ledgers.setdefault(PEER, {})
        for n in range(differences):
            ledger[len(ledger).to_bytes(32, "big")] = LedgerEntry(residue, "no", n + 1, 5.5 + n)

    async def test_a_peer_is_shown_with_its_terms_its_state_and_its_profile(self) -> None:
        profile = PeerProfile(nip77=True, found_at=3.5, max_records=1000)
        state = PeerState(1, 2, PeerStatus.ERROR, "no answer", 3, 4.5, profile, True)
        self.peers.listed[PEER] = state
        self.peers.terms = replace(
            self.peers.terms,
            direction=Direction.UP,
            wanted=Filter.build(kinds=[1], since=5),
            interval=60.0,
            tail=False,
            linked=True,
        )
        self.assertEqual(
            await self.show(PEER.upper()),
            proto.Peer(
                url=PEER,
                listed=True,
                direction="up",
                filter='{"kinds":[1],"since":5}',
                interval=60.0,
                tail=False,
                linked=True,
                state=proto.PeerState(
                    last_sync=1,
                    events_synced=2,
                    status="error",
                    last_error="no answer",
                    consecutive_failures=3,
                    next_sync=4.5,
                    profile=proto.PeerProfile(nip77=True, found_at=3.5, max_records=1000),
                    configured=True,
                ),
            ),
        )

    async def test_what_was_not_found_out_is_absent(self) -> None:
        self.peers.listed[PEER] = PeerState()
        profile = (await self.show()).state.profile
        for name in ("nip77", "max_records", "ids_per_request"):
            self.assertFalse(profile.HasField(name))

    async def test_differences_are_counted_and_some_of_each_reason_are_shown(self) -> None:
        self.peers.listed[PEER] = PeerState()
        self.explain(Residue.OURS_REJECTED, 3)
        self.explain(Residue.UNFETCHABLE, 1)
        shown = await self.show(entries=2)
        self.assertEqual(dict(shown.residues), {"ours-rejected": 3, "unfetchable": 1})
        found = [(entry.residue, entry.tries, entry.retry_at) for entry in shown.entries]
        expected = [("ours-rejected", 1, 5.5), ("ours-rejected", 2, 6.5), ("unfetchable", 1, 5.5)]
        self.assertEqual(found, expected)
        self.assertEqual({len(entry.id) for entry in shown.entries}, {32})
        self.assertEqual(len((await self.show()).entries), 0)

    async def test_no_more_are_shown_than_the_bound_however_many_are_asked_for(self) -> None:
        self.peers.listed[PEER] = PeerState()
        self.explain(Residue.THEIRS_REJECTED, MOST_ENTRIES + 10)
        shown = await self.show(entries=2**32 - 1)
        self.assertEqual(len(shown.entries), MOST_ENTRIES)
        self.assertEqual(shown.residues["theirs-rejected"], MOST_ENTRIES + 10)

    async def test_what_is_forgotten_is_counted_and_gone(self) -> None:
        self.peers.listed[PEER] = PeerState()
        self.explain(Residue.OURS_REJECTED, 3)
        self.assertEqual((await self.forget(PEER.upper())).forgotten, 3)
        self.assertEqual((await self.forget()).forgotten, 0)
        self.assertEqual(len((await self.show(entries=5)).residues), 0)

    async def test_a_peer_that_is_not_there_is_not_found(self) -> None:
        for call in (self.show(), self.forget()):
            expected = (grpc.StatusCode.NOT_FOUND, f"peer {PEER} is not listed")
            self.assertEqual(await self.status_of(call), expected)

    async def test_what_is_no_relays_url_is_refused(self) -> None:
        for call in (self.show("x"), self.forget("x")):
            code, text = await self.status_of(call)
            self.assertEqual(code, grpc.StatusCode.INVALID_ARGUMENT)
            self.assertIn("expected ws://", text)

    async def test_a_storage_that_fails_is_named(self) -> None:
        async def fail(*_: object) -> None:
            raise StorageError("the disk is full")

        self.patch(self.peers, "describe", fail)
        self.patch(self.peers, "forget_ledger", fail)
        for call in (self.show(), self.forget()):
            expected = (grpc.StatusCode.INTERNAL, "the disk is full")
            self.assertEqual(await self.status_of(call), expected)


class SyncTests(Served):
    def stream(self, url: str = PEER, **more: Any) -> Any:
        return self.stub.Sync(proto.SyncRequest(url=url, **more), timeout=30)

    def read(self, stream: Any) -> Deferred[list[proto.SyncProgress]]:
        return deferToThread(list, stream)

    async def test_progress_comes_in_full_and_ends_complete(self) -> None:
        started = self.next_sync()
        stream = self.stream()
        sync = await started
        sync.tell(round=1, have=5, need=9)
        first = await deferToThread(next, stream)
        self.assertEqual(first, proto.SyncProgress(peer=PEER, round=1, have=5, need=9))
        sync.tell(fetched=3, already=1, sent=2, rejected=3, refused=4, unfetchable=1, explained=1)
        sync.finish()
        last = proto.SyncProgress(
            peer=PEER,
            round=1,
            have=5,
            need=9,
            fetched=3,
            already=1,
            sent=2,
            rejected=3,
            refused=4,
            unfetchable=1,
            explained=1,
            complete=True,
        )
        rest = await self.read(stream)
        self.assertEqual(rest[-1], last)
        self.assertEqual([message.complete for message in rest[:-1]], [False] * len(rest[:-1]))

    async def test_a_sync_that_fails_ends_with_its_error(self) -> None:
        started = self.next_sync()
        found = self.read(self.stream())
        sync = await started
        sync.tell(need=2, unfetchable=1)
        sync.fail(PeerError("the peer fell silent"))
        last = (await found)[-1]
        self.assertEqual(last.error, "the peer fell silent")
        self.assertEqual((last.need, last.unfetchable, last.complete), (2, 1, False))

    async def test_filter_and_since_limit_the_sync(self) -> None:
        for given, since, expected in (
            ("", 0, EVERYTHING),
            ("", 5, Filter(since=5)),
            ('{"kinds":[1],"since":3}', 5, Filter.build(kinds=[1], since=5)),
            ('{"kinds":[1],"since":3}', 1, Filter.build(kinds=[1], since=3)),
            ('{"ids":[]}', 0, Filter(ids=())),
        ):
            started = self.next_sync()
            found = self.read(self.stream(filter=given, since=since))
            sync = await started
            self.assertEqual(sync.wanted, expected)
            sync.finish()
            await found

    async def test_what_is_no_filter_is_refused(self) -> None:
        for more, text in (
            ({"filter": "{"}, "filter is not JSON"),
            ({"filter": '{"search":"x"}'}, "unknown filter field 'search'"),
            ({"since": -1}, "since is negative"),
        ):
            code, details = await self.status_of(self.read(self.stream(**more)))
            self.assertEqual(code, grpc.StatusCode.INVALID_ARGUMENT)
            self.assertIn(text, details)
        self.assertEqual(self.peers.syncs, [])

    async def test_cancelling_the_call_cancels_the_sync(self) -> None:
        started = self.next_sync()
        stream = self.stream()
        sync = await started
        stream.cancel()
        await sync.cancelled

    async def test_both_services_share_the_places_for_syncs(self) -> None:
        running = []
        for call, request in (
            (self.stub.Sync, proto.SyncRequest(url=PEER)),
            (
                NegentropyServiceStub(self.channel).SyncWithPeer,
                orlysync.SyncPeerRequest(peer_url=OTHER),
            ),
        ):
            started = self.next_sync()
            stream = call(request, timeout=30)
            running.append((stream, await started))
        code, text = await self.status_of(self.read(self.stream("wss://third.example")))
        self.assertEqual(code, grpc.StatusCode.RESOURCE_EXHAUSTED)
        self.assertEqual(text, "too many syncs with progress are running; try later")
        for stream, sync in running:
            sync.finish()
            self.assertTrue((await self.read(stream))[-1].complete)
