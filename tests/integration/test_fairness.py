"""Many peers of one daemon: a huge one does not keep small ones waiting, and each has one sync."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from negd.control.client import ControlClient, ControlError
from negd.errors import PeerError
from negd.interfaces import PeerStatus, SyncProgress
from negd.nostr.event import Event
from negd.nostr.signing import Signer
from negd.testing.processes import DaemonProcess
from tests.integration.conftest import MakeDaemon, ids_of, lasting_events

HUGE = 20_000
carol = Signer(b"\x03" * 32)


def few_events(at: int) -> list[Event]:
    """Events that only one small peer has."""
    return [carol.sign(created_at=at + n, content=f"{at} {n}") for n in range(50)]


def ids(events: list[Event]) -> set[str]:
    return {event.id for event in events}


@pytest.fixture
def huge(make_daemon: MakeDaemon) -> DaemonProcess:
    daemon = make_daemon("huge", lasting_events(HUGE))
    daemon.start()
    return daemon


@pytest.fixture
def small(make_daemon: MakeDaemon) -> list[DaemonProcess]:
    made = [make_daemon(f"small{n}", few_events(1000 * n)) for n in range(4)]
    for daemon in made:
        daemon.spawn()
    for daemon in made:
        daemon.await_ready()
    return made


@pytest.mark.slow
def test_small_peers_are_equal_long_before_a_huge_one(
    make_daemon: MakeDaemon, huge: DaemonProcess, small: list[DaemonProcess]
) -> None:
    peers = "".join(
        f'[[peer]]\nurl = "{peer.url}"\ndirection = "down"\n' for peer in [huge, *small]
    )
    ours = make_daemon("ours", options=["--config", "negd.toml"])
    (ours.folder / "negd.toml").write_text(f"[sync]\nconcurrent = 1\nturn = 0.3\n{peers}")
    ours.start()
    everything = lasting_events(HUGE)
    with ControlClient(ours.control) as client:
        while not all(client.show_peer(peer.url).state.last_sync for peer in small):
            state = client.show_peer(huge.url).state
            assert not state.last_sync, "the huge one was through first"
            time.sleep(0.02)
        state = client.show_peer(huge.url).state
        # What it has moved is written down at the end of a turn.
        assert (state.status, state.last_sync) == (PeerStatus.SYNCING, 0)
        assert 0 < state.events_synced < len(everything) / 2
        assert all(client.show_peer(peer.url).state.events_synced == 50 for peer in small)
        deadline = time.monotonic() + 60
        while not client.show_peer(huge.url).state.last_sync:
            assert time.monotonic() < deadline
            time.sleep(0.1)
        state = client.show_peer(huge.url).state
        assert state.events_synced == len(everything)
        assert state.consecutive_failures == 0
    expected = ids(everything)
    for number in range(len(small)):
        expected |= ids(few_events(1000 * number))
    assert ids_of(ours) == expected


def test_a_peer_has_one_sync_at_a_time_and_a_second_request_is_told_so(
    make_daemon: MakeDaemon, huge: DaemonProcess
) -> None:
    ours = make_daemon("ours")
    ours.start()
    said = f"a sync with {huge.url} is already running"
    with ControlClient(ours.control) as client, ControlClient(ours.control) as other:
        client.stop()
        client.add_peer(huge.url)
        running: Iterator[SyncProgress] = client.sync(huge.url)
        first = next(running)
        with pytest.raises(PeerError, match=said):
            list(other.sync(huge.url.upper().replace("WS:", "ws:") + "/"))
        with pytest.raises(ControlError, match=said):
            other.trigger(huge.url)
        other.trigger()  # of all peers, those that are not synced already
        state = other.peer_state(huge.url)
        assert state is not None
        assert state.status is PeerStatus.SYNCING
        (*_, last) = running
        assert first.fetched < last.fetched
        assert (last.complete, last.fetched) == (True, len(lasting_events(HUGE)))
        (*_, again) = other.sync(huge.url)
        assert (again.complete, again.fetched) == (True, 0)
