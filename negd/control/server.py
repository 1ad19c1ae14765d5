"""The control service's life: a gRPC server in threads, started and stopped with the daemon."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
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
from negd.control.requests import ReadableRequests
from negd.control.servicer import Servicer
from negd.control.syncs import Syncs
from negd.errors import ConfigError
from negd.interfaces import IPeerSync, ISessions
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
        self._pool: ThreadPoolExecutor | None = None
        self.address = settings.address

    def startService(self) -> None:
        """Listen and answer; ``address`` has the true port from then on.

        :raises ConfigError: the address is malformed, taken, or none of this machine.
        """
        address = Address.parse(self._settings.address)
        address.check_free()
        # One thread is always left for calls that are no streams.
        workers = max(2, self._settings.workers)
        bridge = Bridge(self._reactor, self._settings.deadline)
        pool = ThreadPoolExecutor(workers, thread_name_prefix="control")
        server = self._make_server(pool, workers)
        syncs = Syncs(bridge, self._peers, workers // 2)
        largest = self._settings.max_message
        add_NegentropyServiceServicer_to_server(
            Servicer(bridge, self._sessions, self._peers, self._ready, syncs, largest), server
        )
        add_ControlServiceServicer_to_server(OperatorServicer(bridge, self._peers, syncs), server)
        self.address = str(_bind(server, address))
        server.start()
        self._server, self._bridge, self._pool = server, bridge, pool
        super().startService()

    def _make_server(self, pool: ThreadPoolExecutor, workers: int) -> grpc.Server:
        options = [
            ("grpc.max_receive_message_length", self._settings.max_message),
            ("grpc.max_send_message_length", self._settings.max_message),
            ("grpc.so_reuseport", 0),  # else a second daemon shares the port in silence
            ("grpc.keepalive_time_ms", _KEEPALIVE_MS),  # ends streams to vanished clients
        ]
        queued = workers * QUEUED_PER_WORKER
        server: grpc.Server = grpc.server(
            pool,
            options=options,
            interceptors=[ReadableRequests()],
            maximum_concurrent_rpcs=queued,
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
