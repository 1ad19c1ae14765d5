"""A peer's terms and its word on itself: what is asked, kept and held to, sync by sync."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from negd.errors import PeerError
from negd.interfaces import PeerStatus
from negd.nostr.document import RelayDocument
from negd.nostr.filter import EVERYTHING
from negd.nostr.signing import Signer
from negd.peers.listing import Listing
from negd.settings import SyncSettings
from negd.sync.budget import Budget
from negd.testing.links import drive, settle
from negd.testing.nodes import THEIRS, MemoryNode, World, failure_of

FIRST, SECOND = RelayDocument("strfry", "1"), RelayDocument("strfry", "2")
DAY = 24 * 3600


@pytest.fixture
def world() -> Iterator[World]:
    """Two nodes, theirs listed with ours and to be synced on demand only."""
    world = World(SyncSettings(interval=10 * DAY, jitter=0, backoff_first=600))
    world.dialer.documents[THEIRS] = FIRST
    drive(world.clock, world.ours.roster.start([Listing(THEIRS, tail=False)]))
    settle(world.clock)
    yield world
    drive(world.clock, world.ours.roster.stop())


def kept(world: World) -> RelayDocument | None:
    return drive(world.clock, world.ours.storage.book.peers())[THEIRS].profile.document


def test_it_is_asked_for_at_the_first_sync_and_kept_through_a_restart(world: World) -> None:
    assert kept(world) == FIRST
    later = MemoryNode("ws://later.example", world.dialer, world.clock)
    later.roster._book = world.ours.storage.book
    world.dialer.documents[THEIRS] = SECOND
    drive(world.clock, later.roster.start([]))
    settle(world.clock)
    state = later.roster.state(THEIRS)
    assert state is not None
    assert state.profile.document == FIRST
    drive(world.clock, later.roster.stop())


def test_it_is_asked_for_again_after_a_day(world: World) -> None:
    world.dialer.documents[THEIRS] = SECOND
    world.clock.advance(DAY - 10)
    world.ours.sync(THEIRS)
    assert kept(world) == FIRST
    world.clock.advance(10)
    world.ours.sync(THEIRS)
    assert kept(world) == SECOND


def test_it_is_asked_for_again_after_a_failure(world: World) -> None:
    world.dialer.documents[THEIRS] = SECOND
    serve = world.dialer.peers[THEIRS]
    world.dialer.peers[THEIRS] = PeerError("gone")
    world.clock.advance(100)
    failing = world.ours.roster._peers[THEIRS].sync(EVERYTHING, lambda _: None)
    settle(world.clock)
    assert str(failure_of(failing)) == "gone"
    assert kept(world) == FIRST
    world.dialer.peers[THEIRS] = serve
    world.clock.advance(1)
    world.ours.sync(THEIRS)
    assert kept(world) == SECOND


def test_silence_leaves_the_last_word_and_is_not_waited_for_at_every_sync(world: World) -> None:
    del world.dialer.documents[THEIRS]
    world.clock.advance(DAY)
    world.ours.sync(THEIRS)
    assert kept(world) == FIRST
    state = world.ours.roster.state(THEIRS)
    assert state is not None
    assert state.profile.described_at == world.clock.seconds()


@pytest.mark.parametrize("tail", [True, False])
def test_a_spent_budget_is_no_failure_and_the_next_sync_goes_on(tail: bool) -> None:
    alice = Signer(b"\x01" * 32)
    world = World(SyncSettings(interval=600, jitter=0))
    world.theirs.hold([alice.sign(created_at=1000 + n) for n in range(250)])
    listing = Listing(THEIRS, tail=tail, budget=Budget(events=100))
    roster = world.ours.roster
    drive(world.clock, roster.start([listing]))
    settle(world.clock)
    for moved in (100, 200):
        state = roster.state(THEIRS)
        assert state is not None
        assert state.last_error.startswith("budget spent: 100 events moved")
        assert (state.status, state.consecutive_failures) == (PeerStatus.IDLE, 0)
        assert (state.last_sync, state.events_synced) == (0, moved)
        assert drive(world.clock, world.ours.storage.book.peers())[THEIRS] == state
        assert len(world.ours.held()) == moved
        world.clock.advance(600)
        settle(world.clock)
    state = roster.state(THEIRS)
    assert state is not None
    assert (state.last_sync, state.last_error) == (world.clock.seconds(), "")
    assert len(world.ours.held()) == 250
    drive(world.clock, roster.stop())


def test_who_asked_for_the_sync_is_told_that_the_budget_is_spent(world: World) -> None:
    alice = Signer(b"\x01" * 32)
    peer = world.ours.roster._peers[THEIRS]
    peer.listing = Listing(THEIRS, tail=False, budget=Budget(events=3))
    world.theirs.hold([alice.sign(created_at=1000 + n) for n in range(5)])
    asked = peer.sync(EVERYTHING, lambda _: None)
    settle(world.clock)
    assert str(failure_of(asked)).startswith("budget spent: 3 events moved")
    assert world.ours.sync(THEIRS).complete


@pytest.mark.parametrize("rate", [0, 10_000])
def test_over_a_slow_link_less_is_under_way(rate: int) -> None:
    alice = Signer(b"\x01" * 32)
    world = World()
    world.theirs.hold([alice.sign(created_at=1000 + n) for n in range(500)])
    listing = Listing(THEIRS, tail=False, budget=Budget(rate=rate))
    drive(world.clock, world.ours.roster.start([listing]))
    settle(world.clock)
    asked = [json.loads(text) for text in world.dialer.links[-1].sent]
    sizes = {len(message[2]["ids"]) for message in asked if message[0] == "REQ"}
    assert max(sizes) == (100 if rate else 200)
    drive(world.clock, world.ours.roster.stop())
