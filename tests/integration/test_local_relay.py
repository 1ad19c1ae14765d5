"""negd and nostr-sdk's relay: in every direction, under its limits, and killed in mid-sync.

After each sync both hold what they should, another one moves nothing, and ``negctl peers show``
says why what differs does.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from negd.control.client import ControlClient
from negd.errors import PeerError
from negd.interfaces import PeerDescription, PeerStatus, Residue, SyncProgress
from negd.nostr.event import Event
from negd.nostr.filter import Filter
from negd.testing.processes import DaemonProcess
from tests.integration.conftest import MakeDaemon, ids_of, lasting_events
from tests.integration.local_relay import LocalRelay, RelayInProcess, RelayProcess

EVENTS = lasting_events(330)[:300]
OURS, THEIRS = EVENTS[:200], EVENTS[100:]

MakeRelay = Callable[..., LocalRelay]


@pytest.fixture
def make_relay(tmp_path: Path) -> Iterator[MakeRelay]:
    """Makes a relay that serves: the events it holds, its limits."""
    with ExitStack() as stack:

        def make(
            events: Iterable[Event] = (), kind: type[LocalRelay] = RelayInProcess, **options: Any
        ) -> LocalRelay:
            relay = kind(tmp_path / "sdk", **options)
            relay.hold(events)
            return stack.enter_context(relay)

        yield make


def ids(events: Iterable[Event]) -> set[str]:
    return {event.id for event in events}


class Pair:
    """A daemon that lists the relay and syncs with it when it is told to."""

    def __init__(self, daemon: DaemonProcess, relay: LocalRelay) -> None:
        self.daemon = daemon
        self.relay = relay
        daemon.start()
        with ControlClient(daemon.control) as client:
            client.stop()
            client.add_peer(relay.url)

    def sync(self, wanted: Filter = Filter()) -> SyncProgress:  # noqa: B008
        with ControlClient(self.daemon.control) as client:
            return list(client.sync(self.relay.url, wanted))[-1]

    def described(self) -> PeerDescription:
        with ControlClient(self.daemon.control) as client:
            return client.show_peer(self.relay.url)

    def shown(self) -> str:
        """What the operator reads."""
        return self.daemon.negctl("peers", "show", self.relay.url).stdout

    def held(self) -> tuple[set[str], set[str]]:
        """The ids here and there."""
        return ids_of(self.daemon), self.relay.ids()

    def assert_settled(self, residues: dict[Residue, int] | None = None) -> None:
        """A further sync moves nothing, asks for nothing, and the ledger explains all."""
        explained = sum((residues or {}).values())
        again = self.sync()
        assert again.complete
        assert (again.fetched, again.sent, again.rejected, again.refused) == (0, 0, 0, 0)
        assert again.have + again.need == again.explained == explained
        described = self.described()
        assert described.residues == (residues or {})
        assert described.state.status is PeerStatus.IDLE
        assert described.state.consecutive_failures == 0


@pytest.mark.parametrize("direction", ["up", "down", "both"])
def test_events_move_in_the_direction_of_the_configuration(
    make_daemon: MakeDaemon, make_relay: MakeRelay, direction: str
) -> None:
    relay = make_relay(THEIRS)
    daemon = make_daemon(events=OURS, options=["--config", "negd.toml"])
    (daemon.folder / "negd.toml").write_text(
        f'[[peer]]\nurl = "{relay.url}"\ndirection = "{direction}"\nfilter = {{kinds = [1, 7]}}\n'
    )
    daemon.start()
    deadline = time.monotonic() + 30
    with ControlClient(daemon.control) as client:
        while not (state := client.show_peer(relay.url).state).last_sync:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        moving = {event.id for event in EVENTS if event.kind in (1, 7)}
        up, down = moving - ids(THEIRS), moving - ids(OURS)
        assert up and down
        ups, downs = direction != "down", direction != "up"
        assert ids_of(daemon) == ids(OURS) | (down if downs else set())
        assert relay.ids() == ids(THEIRS) | (up if ups else set())
        assert state.events_synced == len(up) * ups + len(down) * downs
        again = list(client.sync(relay.url))[-1]
        assert (again.fetched, again.sent) == (0, 0)
        assert client.show_peer(relay.url).residues == {}


def test_a_filter_on_demand_then_everything(make_daemon: MakeDaemon, make_relay: MakeRelay) -> None:
    pair = Pair(make_daemon(events=OURS), make_relay(THEIRS))
    some = {event.id for event in EVENTS if event.kind == 1}
    done = pair.sync(Filter.build(kinds=[1]))
    assert (done.fetched, done.sent) == (len(some - ids(OURS)), len(some - ids(THEIRS)))
    assert pair.held() == (ids(OURS) | some, ids(THEIRS) | some)
    pair.sync()
    assert pair.held() == (ids(EVENTS), ids(EVENTS))
    pair.assert_settled()


@pytest.mark.parametrize(
    "limits",
    [
        {"default_filter_limit": 20},
        {"max_filter_limit": 20, "max_reqs": 2, "max_connections": 2},
    ],
    ids=lambda limits: "+".join(limits),
)
def test_its_limits_slow_a_sync_and_cost_nothing(
    make_daemon: MakeDaemon, make_relay: MakeRelay, limits: dict[str, int]
) -> None:
    pair = Pair(make_daemon(events=OURS), make_relay(THEIRS, **limits))
    done = pair.sync()
    assert (done.fetched, done.sent) == (100, 100)
    assert pair.held() == (ids(EVENTS), ids(EVENTS))
    pair.assert_settled()
    if "max_filter_limit" in limits:
        assert pair.described().state.profile.ids_per_request == limits["max_filter_limit"]


@pytest.mark.slow
def test_a_relay_that_takes_few_events_a_minute_gets_all_and_holds_up_no_other_peer(
    make_daemon: MakeDaemon, make_relay: MakeRelay
) -> None:
    few, rest = EVENTS[:20], EVENTS[20:]
    slow = make_relay(rest[150:], notes_per_minute=120, max_reqs=3)
    other = make_daemon("other", few)
    other.start()
    daemon = make_daemon("ours", rest[:160], options=["--config", "negd.toml"])
    (daemon.folder / "negd.toml").write_text(
        f"""
        [sync]
        concurrent = 1
        turn = 1
        [[peer]]
        url = "{slow.url}"
        [[peer]]
        url = "{other.url}"
        direction = "down"
        interval = 2
        """
    )
    daemon.start()
    said, synced, status = set(), set(), ""
    deadline = time.monotonic() + 120
    with ControlClient(daemon.control) as client:
        while not (state := client.show_peer(slow.url).state).last_sync:
            assert time.monotonic() < deadline
            assert state.status is not PeerStatus.ERROR
            said.add(state.last_error)
            synced.add(client.show_peer(other.url).state.last_sync)
            if state.last_error and not status:
                status = daemon.negctl("status").stdout
            time.sleep(0.1)
        assert said == {"", "slowed by the peer: rate-limited: slow down"}
        assert "rate-limited: slow down" in status
        assert len(synced - {0}) >= 4
        while slow.ids() != ids(EVENTS):  # the other's events go by the tail
            assert time.monotonic() < deadline
            time.sleep(0.5)
        described = client.show_peer(slow.url)
        assert ids_of(daemon) == ids(EVENTS)
        assert described.residues == {}
        assert (described.state.last_error, described.state.consecutive_failures) == ("", 0)


def test_what_it_refuses_is_explained_and_not_sent_again(
    make_daemon: MakeDaemon, make_relay: MakeRelay
) -> None:
    pair = Pair(make_daemon(events=OURS), make_relay(THEIRS, min_pow=100))
    done = pair.sync()
    assert (done.fetched, done.sent, done.rejected) == (100, 0, 100)
    assert pair.held() == (ids(EVENTS), ids(THEIRS))
    pair.assert_settled({Residue.THEIRS_REJECTED: 100})
    assert "100 differences noted" in pair.shown() and "pow: " in pair.shown()


@pytest.mark.parametrize(
    ("mode", "with_key"),
    [("READ", True), ("WRITE", True), ("BOTH", True), ("READ", False), ("WRITE", False)],
)
def test_a_relay_that_asks_who_we_are(
    make_daemon: MakeDaemon, make_relay: MakeRelay, tmp_path: Path, mode: str, with_key: bool
) -> None:
    (tmp_path / "key").write_text("05" * 32)
    (tmp_path / "key").chmod(0o600)
    (tmp_path / "with-key.toml").write_text(f'[relay]\nkey_file = "{tmp_path / "key"}"\n')
    options = ["--config", str(tmp_path / "with-key.toml")] if with_key else []
    pair = Pair(make_daemon(events=OURS, options=options), make_relay(THEIRS, auth=mode))
    if with_key:
        done = pair.sync()
        assert (done.fetched, done.sent, done.rejected) == (100, 100, 0)
        assert pair.held() == (ids(EVENTS), ids(EVENTS))
        pair.assert_settled()
    elif mode == "WRITE":
        assert pair.sync().complete
        assert pair.held() == (ids(EVENTS), ids(THEIRS))
        pair.assert_settled({Residue.AUTH_GATED: 100})
    else:
        with pytest.raises(PeerError, match="auth-required"):
            pair.sync()
        assert pair.held() == (ids(OURS), ids(THEIRS))
        assert "auth-required" in pair.shown()


def test_killed_in_mid_sync_it_gets_the_rest_when_it_is_back(
    make_daemon: MakeDaemon, make_relay: MakeRelay
) -> None:
    events = lasting_events(2000)
    relay = make_relay(events[:1000], RelayProcess)
    pair = Pair(make_daemon(events=events[900:]), relay)
    moved = 0
    with ControlClient(pair.daemon.control) as client, pytest.raises(PeerError):
        for progress in client.sync(relay.url):
            moved = progress.fetched + progress.sent
            if progress.fetched and progress.sent:
                relay.stop()
    assert 0 < moved < len(events) - 100
    state = pair.described().state
    assert (state.status, state.last_sync, state.consecutive_failures) == (PeerStatus.ERROR, 0, 1)
    assert state.last_error and state.last_error in pair.shown()
    here, there = pair.held()
    assert here >= ids(events[900:]) and there >= ids(events[:1000])

    relay.start()
    done = pair.sync()
    assert done.fetched == len(events) - len(here)
    assert done.sent == len(events) - len(there)
    assert pair.held() == (ids(events), ids(events))
    pair.assert_settled()
    assert pair.described().state.last_sync > 0
    assert "0 differences noted" in pair.shown()
