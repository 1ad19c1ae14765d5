"""The endpoint's port over plain HTTP: NIP-11, the status page, metrics, and rude clients."""

from __future__ import annotations

import re
from collections.abc import Callable
from io import SEEK_END
from pathlib import Path
from typing import Any

import msgspec
from twisted.internet import reactor as installed_reactor
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import TCP4ClientEndpoint, TCP4ServerEndpoint, connectProtocol
from twisted.internet.error import ConnectionDone
from twisted.internet.protocol import Protocol
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure
from twisted.trial.unittest import TestCase
from twisted.web.client import Agent, readBody
from twisted.web.http_headers import Headers
from twisted.web.server import Site
from zope.interface import implementer
from zope.interface.verify import verifyObject

from negd import __version__, config
from negd.errors import StorageError
from negd.interfaces import (
    IPeerSync,
    Outcome,
    PeerDescription,
    PeerState,
    PeerStatus,
    StoreStatistics,
    SyncProgress,
    Use,
)
from negd.nostr.filter import EVERYTHING, Filter
from negd.nostr.messages import Eose, encode_request
from negd.nostr.signing import Signer
from negd.settings import EndpointSettings, RelaySettings, SyncSettings
from negd.storage.memory import MemoryStore
from negd.testing.links import memory_backend
from negd.testing.listeners import RecordingListener
from negd.testing.relays import until
from negd.web.figures import Sources
from negd.web.nip11 import SUPPORTED_NIPS
from negd.web.site import Root, make_site
from negd.websocket.client import Dialer
from negd.websocket.server import ClientFactory

reactor: Any = installed_reactor

METRICS = (Path(__file__).parents[2] / "docs" / "metrics.md").read_text()

GOOD = PeerState(last_sync=1_700_000_000, events_synced=1234)
BAD = PeerState(
    status=PeerStatus.ERROR, last_error="<script>alert('x')</script>", consecutive_failures=3
)


@implementer(IPeerSync)
class Peers:
    """Two peers that nobody syncs with."""

    async def add(self, url: str) -> None:
        raise NotImplementedError

    async def remove(self, url: str) -> None:
        raise NotImplementedError

    def peers(self) -> list[str]:
        return sorted(self.states())

    def states(self) -> dict[str, PeerState]:
        return {"wss://good.example/": GOOD, "wss://bad.example/?a=1&b=2": BAD}

    def visits(self) -> dict[str, PeerState]:
        return {}

    def state(self, url: str) -> PeerState | None:
        return self.states().get(url)

    async def describe(self, url: str, entries: int) -> PeerDescription:
        raise NotImplementedError

    async def forget_ledger(self, url: str) -> int:
        raise NotImplementedError

    def active(self) -> bool:
        return True

    def resume_background(self) -> None:
        raise NotImplementedError

    def pause_background(self) -> None:
        raise NotImplementedError

    async def trigger(self, url: str | None, wanted: Filter) -> None:
        raise NotImplementedError

    async def sync(
        self, url: str, wanted: Filter, progress: Callable[[SyncProgress], None]
    ) -> SyncProgress:
        raise NotImplementedError


class BrokenStore(MemoryStore):
    """Fails when it is asked for its size."""

    error: Exception = StorageError("the disk is gone")

    async def statistics(self) -> StoreStatistics:
        raise self.error


class RawClient(Protocol):
    transport: Any

    def __init__(self) -> None:
        self.data = b""
        self.lost = False

    def dataReceived(self, data: bytes) -> None:
        self.data += data

    def connectionLost(self, reason: object = None) -> None:
        self.lost = True


