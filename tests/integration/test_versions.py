"""Replaced and deleted events: whoever knows better tells the other, and both end with the same."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from negd.control.client import ControlClient
from negd.interfaces import SyncProgress
from negd.nostr.event import Event
from negd.nostr.filter import EVERYTHING, Filter
from negd.nostr.signing import Signer
from negd.testing.processes import DaemonProcess
from tests.integration.conftest import MakeDaemon, ids_of
from tests.integration.local_relay import RelayInProcess

NOW = int(time.time())
alice, bob = Signer(b"\x01" * 32), Signer(b"\x02" * 32)

profile_then = alice.sign(created_at=NOW - 1000, kind=0, content='{"name":"then"}')
profile_now = alice.sign(created_at=NOW - 500, kind=0, content='{"name":"now"}')
article_then = alice.sign(created_at=NOW - 900, kind=30023, tags=[("d", "a")], content="then")
article_now = alice.sign(created_at=NOW - 400, kind=30023, tags=[("d", "a")], content="now")
regretted = alice.sign(created_at=NOW - 800, content="regretted")
deletion = alice.sign(created_at=NOW - 300, kind=5, tags=[("e", regretted.id)])
others = [bob.sign(created_at=NOW - 100 + n, content=str(n)) for n in range(20)]

EARLIER = [profile_then, article_then, regretted, *others]
LATER = [profile_now, article_now, deletion, *others]


@dataclass
class Peer:
    """A relay that holds some events. :ivar ids: what it holds now."""

    url: str
    ids: Callable[[], set[str]]


MakePeer = Callable[[Sequence[Event]], Peer]


@pytest.fixture(params=["negd", "nostr-sdk"])
def make_peer(
    request: pytest.FixtureRequest, make_daemon: MakeDaemon, tmp_path: Path
) -> Iterator[MakePeer]:
    """Makes a peer of either kind."""
    with ExitStack() as stack:

        def make(events: Sequence[Event]) -> Peer:
            if request.param == "negd":
                daemon = make_daemon("peer", events)
                daemon.start()
                return Peer(daemon.url, lambda: ids_of(daemon))
            relay = RelayInProcess(tmp_path / "sdk")
            # It keeps an event out after its deletion only where it held it before.
            relay.hold([regretted] if deletion in events else [])
            relay.hold(events)
            stack.enter_context(relay)
            return Peer(relay.url, relay.ids)

        yield make


def sync(daemon: DaemonProcess, url: str, wanted: Filter = EVERYTHING) -> SyncProgress:
    with ControlClient(daemon.control) as client:
        return list(client.sync(url, wanted))[-1]


def listed(daemon: DaemonProcess, peer: Peer) -> DaemonProcess:
    """The daemon, with the peer on its list, and syncing only when it is told to."""
    daemon.start()
    with ControlClient(daemon.control) as client:
        client.stop()
        client.add_peer(peer.url)
    return daemon


def ids(events: Iterable[Event]) -> set[str]:
    return {event.id for event in events}


def test_what_we_know_better_is_pushed(make_daemon: MakeDaemon, make_peer: MakePeer) -> None:
    peer = make_peer(EARLIER)
    daemon = listed(make_daemon("ours", LATER), peer)
    done = sync(daemon, peer.url)
    assert done.sent == 3
    assert ids_of(daemon) == peer.ids() == ids(LATER)
    again = sync(daemon, peer.url)
    assert (again.have, again.need, again.sent, again.fetched) == (0, 0, 0, 0)


def test_what_the_peer_knows_better_is_taken(make_daemon: MakeDaemon, make_peer: MakePeer) -> None:
    peer = make_peer(LATER)
    daemon = listed(make_daemon("ours", EARLIER), peer)
    done = sync(daemon, peer.url)
    assert done.fetched == 3
    assert ids_of(daemon) == peer.ids() == ids(LATER)
    again = sync(daemon, peer.url)
    assert (again.have, again.need, again.sent, again.fetched) == (0, 0, 0, 0)


def test_each_may_know_one_thing_better(make_daemon: MakeDaemon, make_peer: MakePeer) -> None:
    peer = make_peer([profile_now, article_then, regretted, *others])
    daemon = listed(make_daemon("ours", [profile_then, article_now, deletion, *others]), peer)
    assert sync(daemon, peer.url).complete
    assert ids_of(daemon) == peer.ids() == ids(LATER)
    again = sync(daemon, peer.url)
    assert (again.have, again.need, again.sent, again.fetched) == (0, 0, 0, 0)


def test_a_deletion_is_pushed_though_the_filter_leaves_it_out(
    make_daemon: MakeDaemon, make_peer: MakePeer
) -> None:
    peer = make_peer([regretted, *others])
    daemon = listed(make_daemon("ours", [deletion, *others]), peer)
    assert sync(daemon, peer.url, Filter.build(kinds=[1])).complete
    assert peer.ids() == ids([deletion, *others])
    assert ids_of(daemon) == ids([deletion, *others])
    again = sync(daemon, peer.url, Filter.build(kinds=[1]))
    assert (again.have, again.need, again.sent, again.fetched) == (0, 0, 0, 0)
