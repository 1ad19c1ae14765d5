"""What an operator may say of a peer, and what becomes of it: a real daemon, and real others."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing
from ipaddress import ip_address

import pytest

from negd.control.client import ControlClient, ControlError
from negd.errors import PeerError
from negd.interfaces import PeerDescription, PeerStatus
from negd.nostr.event import Event
from negd.nostr.filter import Filter
from negd.testing.ports import free_port
from negd.testing.processes import DaemonProcess
from negd.testing.stores import peers_in
from tests.integration.conftest import MakeDaemon, ids_of, lasting_events

# pproxy asks for an event loop that newer Pythons do not make by themselves.
PPROXY = "import asyncio; asyncio.set_event_loop(asyncio.new_event_loop()); import pproxy.server; "
EVENTS = lasting_events(700)
BYTES = sum(len(event.encode()) for event in EVENTS)


def ids(events: list[Event]) -> set[str]:
    return {event.id for event in events}


@pytest.fixture
def theirs(make_daemon: MakeDaemon) -> DaemonProcess:
    daemon = make_daemon("theirs", EVENTS)
    daemon.start()
    return daemon


@pytest.fixture
def make_ours(make_daemon: MakeDaemon) -> Callable[..., DaemonProcess]:
    """Makes a daemon, started, with one peer: its URL, the lines for it, those for ``[sync]``."""

    def make(url: str, peer: str = "", sync: str = "") -> DaemonProcess:
        daemon = make_daemon("ours", options=["--config", "negd.toml"])
        listed = f'[[peer]]\nurl = "{url}"\n{peer}' if url else ""
        (daemon.folder / "negd.toml").write_text(f"[sync]\n{sync}\n{listed}\n")
        daemon.start()
        return daemon

    return make


def once(
    client: ControlClient,
    url: str,
    condition: Callable[[PeerDescription], object],
    within: float = 60,
) -> PeerDescription:
    """How a peer is, once something is true of it."""
    deadline = time.monotonic() + within
    while not condition(described := client.show_peer(url)):
        assert time.monotonic() < deadline, described
        time.sleep(0.02)
    return described


def seconds_until_synced(daemon: DaemonProcess, url: str) -> float:
    began = time.monotonic()
    with ControlClient(daemon.control) as client:
        once(client, url, lambda peer: peer.state.last_sync)
    return time.monotonic() - began


# --- the link -----------------------------------------------------------------------------------


def test_a_peer_is_reached_through_its_proxy_and_no_other_way(
    theirs: DaemonProcess, make_ours: Callable[..., DaemonProcess]
) -> None:
    proxy = f"socks5://127.0.0.1:{free_port()}"
    ours = make_ours(theirs.url, f'proxy = "{proxy}"', "backoff_first = 0.5\nbackoff_most = 0.5")
    with ControlClient(ours.control) as client:
        failed = once(client, theirs.url, lambda peer: peer.state.consecutive_failures)
        assert "proxy" in failed.state.last_error
        assert ids_of(ours) == set()
        command = [sys.executable, "-c", f"{PPROXY}pproxy.server.main(['-l', {proxy!r}])"]
        running = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        try:
            synced = once(client, theirs.url, lambda peer: peer.state.last_sync)
            assert synced.proxy == proxy
            assert synced.linked
            assert ids_of(ours) == ids(EVENTS)
        finally:
            running.terminate()
            running.wait()
        once(client, theirs.url, lambda peer: peer.state.consecutive_failures and not peer.linked)


@pytest.mark.parametrize("compression", [True, False])
def test_compression_is_offered_to_the_peers_that_are_to_have_it(
    make_ours: Callable[..., DaemonProcess], compression: bool
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(30)
        url = f"ws://127.0.0.1:{server.getsockname()[1]}"
        make_ours(url, f"compression = {str(compression).lower()}")
        request = b""
        while b"Sec-WebSocket-Key" not in request:  # it asks for the relay's document, too
            with server.accept()[0] as connection:
                connection.settimeout(30)
                request = connection.recv(10_000)
    assert (b"permessage-deflate" in request) == compression


# --- budgets ------------------------------------------------------------------------------------


def test_a_rate_is_held_and_shown(
    theirs: DaemonProcess, make_ours: Callable[..., DaemonProcess]
) -> None:
    rate = BYTES // 5
    ours = make_ours(theirs.url, f"max_rate = {rate}")
    seconds = seconds_until_synced(ours, theirs.url)
    assert 3 <= seconds <= 15  # five, of which one second's worth comes at once
    assert ids_of(ours) == ids(EVENTS)
    shown = ours.negctl("peers", "show", theirs.url).stdout
    assert f"{rate:,} bytes a second" in shown


def test_a_budget_of_events_is_held_and_the_rest_comes_with_the_next_syncs(
    theirs: DaemonProcess, make_ours: Callable[..., DaemonProcess]
) -> None:
    ours = make_ours(theirs.url, "max_events = 300\ninterval = 1.5")
    with ControlClient(ours.control) as client:
        spent = once(client, theirs.url, lambda peer: peer.state.last_error)
        assert spent.state.last_error.startswith("budget spent: 300 events moved")
        assert (spent.state.status, spent.state.last_sync) == (PeerStatus.IDLE, 0)
        assert spent.state.events_synced == len(ids_of(ours)) == 300
        shown = ours.negctl("peers", "show", theirs.url).stdout
        assert "300 events a sync" in shown
        assert "the rest waits for the next sync" in shown
        done = once(client, theirs.url, lambda peer: peer.state.last_sync)
        assert (done.state.events_synced, done.state.last_error) == (len(EVENTS), "")
    assert ids_of(ours) == ids(EVENTS)


# --- the list -----------------------------------------------------------------------------------


def test_however_a_peer_is_spelled_it_is_listed_once(
    make_ours: Callable[..., DaemonProcess],
) -> None:
    ours = make_ours("")
    with ControlClient(ours.control) as client:
        client.stop()
        for url in (
            "relay.example.com",
            "wss://RELAY.example.com:443/",
            " WSS://relay.example.com./#top ",
            "ws://relay.example.com:80/",
            "ws://Relay.Example.com",
            "wss://münchen.example",
            "wss://xn--mnchen-3ya.example/",
        ):
            client.add_peer(url)
        listed = ["ws://relay.example.com", "wss://relay.example.com"]
        assert client.peers() == [*listed, "wss://xn--mnchen-3ya.example"]
        for url in ("wss://user:word@relay.example.com", "http://relay.example.com", ""):
            with pytest.raises(ControlError, match="expected ws://HOST"):
                client.add_peer(url)
        client.remove_peer("MÜNCHEN.example")
        assert client.peers() == listed


SLOW = f"max_rate = {BYTES // 4}"
"""Four seconds for all events."""


def test_removing_a_peer_ends_its_sync(
    theirs: DaemonProcess, make_ours: Callable[..., DaemonProcess]
) -> None:
    ours = make_ours(theirs.url, SLOW, "interval = 1")
    with ControlClient(ours.control) as client:
        once(client, theirs.url, lambda peer: peer.state.events_synced)
        client.remove_peer(theirs.url)
        assert client.peers() == []
        assert client.peer_state(theirs.url) is None
        held = ids_of(ours)
        assert 0 < len(held) < len(EVENTS)
        time.sleep(1.5)
        assert ids_of(ours) == held
    with ControlClient(theirs.control) as client:
        assert client.sessions() == []


def test_a_client_that_goes_away_ends_its_sync_and_the_next_one_goes_on(
    theirs: DaemonProcess, make_ours: Callable[..., DaemonProcess]
) -> None:
    theirs.stop()
    ours = make_ours(theirs.url, SLOW)
    with ControlClient(ours.control) as client, ControlClient(theirs.control) as far:
        once(client, theirs.url, lambda peer: peer.state.consecutive_failures)
        client.stop()
        failures = client.show_peer(theirs.url).state.consecutive_failures
        theirs.start()
        with closing(client.sync(theirs.url)) as running:
            assert any(progress.fetched for progress in running)
        cut = once(client, theirs.url, lambda peer: peer.state.status is not PeerStatus.SYNCING)
        deadline = time.monotonic() + 10
        while far.sessions():
            assert time.monotonic() < deadline
            time.sleep(0.05)
        held = len(ids_of(ours))
        assert 0 < held < len(EVENTS)
        assert (cut.state.last_sync, cut.state.consecutive_failures) == (0, failures)
        assert cut.state.events_synced > 0
        (*_, done) = client.sync(theirs.url)
        assert (done.complete, done.need) == (True, len(EVENTS) - held)


def test_a_triggered_sync_returns_at_once_and_keeps_to_its_filter(
    theirs: DaemonProcess, make_ours: Callable[..., DaemonProcess]
) -> None:
    theirs.stop()
    ours = make_ours(theirs.url, SLOW)
    with ControlClient(ours.control) as client:
        once(client, theirs.url, lambda peer: peer.state.consecutive_failures)
        client.stop()
        theirs.start()
        client.trigger(theirs.url, Filter.build(kinds=[1]))
        started = client.show_peer(theirs.url).state
        assert (started.status, started.last_sync) == (PeerStatus.SYNCING, 0)
        once(client, theirs.url, lambda peer: peer.state.last_sync)
        assert ids_of(ours) == {event.id for event in EVENTS if event.kind == 1}
        with pytest.raises(ControlError, match="is not listed"):
            client.trigger("ws://127.0.0.1:9")


# --- private targets ----------------------------------------------------------------------------


def name_of_this_machine() -> str | None:
    """A name without a dot, other than localhost, that stands for a private address."""
    name = socket.gethostname()
    try:
        addresses = {entry[4][0] for entry in socket.getaddrinfo(name, 80)}
    except OSError:
        return None
    return name if all(not ip_address(address).is_global for address in addresses) else None


def test_private_targets_are_refused_however_they_are_written(
    theirs: DaemonProcess, make_ours: Callable[..., DaemonProcess]
) -> None:
    ours = make_ours("", sync="private_targets = false")
    port = theirs.url.rpartition(":")[2]
    with ControlClient(ours.control) as client:
        for host in ("127.0.0.1", "localhost", "[::1]", "[::ffff:127.0.0.1]", "10.1.2.3"):
            url = f"ws://{host}:{port}"
            with pytest.raises(ControlError, match="expected a public address"):
                client.add_peer(url)
            with pytest.raises(ControlError, match="expected a public address"):
                list(client.sync(url))
        assert client.peers() == []
        for host in ("127.1", "2130706433"):
            with pytest.raises(ControlError, match="is written as four numbers"):
                list(client.sync(f"ws://{host}:{port}"))
        if name := name_of_this_machine():
            with pytest.raises(PeerError, match="is at a private address"):
                list(client.sync(f"ws://{name}:{port}"))
    assert ids_of(ours) == set()


def test_a_daemon_does_not_sync_with_itself(make_ours: Callable[..., DaemonProcess]) -> None:
    ours = make_ours("")
    url = ours.url.replace("127.0.0.1", "localhost")
    with ControlClient(ours.control) as client:
        client.add_peer(url)
        described = once(client, url, lambda peer: peer.state.consecutive_failures)
        assert "the peer is this daemon itself" in described.state.last_error
        with pytest.raises(PeerError, match="the peer is this daemon itself"):
            list(client.sync(ours.url))


# --- restarts -----------------------------------------------------------------------------------


@pytest.mark.slow
def test_failures_and_the_last_success_survive_a_restart(
    theirs: DaemonProcess, make_ours: Callable[..., DaemonProcess]
) -> None:
    ours = make_ours(theirs.url, sync="interval = 1\nbackoff_first = 1\njitter = 0")
    with ControlClient(ours.control) as client:
        once(client, theirs.url, lambda peer: peer.state.last_sync)
        theirs.stop()
        failed = once(client, theirs.url, lambda peer: peer.state.consecutive_failures == 2)
        while peers_in(f"lmdb:{ours.folder}/store")[theirs.url].consecutive_failures < 2:
            time.sleep(0.02)  # it is known a moment before it is written
    ours.kill()
    ours.start()
    with ControlClient(ours.control) as client:
        state = client.show_peer(theirs.url).state
        assert (state.last_sync, state.consecutive_failures, state.status) == (
            failed.state.last_sync,
            2,
            PeerStatus.ERROR,
        )
        assert state.last_error == failed.state.last_error
        assert state.next_sync == failed.state.next_sync
        third = once(client, theirs.url, lambda peer: peer.state.consecutive_failures == 3)
        assert third.state.next_sync >= failed.state.next_sync + 4
        theirs.start()
        again = once(client, theirs.url, lambda peer: not peer.state.consecutive_failures)
        assert again.state.last_sync >= third.state.next_sync - 1
        assert (again.state.status, again.state.last_error) == (PeerStatus.IDLE, "")