class SiteTests(TestCase):
    timeout = 20

    async def setUp(self) -> None:  # type: ignore[override]
        verifyObject(IPeerSync, Peers())
        await self.serve()

    async def serve(self, store: MemoryStore | None = None) -> None:
        site = self.make_site(store)
        port = await TCP4ServerEndpoint(reactor, 0, interface="127.0.0.1").listen(site)
        self.addCleanup(port.stopListening)
        self.address = f"127.0.0.1:{port.getHost().port}"

    def make_site(self, store: MemoryStore | None = None, clock: Any = reactor) -> Site:
        endpoint = EndpointSettings(max_subscriptions=17)
        backend = memory_backend(reactor, endpoint, store)
        self.store = backend.store
        self.clients = ClientFactory(backend, reactor)
        sources = Sources(
            store=backend.store,
            peers=Peers(),
            sync=SyncSettings(concurrent=6),
            endpoint=self.clients.load,
            sessions=lambda: Use(7, 70),
            snapshot_bytes=lambda: Use(5, 50),
            outcomes=lambda: {Outcome.STORED: 3, Outcome.INVALID: 2},
            backlog=lambda: Use(4, 40),
            checkers=lambda: Use(1, 2),
            control_calls=lambda: Use(8, 80),
            control_streams=lambda: Use(9, 90),
            refusals=lambda: {"connections": 0, "stall": 11},
            late=lambda: 0.25,
            clock=reactor,
        )
        relay = RelaySettings(name="mirror & more", description="a <test>", contact="")
        return make_site(self.clients.as_resource(), sources, relay, endpoint, clock)

    def connect_in_memory(self, site: Site) -> tuple[Any, StringTransport]:
        """A connection without a socket: the server's end, and what it writes to."""
        server, transport = site.buildProtocol(None), StringTransport()
        assert server is not None
        server.makeConnection(transport)
        return server, transport

    async def ask(self, path: str = "/", method: str = "GET", **headers: str) -> tuple[Any, str]:
        given = {name.replace("_", "-"): [value] for name, value in headers.items()}
        response = await Agent(reactor).request(
            method.encode(), f"http://{self.address}{path}".encode(), Headers(given)
        )
        body = await readBody(response)
        return response, body.decode()

    async def connect(self) -> RawClient:
        host, port = self.address.split(":")
        client = RawClient()
        await connectProtocol(TCP4ClientEndpoint(reactor, host, int(port)), client)
        self.addCleanup(client.transport.abortConnection)
        return client

    def header(self, response: Any, name: str) -> str | None:
        values = response.headers.getRawHeaders(name)
        return None if values is None else str(values[0])

    # --- NIP-11 ---------------------------------------------------------------------------------

    async def test_the_information_document(self) -> None:
        response, body = await self.ask(accept="text/plain, application/nostr+json;q=0.9")
        assert response.code == 200
        assert self.header(response, "content-type") == "application/nostr+json"
        for name in ("origin", "headers", "methods"):
            assert self.header(response, f"access-control-allow-{name}")
        document = msgspec.json.decode(body)
        assert document["name"] == "mirror & more"
        assert "contact" not in document
        assert document["supported_nips"] == [1, 9, 11, 40, 77] == list(SUPPORTED_NIPS)
        assert document["version"] == __version__
        assert document["limitation"]["max_subscriptions"] == 17
        assert document["limitation"]["auth_required"] is False

    async def test_a_web_clients_preflight_is_answered(self) -> None:
        response, body = await self.ask(method="OPTIONS", origin="https://client.example")
        assert (response.code, body) == (204, "")
        assert self.header(response, "access-control-allow-origin") == "*"

    async def test_the_same_port_takes_websockets(self) -> None:
        listener = RecordingListener()
        dialer = Dialer(reactor, SyncSettings())
        link = await dialer.dial(f"ws://{self.address}/", listener)
        link.send(encode_request("a", [EVERYTHING]))
        await until(reactor, lambda: listener.messages == [Eose("a")])
        _, page = await self.ask()
        assert "<dt>clients</dt><dd>1</dd>" in page
        link.close()
        await until(reactor, lambda: listener.reasons)

    # --- status page ----------------------------------------------------------------------------

    async def test_the_status_page_shows_the_figures_and_escapes_everything(self) -> None:
        signer = Signer(b"\x01" * 32)
        await self.store.ingest([signer.sign(created_at=1000 + n) for n in range(1200)])
        response, page = await self.ask()
        assert response.code == 200
        assert self.header(response, "content-type") == "text/html; charset=utf-8"
        assert "default-src 'none'" in (self.header(response, "content-security-policy") or "")
        assert "<h1>mirror &amp; more</h1>" in page
        assert "a &lt;test&gt;" in page
        assert "<dd>1,200</dd>" in page
        assert "wss://bad.example/?a=1&amp;b=2" in page
        assert "failed 3 times: &lt;script&gt;" in page
        assert "<script" not in page
        assert "days ago" in page

    async def test_a_storage_that_fails_is_a_503_with_its_words(self) -> None:
        await self.serve(BrokenStore(reactor))
        response, body = await self.ask()
        assert (response.code, body) == (503, "the disk is gone\n")

    async def test_a_fault_is_logged_and_not_shown(self) -> None:
        store = BrokenStore(reactor)
        store.error = ZeroDivisionError("secret")
        await self.serve(store)
        response, body = await self.ask("/metrics")
        assert (response.code, body) == (500, "internal error\n")
        assert len(self.flushLoggedErrors(ZeroDivisionError)) == 1

    # --- metrics --------------------------------------------------------------------------------

    async def test_metrics_are_read_at_each_scrape(self) -> None:
        response, first = await self.ask("/metrics")
        assert (self.header(response, "content-type") or "").startswith("text/plain")
        await self.store.ingest([Signer(b"\x01" * 32).sign(created_at=1000)])
        _, second = await self.ask("/metrics")
        assert "\nnegd_events 0.0\n" in first
        assert "\nnegd_events 1.0\n" in second
        assert '\nnegd_events_taken_total{outcome="invalid"} 2.0\n' in second
        assert '\nnegd_peer_events_total{peer="wss://good.example/"} 1234.0\n' in second
        assert '\nnegd_peer_failures{peer="wss://bad.example/?a=1&b=2"} 3.0\n' in second
        assert "\nnegd_reactor_late_seconds 0.25\n" in second
        assert "\nprocess_resident_memory_bytes " in second

    async def test_the_document_lists_every_metric_and_no_other(self) -> None:
        _, told = await self.ask("/metrics")
        exported = set(re.findall(r"(?m)^# HELP (negd_\w+) ", told))
        rows = [line for line in METRICS.splitlines() if line.startswith("| `negd_")]
        listed = {name for row in rows for name in re.findall(r"`(negd_\w+)", row.split("|")[1])}
        exported -= {f"{name}_limit" for name in listed}
        assert exported, "nothing is exported"
        missing, gone = sorted(exported - listed), sorted(listed - exported)
        assert not missing, f"docs/metrics.md has no row for {', '.join(missing)}"
        assert not gone, f"docs/metrics.md has rows for what is not exported: {', '.join(gone)}"

    def test_the_document_says_of_each_metric_what_bounds_it_by_settings_that_there_are(
        self,
    ) -> None:
        sections = config.sections()
        rows = [line.split("|") for line in METRICS.splitlines() if line.startswith("| `negd_")]
        for _, name, meaning, bounds, _ in rows:
            assert meaning.strip(), name
            for key, section in re.findall(r"`(\w+)` in `\[(\w+)\]`", bounds):
                assert key in sections[section].__struct_fields__, f"{name}: {key} in [{section}]"

    async def test_what_is_bounded_is_shown_with_its_bound(self) -> None:
        dialer, listener = Dialer(reactor, SyncSettings()), RecordingListener()
        link = await dialer.dial(f"ws://{self.address}/", listener)
        link.send(encode_request("a", [EVERYTHING]))
        await until(reactor, lambda: listener.messages == [Eose("a")])
        _, text = await self.ask("/metrics")
        values = dict(line.rsplit(" ", 1) for line in text.splitlines() if line[0] != "#")
        for name, now, most in (
            ("connections", 1, 1000),
            ("sessions", 7, 70),
            ("snapshot_bytes", 5, 50),
            ("intake_backlog", 4, 40),
            ("checkers", 1, 2),
            ("control_calls", 8, 80),
            ("control_streams", 9, 90),
            ("peers", 2, 1000),
            ("syncs", 0, 6),
            ("client_subscriptions", 1, 17),
            ("client_unanswered", 0, 4000),
            ("client_unanswered_bytes", 0, 4_400_000),
            ("client_outgoing_bytes", 0, 4_000_000),
        ):
            assert float(values[f"negd_{name}"]) == now, name
            assert float(values[f"negd_{name}_limit"]) == most, name
        assert float(values["negd_subscriptions"]) == 1
        for name in ("unanswered", "unanswered_bytes", "outgoing_bytes"):
            assert float(values[f"negd_{name}"]) == 0
        assert values['negd_refusals_total{bound="connections"}'] == "0.0"
        assert values['negd_refusals_total{bound="stall"}'] == "11.0"
        link.close()
        await until(reactor, lambda: listener.reasons)

    # --- what there is not ----------------------------------------------------------------------

    async def test_other_paths_and_methods_are_refused(self) -> None:
        for path in ("/nothing", "/metrics/more", "//", "/%2e%2e/etc/passwd"):
            response, _ = await self.ask(path)
            assert response.code == 404
        response, _ = await self.ask(method="POST")
        assert response.code == 405
        assert self.header(response, "allow") == "GET, HEAD, OPTIONS"
        response, _ = await self.ask("/metrics", method="DELETE")
        assert response.code == 405

    async def test_head_has_the_headers_and_no_body(self) -> None:
        for path, accept in (("/", "*/*"), ("/", "application/nostr+json"), ("/metrics", "*/*")):
            response, body = await self.ask(path, method="HEAD", accept=accept)
            assert (response.code, body) == (200, "")
            assert int(self.header(response, "content-length") or 0) > 100

    async def test_the_server_does_not_say_its_version(self) -> None:
        for path in ("/", "/nothing", "/metrics"):
            response, _ = await self.ask(path)
            assert self.header(response, "server") == "negd"

    async def test_a_websocket_that_is_asked_for_wrongly_is_refused(self) -> None:
        client = await self.connect()
        client.transport.write(b"GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\n\r\n")
        await until(reactor, lambda: client.lost)
        assert client.data.startswith(b"HTTP/1.1 400 ")
        assert not self.clients.countConnections

    def test_a_request_that_comes_in_drops_is_cut_off(self) -> None:
        clock = Clock()
        server, transport = self.connect_in_memory(self.make_site(clock=clock))
        for byte in b"GET / HTTP/1.1\r\nX-Slow: yyyyy":
            assert clock.seconds() < 30 and not transport.disconnecting
            server.dataReceived(bytes([byte]))
            clock.advance(1)
        clock.advance(30 - clock.seconds())
        assert transport.disconnecting
        assert transport.value() == b""
        server.connectionLost(Failure(ConnectionDone()))

    async def test_a_body_is_neither_read_nor_kept(self) -> None:
        kept: list[int] = []
        render = Root.render

        def look(root: Root, request: Any) -> Any:
            kept.append(request.content.seek(0, SEEK_END))
            return render(root, request)

        self.patch(Root, "render", look)
        client = await self.connect()
        client.transport.write(
            b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\n" + b"x" * 1_000_000
        )
        await until(reactor, lambda: b" 405 " in client.data)
        assert kept == [0]

    def test_a_client_that_leaves_before_the_answer_does_no_harm(self) -> None:
        waiting: Deferred[None] = Deferred()

        class SlowStore(MemoryStore):
            async def statistics(self) -> StoreStatistics:
                await waiting
                return await super().statistics()

        clock = Clock()
        server, transport = self.connect_in_memory(self.make_site(SlowStore(clock), clock))
        server.dataReceived(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        server.connectionLost(Failure(ConnectionDone()))
        waiting.callback(None)
        assert transport.value() == b""
        assert self.flushLoggedErrors() == []
