"""The control service's life: where it listens, what stops a start, and how it stops."""

from __future__ import annotations

import socket
import threading
from pathlib import Path
from time import monotonic
from typing import Any

import grpc
from twisted.internet import reactor
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.threads import deferToThread
from twisted.trial.unittest import TestCase

from negd.control import server
from negd.control.gen.orlysync.common.v1 import types_pb2 as common
from negd.control.gen.orlysync.negentropy.v1 import service_pb2 as proto
from negd.control.gen.orlysync.negentropy.v1.service_pb2_grpc import NegentropyServiceStub
from negd.control.server import ControlService
from negd.errors import ConfigError
from negd.interfaces import Use
from negd.settings import ControlSettings
from negd.testing.control import FakePeers, FakeSessions, FakeSync
from negd.testing.relays import until


class ServerTests(TestCase):
    timeout = 60

    def setUp(self) -> None:
        self.sessions = FakeSessions()
        self.peers = FakePeers()

    def make(self, address: str = "127.0.0.1:0", **more: Any) -> ControlService:
        settings = ControlSettings(address=address, **more)
        return ControlService(reactor, settings, self.sessions, self.peers, lambda: True)

    def start(self, address: str = "127.0.0.1:0") -> ControlService:
        service = self.make(address)
        service.startService()
        self.addCleanup(service.stopService)
        return service

    def client(self, service: ControlService) -> Any:
        channel = grpc.insecure_channel(service.address)
        self.addCleanup(channel.close)
        return NegentropyServiceStub(channel)

    async def ready(self, service: ControlService) -> bool:
        stub = self.client(service)
        answer = await deferToThread(stub.Ready, common.Empty(), timeout=30)
        return bool(answer.ready)

    def test_making_a_service_starts_no_thread_and_opens_nothing(self) -> None:
        threads = threading.active_count()
        with socket.create_server(("127.0.0.1", 0)) as taken:
            self.make(f"127.0.0.1:{taken.getsockname()[1]}")
        self.assertEqual(threading.active_count(), threads)

    async def test_it_listens_on_a_port(self) -> None:
        service = self.start()
        self.assertRegex(service.address, r"^127\.0\.0\.1:[1-9]\d+$")
        self.assertTrue(await self.ready(service))

    async def test_it_listens_on_a_path(self) -> None:
        path = Path(self.mktemp()).absolute()
        service = self.start(f"unix:{path}")
        self.assertTrue(path.is_socket())
        self.assertTrue(await self.ready(service))

    async def test_it_takes_over_a_socket_that_nobody_listens_on(self) -> None:
        path = Path(self.mktemp()).absolute()
        with socket.socket(socket.AF_UNIX) as gone:
            gone.bind(str(path))
        self.assertTrue(await self.ready(self.start(f"unix:{path}")))

    def test_a_taken_port_stops_the_start(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as taken:
            address = f"127.0.0.1:{taken.getsockname()[1]}"
            with self.assertRaises(ConfigError) as caught:
                self.make(address).startService()
        self.assertEqual(
            caught.exception.text,
            f"control address {address}: cannot listen there (Address already in use)",
        )

    async def test_a_second_daemon_on_the_same_address_does_not_start(self) -> None:
        path = Path(self.mktemp()).absolute()
        for address in ("127.0.0.1:0", f"unix:{path}"):
            first = self.start(address)
            with self.assertRaises(ConfigError):
                self.make(first.address).startService()
            self.assertTrue(await self.ready(first))

    def test_what_grpc_alone_finds_out_stops_the_start_too(self) -> None:
        address = f"unix:{Path(self.mktemp()).absolute()}{'x' * 108}"
        with self.assertRaises(ConfigError) as caught:
            self.make(address).startService()
        self.assertEqual(caught.exception.text, f"control address {address}: cannot listen there")

    async def test_it_can_start_again_on_the_same_port(self) -> None:
        service = self.start()
        await service.stopService()
        again = self.start(service.address)
        self.assertEqual(again.address, service.address)
        self.assertTrue(await self.ready(again))

    async def test_a_service_that_never_started_stops_at_once(self) -> None:
        service = self.make()
        threads = threading.active_count()
        self.assertIsNone(self.successResultOf(service.stopService()))
        self.assertFalse(service.running)
        self.assertEqual(threading.active_count(), threads)
        service.startService()
        self.addCleanup(service.stopService)
        self.assertTrue(await self.ready(service))

    async def test_stopping_ends_streams_and_their_syncs(self) -> None:
        started: Deferred[FakeSync] = Deferred()
        self.peers.on_sync = started.callback
        service = self.start()
        request = proto.SyncPeerRequest(peer_url="wss://a.example")
        stream = self.client(service).SyncWithPeer(request, timeout=30)
        sync = await started
        sync.tell(round=1)
        await deferToThread(next, stream)
        before = monotonic()
        await service.stopService()
        self.assertLess(monotonic() - before, 2)
        await sync.cancelled
        error: Any = await self.assertFailure(deferToThread(list, stream), grpc.RpcError)
        self.assertEqual(error.code(), grpc.StatusCode.UNAVAILABLE)
        self.assertEqual(error.details(), "the daemon is stopping")

    async def test_stopping_lets_calls_under_way_finish(self) -> None:
        service = self.start()
        begun, answer = self.hold_calls_to_add()
        added = self.add(service)
        await begun
        stopped = service.stopService()
        answer.callback(None)
        self.assertEqual(await added, common.Empty())
        await stopped

    async def test_stopping_does_not_wait_for_ever(self) -> None:
        self.patch(server, "GRACE", 0.1)
        service = self.start()
        begun, _ = self.hold_calls_to_add()
        added = self.add(service)
        await begun
        await service.stopService()
        error: Any = await self.assertFailure(added, grpc.RpcError)
        self.assertIn(error.code(), (grpc.StatusCode.CANCELLED, grpc.StatusCode.UNAVAILABLE))

    async def test_calls_are_counted_and_those_beyond_the_limit_too(self) -> None:
        self.patch(server, "QUEUED_PER_WORKER", 1)
        service = self.make(workers=2)
        self.assertEqual((service.calls, service.streams), (Use(0, 2), Use(0, 1)))
        service.startService()
        self.addCleanup(service.stopService)
        answer: Deferred[None] = Deferred()
        begun: list[str] = []

        async def add(url: str) -> None:
            begun.append(url)
            await answer

        self.patch(self.peers, "add", add)
        added = [self.add(service), self.add(service)]
        await until(reactor, lambda: len(begun) == 2)
        self.assertEqual(service.calls, Use(2, 2))
        error: Any = await self.assertFailure(self.add(service), grpc.RpcError)
        self.assertEqual(error.code(), grpc.StatusCode.RESOURCE_EXHAUSTED)
        self.assertEqual(service.refusals, {"control_calls": 1, "control_streams": 0})
        answer.callback(None)
        await gatherResults(added)
        await until(reactor, lambda: service.calls == Use(0, 2))

    def add(self, service: ControlService) -> Deferred[common.Empty]:
        request = proto.AddPeerRequest(peer_url="wss://late.example")
        return deferToThread(self.client(service).AddPeer, request, timeout=30)

    def hold_calls_to_add(self) -> tuple[Deferred[None], Deferred[None]]:
        """The first fires once a call to add a peer has begun, the second lets it end."""
        begun: Deferred[None] = Deferred()
        answer: Deferred[None] = Deferred()

        async def add(url: str) -> None:
            begun.callback(None)
            await answer

        self.patch(self.peers, "add", add)
        return begun, answer
