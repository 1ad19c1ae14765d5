"""The control service's life: a gRPC server in threads, started and stopped with the daemon."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import grpc
from twisted.application.service import Service
from twisted.internet.defer import Deferred, succeed
from twisted.internet.threads import deferToThreadPool

from negd.control.address import Address
from negd.control.bridge import Bridge
from negd.control.gen.negd.control.v1.service_pb2_grpc import add_ControlServiceServicer_to_server
from negd.control.gen.orlysync.negentropy.v1.service_pb2_grpc import (
    add_NegentropyServiceServicer_to_server,
)
from negd.control.operators import OperatorServicer
from negd.control.pool import CallPool, RefusedCalls
from negd.control.requests import ReadableRequests
from negd.control.servicer import Servicer
from negd.control.syncs import Syncs
from negd.errors import ConfigError
from negd.interfaces import IPeerSync, ISessions, Use
from negd.settings import ControlSettings

GRACE = 5.0
"""Seconds that calls under way are given when the service stops."""

QUEUED_PER_WORKER = 16
"""Calls that may wait or run, for each pool thread; further ones get RESOURCE_EXHAUSTED."""

_KEEPALIVE_MS = 60_000


class ControlService(Service):
    """The gRPC server.

    Threads start in :meth:`startService`, never before: a daemon forks first.

    :param reactor: an IReactorFromThreads with a thread pool.
    :param ready: whether everything behind the service runs; called in the reactor thread.
    """

    def __init__(
        self,
        reactor: Any,
        settings: ControlSettings,
        sessions: ISessions,
        peers: IPeerSync,
        ready: Callable[[], bool],
    ) -> None:
        self._reactor = reactor
        self._settings = settings
        self._sessions = sessions
        self._peers = peers
        self._ready = ready
        self._server: grpc.Server | None = None
        self._bridge: Bridge | None = None
        # One thread is always left for calls that are no streams.
        self._workers = max(2, settings.workers)
        self._most_calls = self._workers * QUEUED_PER_WORKER
        self._pool: CallPool | None = None
        self._refused: RefusedCalls | None = None
        self._syncs: Syncs | None = None
        self.address = settings.address

    def startService(self) -> None:
        """Listen and answer; ``address`` has the true port from then on.

        :raises ConfigError: the address is malformed, taken, or none of this machine.
        """
        address = Address.parse(self._settings.address)
        address.check_free()
        bridge = Bridge(self._reactor, self._settings.deadline)
        pool = CallPool(self._workers)
        refused = RefusedCalls(pool, self._most_calls)
        server = self._make_server(pool, refused)
        syncs = Syncs(bridge, self._peers, self._most_streams)
        largest = self._settings.max_message
        add_NegentropyServiceServicer_to_server(
            Servicer(bridge, self._sessions, self._peers, self._ready, syncs, largest), server
        )
        add_ControlServiceServicer_to_server(OperatorServicer(bridge, self._peers, syncs), server)
        self.address = str(_bind(server, address))
        server.start()
        self._server, self._bridge, self._pool = server, bridge, pool
        self._refused, self._syncs = refused, syncs
        super().startService()

    @property
    def _most_streams(self) -> int:
        return self._workers // 2

    @property
    def calls(self) -> Use:
        """Calls that wait or run, streams among them."""
        return Use(0 if self._pool is None else len(self._pool.calls), self._most_calls)

    @property
    def streams(self) -> Use:
        """Syncs with progress that run."""
        return Use(0 if self._syncs is None else self._syncs.running, self._most_streams)

    @property
    def refusals(self) -> dict[str, int]:
        """How many calls and streams were too many, since the start."""
        return {
            "control_calls": 0 if self._refused is None else self._refused.count,
            "control_streams": 0 if self._syncs is None else self._syncs.refused,
        }

    def _make_server(self, pool: CallPool, refused: RefusedCalls) -> grpc.Server:
        options = [
            ("grpc.max_receive_message_length", self._settings.max_message),
            ("grpc.max_send_message_length", self._settings.max_message),
            ("grpc.so_reuseport", 0),  # else a second daemon shares the port in silence
            ("grpc.keepalive_time_ms", _KEEPALIVE_MS),  # ends streams to vanished clients
        ]
        server: grpc.Server = grpc.server(
            pool,
            options=options,
            interceptors=[refused, ReadableRequests()],
            maximum_concurrent_rpcs=self._most_calls,
        )
        return server

    def stopService(self) -> Deferred[None]:
        """Refuse new calls, end streams, and return once calls under way have ended.

        They are given :data:`GRACE` seconds, then they are cancelled.
        """
        super().stopService()
        server, self._server = self._server, None
        if server is None or self._bridge is None:
            return succeed(None)
        self._bridge.drain()
        stopped = server.stop(GRACE)
        waiting = deferToThreadPool(
            self._reactor, self._reactor.getThreadPool(), stopped.wait, 2 * GRACE
        )
        return waiting.addBoth(self._let_go)

    def _let_go(self, _: object) -> None:
        if self._pool is not None:
            self._pool.shutdown(wait=False)
        self._pool = self._bridge = None


def _bind(server: grpc.Server, address: Address) -> Address:
    """Have the server listen; the address with its true port.

    :raises ConfigError: it cannot.
    """
    try:
        port = server.add_insecure_port(str(address))
    except RuntimeError:
        port = 0
    if not port:
        raise ConfigError(f"control address {address}: cannot listen there")
    return Address(address.path, address.host, 0 if address.path is not None else port)
