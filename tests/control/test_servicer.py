"""The fifteen calls, from a real gRPC client over a real socket to services that a test drives."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import grpc
from twisted.internet import reactor
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.threads import deferToThread
from twisted.trial.unittest import TestCase
from zope.interface.verify import verifyObject

from negd.control.gen.orlysync.common.v1 import types_pb2 as common
from negd.control.gen.orlysync.negentropy.v1 import service_pb2 as proto
from negd.control.gen.orlysync.negentropy.v1.service_pb2_grpc import NegentropyServiceStub
from negd.control.server import ControlService
from negd.errors import LimitReached, PeerError, ProtocolViolation, StorageError
from negd.interfaces import IPeerSync, ISessions, PeerState, PeerStatus, Use
from negd.nostr.filter import EVERYTHING, Filter
from negd.nostr.signing import Signer
from negd.reconcile import Initiator, RecordSet, Step
from negd.settings import ControlSettings, SessionSettings
from negd.storage.memory import MemoryStore
from negd.sync.offload import inline
from negd.sync.sessions import SessionTable
from negd.testing.control import FakePeers, FakeSessions, FakeSync

T = TypeVar("T")

EMPTY = common.Empty()
PEER, OTHER = "wss://peer.example", "wss://other.example"
ID = b"\x07" * 32


class Served(TestCase):
    """A running service and a client of it. Calls block, so they are made in threads."""

    timeout = 60

    def setUp(self) -> None:
        self.sessions = FakeSessions()
        self.peers = FakePeers()
        self.is_ready = True
        self.serve()

    def serve(self, sessions: Any = None, **settings: Any) -> None:
        """Start the service anew."""
        self.service = ControlService(
            reactor,
            ControlSettings(address="127.0.0.1:0", **settings),
            sessions or self.sessions,
            self.peers,
            lambda: self.is_ready,
        )
        self.service.startService()
        self.addCleanup(self.service.stopService)
        self.channel = grpc.insecure_channel(self.service.address)
        self.addCleanup(self.channel.close)
        self.stub = NegentropyServiceStub(self.channel)

    def restart(self, **settings: Any) -> Deferred[None]:
        stopped = self.service.stopService()
        return stopped.addCallback(lambda _: self.serve(**settings))

    def call(self, method: Callable[..., T], request: Any = EMPTY, **more: Any) -> Deferred[T]:
        return deferToThread(method, request, timeout=more.pop("timeout", 30), **more)

    async def status_of(self, call: Deferred[Any]) -> tuple[grpc.StatusCode, str]:
        """The status that a call fails with."""
        error: Any = await self.assertFailure(call, grpc.RpcError)
        return error.code(), error.details()

    def next_sync(self) -> Deferred[FakeSync]:
        """Fires with the next sync as it starts."""
        started: Deferred[FakeSync] = Deferred()
        self.peers.on_sync = started.callback
        return started


class ServiceTests(Served):
    def test_the_fakes_are_what_they_stand_for(self) -> None:
        verifyObject(ISessions, self.sessions)
        verifyObject(IPeerSync, self.peers)

    async def test_ready_is_what_the_daemon_says(self) -> None:
        self.assertTrue((await self.call(self.stub.Ready)).ready)
        self.is_ready = False
        self.assertFalse((await self.call(self.stub.Ready)).ready)

    async def test_stop_and_start_pause_and_resume_what_syncs_by_itself(self) -> None:
        self.assertTrue((await self.call(self.stub.GetSyncStatus)).active)
        await self.call(self.stub.Stop)
        self.assertFalse(self.peers.background)
        self.assertFalse((await self.call(self.stub.GetSyncStatus)).active)
        await self.call(self.stub.Start)
        self.assertTrue(self.peers.background)

    async def test_a_call_that_takes_too_long_fails_and_its_work_is_cancelled(self) -> None:
        await self.restart(deadline=0.05)
        self.sessions.step = None
        request = proto.NegOpenRequest(subscription_id="s", initial_message=b"a")
        code, _ = await self.status_of(self.call(self.stub.HandleNegOpen, request))
        self.assertEqual(code, grpc.StatusCode.DEADLINE_EXCEEDED)
        self.assertEqual(self.sessions.cancelled, 1)

    async def test_the_clients_own_deadline_cancels_the_work(self) -> None:
        self.sessions.step = None
        cancelled: Deferred[None] = Deferred()
        self.patch(self.sessions, "_cancelled", lambda _: cancelled.callback(None))
        request = proto.NegOpenRequest(subscription_id="s", initial_message=b"a")
        call = self.call(self.stub.HandleNegOpen, request, timeout=0.2)
        self.assertEqual((await self.status_of(call))[0], grpc.StatusCode.DEADLINE_EXCEEDED)
        await cancelled

    async def test_a_fault_of_ours_is_told_in_one_line_and_logged(self) -> None:
        self.patch(self.peers, "peers", lambda: 1 / 0)
        code, text = await self.status_of(self.call(self.stub.GetPeers))
        self.assertEqual((code, text), (grpc.StatusCode.INTERNAL, "internal error, see the log"))
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)

    async def test_a_request_that_cannot_be_decoded_is_the_callers_mistake(self) -> None:
        for method, kind in (("AddPeer", "unary_unary"), ("SyncWithPeer", "unary_stream")):
            path = f"/orlysync.negentropy.v1.NegentropyService/{method}"
            raw = getattr(self.channel, kind)(path)

            def call(request: bytes, timeout: float, raw: Any = raw) -> Any:
                answer = raw(request, timeout=timeout)
                return list(answer) if hasattr(answer, "__iter__") else answer

            code, text = await self.status_of(
                deferToThread(call, b"\xff\xff\xff", 10)  # no message of any kind
            )
            self.assertEqual(code, grpc.StatusCode.INVALID_ARGUMENT)
            self.assertEqual(text, "the request cannot be decoded")


class SessionTests(Served):
    def open(self, **fields: Any) -> Deferred[proto.NegOpenResponse]:
        fields = {"subscription_id": "s", "connection_id": "c", "initial_message": b"a"} | fields
        return self.call(self.stub.HandleNegOpen, proto.NegOpenRequest(**fields))

    def message(self, **fields: Any) -> Deferred[proto.NegMsgResponse]:
        fields = {"subscription_id": "s", "connection_id": "c", "message": b"b"} | fields
        return self.call(self.stub.HandleNegMsg, proto.NegMsgRequest(**fields))

    async def test_open_and_message_carry_the_whole_answer(self) -> None:
        self.sessions.step = Step(b"answer", [ID], [b"\x08" * 32], complete=True)
        for answer in (await self.open(), await self.message()):
            self.assertEqual(answer.message, b"answer")
            self.assertEqual(list(answer.have_ids), [ID])
            self.assertEqual(list(answer.need_ids), [b"\x08" * 32])
            self.assertTrue(answer.complete)
            self.assertEqual(answer.error, "")
        self.assertEqual(self.sessions.received, [b"a", b"b"])

    async def test_the_filter_reaches_the_session(self) -> None:
        tags = {"#p": common.TagSet(values=[ID]), "t": common.TagSet(values=[b"x"])}
        await self.open(filter=common.Filter(kinds=[1], tags=tags, limit=0))
        await self.open()
        wanted = Filter.build(kinds=[1], tags={"p": [ID.hex()], "t": ["x"]}, limit=0)
        self.assertEqual(self.sessions.opened, [wanted, EVERYTHING])

    async def test_an_error_is_told_alone(self) -> None:
        self.sessions.step = ProtocolViolation("empty message")
        only = proto.NegOpenResponse(error="invalid: empty message")
        self.assertEqual(await self.open(), only)
        self.sessions.step = StorageError("disk full")
        self.assertEqual(await self.message(), proto.NegMsgResponse(error="error: disk full"))

    async def test_a_message_without_a_session_is_told_so(self) -> None:
        only = proto.NegMsgResponse(error="closed: session not found")
        self.assertEqual(await self.message(), only)

    async def test_a_filter_that_is_none_is_told_to_the_client(self) -> None:
        answer = await self.open(filter=common.Filter(search=b"x"))
        self.assertEqual(answer, proto.NegOpenResponse(error="invalid: search is not supported"))
        self.assertEqual(self.sessions.live, {})

    async def test_ids_that_no_client_has_are_refused(self) -> None:
        for fields, text in (
            ({"subscription_id": ""}, "subscription id must have 1 to 64 characters"),
            ({"subscription_id": "s" * 65}, "subscription id must have 1 to 64 characters"),
            ({"connection_id": "c" * 257}, "connection id must have at most 256 characters"),
        ):
            self.assertEqual((await self.open(**fields)).error, f"invalid: {text}")
            self.assertEqual((await self.message(**fields)).error, f"invalid: {text}")

    async def test_close_ends_that_session_only(self) -> None:
        for connection in ("c", "d", ""):
            await self.open(connection_id=connection)
        request = proto.NegCloseRequest(subscription_id="s", connection_id="c")
        await self.call(self.stub.HandleNegClose, request)
        await self.call(self.stub.HandleNegClose, request)  # an unknown one is no error
        self.assertEqual(await self.connections(), ["d", ""])
        await self.call(self.stub.HandleNegClose, proto.NegCloseRequest(subscription_id="s"))
        self.assertEqual(await self.connections(), ["d"])

    async def test_a_caller_without_connection_ids_has_its_session(self) -> None:
        await self.open(connection_id="")
        self.assertEqual((await self.message(connection_id="")).error, "")
        self.assertEqual(await self.connections(), [""])

    async def connections(self) -> list[str]:
        listed = await self.call(self.stub.ListSessions)
        return [session.connection_id for session in listed.sessions]

    async def test_listing_tells_of_each_session(self) -> None:
        await self.open()
        expected = proto.ClientSession(
            subscription_id="s",
            connection_id="c",
            created_at=100,
            last_activity=200,
            round_count=1,
        )
        listed = await self.call(self.stub.ListSessions)
        self.assertEqual(list(listed.sessions), [expected])

    async def test_closing_without_a_connection_closes_all_of_that_name(self) -> None:
        for connection, subscription in (("c", "s"), ("d", "s"), ("c", "t")):
            await self.open(connection_id=connection, subscription_id=subscription)
        await self.call(self.stub.CloseSession, proto.CloseSessionRequest(subscription_id="s"))
        self.assertEqual(list(self.sessions.live), [("c", "t")])
        request = proto.CloseSessionRequest(subscription_id="t", connection_id="c")
        await self.call(self.stub.CloseSession, request)
        self.assertEqual(self.sessions.live, {})

    async def test_messages_of_16_mib_pass_both_ways(self) -> None:
        await self.service.stopService()
        self.serve()
        largest = 16 * 1024 * 1024
        with grpc.insecure_channel(
            self.service.address, options=[("grpc.max_receive_message_length", largest)]
        ) as channel:
            stub = NegentropyServiceStub(channel)
            body = b"x" * (largest - 1000)
            self.sessions.step = Step(body, [], [], complete=False)
            request = proto.NegOpenRequest(subscription_id="s", initial_message=body)
            answer = await self.call(stub.HandleNegOpen, request)
        self.assertEqual(self.sessions.received, [body])
        self.assertEqual(answer.message, body)

    async def test_lists_too_long_to_send_are_cut_and_the_message_is_whole(self) -> None:
        await self.restart(max_message=10_000)
        self.sessions.step = Step(b"x" * 5000, [ID] * 100, [b"\x08" * 32] * 1000, complete=True)
        answer = await self.open()
        self.assertEqual(len(answer.message), 5000)
        self.assertEqual(len(answer.have_ids), 100)
        self.assertEqual(len(answer.need_ids), 45)
        self.assertTrue(answer.complete)

    async def test_a_client_reconciles_through_the_service(self) -> None:
        """The true session table behind the service; ids as the reconciliation finds them."""
        store = MemoryStore(reactor)
        alice = Signer(b"\x01" * 32)
        events = [alice.sign(created_at=1000 + n, kind=1) for n in range(300)]
        await store.ingest(events)
        table = SessionTable(store, SessionSettings(), reactor, inline)
        self.addCleanup(table.close_all)
        await self.service.stopService()
        self.serve(table)
        mine = RecordSet.from_records(b"".join(event.record for event in events[:280]))
        initiator = Initiator(mine)
        answer: Any = await self.open(initial_message=initiator.initiate())
        need: set[bytes] = set()
        while True:
            self.assertEqual(answer.error, "")
            step = initiator.reconcile(answer.message)
            need.update(step.need)
            if step.reply is None:
                break
            answer = await self.message(message=step.reply)
        self.assertEqual(need, {event.id_bytes for event in events[280:]})
        self.assertEqual(set(answer.have_ids), need)
        self.assertTrue(answer.complete)
        refused = await self.open(initial_message=b"")
        self.assertEqual(refused.error, "blocked: NEG-OPEN requires initialMessage from initiator")


class PeerTests(Served):
    def add(self, url: str) -> Deferred[common.Empty]:
        return self.call(self.stub.AddPeer, proto.AddPeerRequest(peer_url=url))

    def remove(self, url: str) -> Deferred[common.Empty]:
        return self.call(self.stub.RemovePeer, proto.RemovePeerRequest(peer_url=url))

    async def test_peers_come_and_go(self) -> None:
        await self.add(PEER)
        await self.add(OTHER)
        await self.add(PEER)
        self.assertEqual(list((await self.call(self.stub.GetPeers)).peers), [OTHER, PEER])
        await self.remove(PEER)
        await self.remove(PEER)
        self.assertEqual(list((await self.call(self.stub.GetPeers)).peers), [OTHER])

    async def test_what_is_no_relays_url_is_refused(self) -> None:
        for call in (
            self.add("http://x"),
            self.call(self.stub.TriggerSync, proto.TriggerSyncRequest(peer_url="x y")),
            deferToThread(
                list, self.stub.SyncWithPeer(proto.SyncPeerRequest(peer_url=""), timeout=30)
            ),
        ):
            code, text = await self.status_of(call)
            self.assertEqual(code, grpc.StatusCode.INVALID_ARGUMENT)
            self.assertIn("expected ws://", text)

    async def test_a_bound_that_is_reached_has_its_status(self) -> None:
        async def add(url: str) -> None:
            raise LimitReached("too many peers (limit 1)")

        self.patch(self.peers, "add", add)
        code, text = await self.status_of(self.add(PEER))
        self.assertEqual(code, grpc.StatusCode.RESOURCE_EXHAUSTED)
        self.assertEqual(text, "too many peers (limit 1)")

    async def test_the_status_tells_of_every_peer(self) -> None:
        self.assertEqual(
            await self.call(self.stub.GetSyncStatus), proto.SyncStatusResponse(active=True)
        )
        self.peers.listed = {
            PEER: PeerState(last_sync=50, events_synced=7),
            OTHER: PeerState(
                last_sync=40,
                status=PeerStatus.ERROR,
                last_error="no answer",
                consecutive_failures=3,
            ),
        }
        other = proto.PeerSyncState(
            peer_url=OTHER,
            last_sync=40,
            status="error",
            last_error="no answer",
            consecutive_failures=3,
        )
        peer = proto.PeerSyncState(peer_url=PEER, last_sync=50, events_synced=7, status="idle")
        self.assertEqual(
            await self.call(self.stub.GetSyncStatus),
            proto.SyncStatusResponse(
                active=True, last_sync=50, peer_count=2, peer_states=[other, peer]
            ),
        )

    async def test_the_status_tells_of_a_peer_that_is_only_visited(self) -> None:
        self.peers.listed = {PEER: PeerState()}
        self.peers.visited = {OTHER: PeerState(status=PeerStatus.SYNCING)}
        told = await self.call(self.stub.GetSyncStatus)
        states = [(state.peer_url, state.status) for state in told.peer_states]
        self.assertEqual(states, [(OTHER, "syncing"), (PEER, "idle")])
        self.assertEqual(told.peer_count, 1)

    async def test_one_peers_state_is_found_by_any_spelling(self) -> None:
        self.peers.listed = {PEER: PeerState(last_sync=50)}
        request = proto.PeerSyncStateRequest(peer_url=PEER.upper())
        found = await self.call(self.stub.GetPeerSyncState, request)
        self.assertTrue(found.found)
        self.assertEqual(found.state.last_sync, 50)
        request = proto.PeerSyncStateRequest(peer_url=OTHER)
        self.assertEqual(
            await self.call(self.stub.GetPeerSyncState, request), proto.PeerSyncStateResponse()
        )

    async def test_trigger_starts_one_or_all_with_the_filter(self) -> None:
        await self.add(PEER)
        some = common.Filter(kinds=[1])
        request = proto.TriggerSyncRequest(peer_url=PEER, filter=some)
        await self.call(self.stub.TriggerSync, request)
        await self.call(self.stub.TriggerSync, proto.TriggerSyncRequest())
        self.assertEqual(
            self.peers.triggered, [(PEER, Filter.build(kinds=[1])), (None, EVERYTHING)]
        )

    async def test_trigger_of_an_unlisted_peer_is_not_found(self) -> None:
        request = proto.TriggerSyncRequest(peer_url=PEER)
        code, text = await self.status_of(self.call(self.stub.TriggerSync, request))
        self.assertEqual(code, grpc.StatusCode.NOT_FOUND)
        self.assertEqual(text, f"peer {PEER} is not listed")

    async def test_trigger_with_a_filter_that_is_none_is_refused(self) -> None:
        request = proto.TriggerSyncRequest(filter=common.Filter(since=-1))
        code, text = await self.status_of(self.call(self.stub.TriggerSync, request))
        self.assertEqual(code, grpc.StatusCode.INVALID_ARGUMENT)
        self.assertEqual(text, "filter field since is negative")


class SyncTests(Served):
    def stream(self, url: str = PEER, **more: Any) -> Any:
        return self.stub.SyncWithPeer(proto.SyncPeerRequest(peer_url=url, **more), timeout=30)

    def read(self, stream: Iterator[T]) -> Deferred[list[T]]:
        return deferToThread(list, stream)

    async def test_progress_comes_while_the_sync_runs_and_ends_complete(self) -> None:
        started = self.next_sync()
        stream = self.stream()
        sync = await started
        sync.tell(round=1, have=3, need=2)
        first = await deferToThread(next, stream)
        self.assertEqual(
            first, proto.SyncProgress(peer_url=PEER, round=1, have_count=3, need_count=2)
        )
        sync.tell(fetched=2)
        self.assertEqual((await deferToThread(next, stream)).fetched_count, 2)
        sync.tell(sent=3)
        sync.finish()
        rest = await self.read(stream)
        last = proto.SyncProgress(
            peer_url=PEER, round=1, have_count=3, need_count=2, fetched_count=2, sent_count=3
        )
        self.assertEqual(rest[0], last)
        last.complete = True
        self.assertEqual(rest[1:], [last])

    async def test_a_sync_that_fails_ends_with_its_error(self) -> None:
        started = self.next_sync()
        found = self.read(self.stream())
        sync = await started
        sync.tell(need=2)
        sync.fail(PeerError("the peer does not speak negentropy"))
        last = (await found)[-1]
        self.assertEqual(last.error, "the peer does not speak negentropy")
        self.assertEqual((last.need_count, last.complete), (2, False))

    async def test_a_sync_that_somebody_else_cancels_ends_with_an_error(self) -> None:
        started = self.next_sync()
        found = self.read(self.stream())
        (await started).fail(CancelledError())
        self.assertEqual([message.error for message in await found], ["the sync was cancelled"])

    async def test_a_second_sync_with_the_same_peer_is_told_so(self) -> None:
        started = self.next_sync()
        found = self.read(self.stream())
        sync = await started
        second = await self.read(self.stream())
        self.assertEqual(
            [message.error for message in second], [f"a sync with {PEER} is already running"]
        )
        sync.finish()
        await found

    async def test_filter_and_since_limit_the_sync(self) -> None:
        for since, expected in ((5, 5), (1, 3), (0, 3)):
            started = self.next_sync()
            found = self.read(self.stream(filter=common.Filter(kinds=[1], since=3), since=since))
            sync = await started
            self.assertEqual(sync.wanted, Filter.build(kinds=[1], since=expected))
            sync.finish()
            await found

    async def test_a_filter_that_is_none_is_refused(self) -> None:
        for more, text in (
            ({"filter": common.Filter(search=b"x")}, "search is not supported"),
            ({"since": -1}, "since is negative"),
        ):
            self.assertEqual(
                await self.status_of(self.read(self.stream(**more))),
                (grpc.StatusCode.INVALID_ARGUMENT, text),
            )
        self.assertEqual(self.peers.syncs, [])

    async def test_cancelling_the_call_cancels_the_sync(self) -> None:
        started = self.next_sync()
        stream = self.stream()
        sync = await started
        stream.cancel()
        await sync.cancelled

    async def test_a_client_that_goes_away_cancels_its_sync(self) -> None:
        started = self.next_sync()
        stream = self.stream()
        sync = await started
        await deferToThread(self.channel.close)
        await sync.cancelled
        del stream

    async def test_a_client_that_does_not_read_holds_up_nothing(self) -> None:
        """Far more progress than any buffer on the way takes; the newest comes out."""
        started = self.next_sync()
        stream = self.stream()
        sync = await started
        for _ in range(200_000):
            sync.tell(fetched=1)
        self.assertTrue((await self.call(self.stub.Ready)).ready)
        sync.finish()
        messages = await self.read(stream)
        counts = [message.fetched_count for message in messages]
        self.assertEqual(counts, sorted(counts))
        self.assertEqual(counts[-1], 200_000)
        self.assertTrue(messages[-1].complete)
        self.assertLess(len(messages), 200_000)

    async def test_syncs_leave_room_for_other_calls(self) -> None:
        await self.restart(workers=4)
        running = []
        for number in range(2):
            started = self.next_sync()
            stream = self.stream(f"wss://{number}")
            running.append((stream, await started))
        self.assertEqual(
            await self.status_of(self.read(self.stream())),
            (
                grpc.StatusCode.RESOURCE_EXHAUSTED,
                "too many syncs with progress are running; try later",
            ),
        )
        self.assertEqual(self.service.streams, Use(2, 2))
        self.assertEqual(self.service.refusals, {"control_calls": 0, "control_streams": 1})
        self.assertTrue((await self.call(self.stub.Ready)).ready)
        running[0][0].cancel()
        await running[0][1].cancelled
        running[1][1].finish()
        self.assertTrue((await self.read(running[1][0]))[-1].complete)
        for _ in range(5):  # the places are free again, each time
            started = self.next_sync()
            found = self.read(self.stream())
            (await started).finish()
            self.assertTrue((await found)[-1].complete)

    async def test_a_client_that_neither_reads_nor_stays_gives_its_place_back(self) -> None:
        await self.restart(workers=2)
        started = self.next_sync()
        stream = self.stream("wss://" + "a" * 50_000)
        sync = await started
        for _ in range(10):  # more than the client takes without reading
            sync.tell(round=1)
        self.assertTrue((await self.call(self.stub.Ready)).ready)
        stream.cancel()
        await sync.cancelled
        self.peers.on_sync = FakeSync.finish
        answer: list[Any] = []
        for _ in range(100):  # the place is given back a moment after the sync has ended
            try:
                answer = await self.read(self.stream())
                break
            except grpc.RpcError:
                continue
        self.assertTrue(answer[-1].complete)

    async def test_one_worker_is_enough_for_a_sync_and_ready(self) -> None:
        await self.restart(workers=1)
        started = self.next_sync()
        found = self.read(self.stream())
        sync = await started
        self.assertTrue((await self.call(self.stub.Ready)).ready)
        sync.finish()
        await found
