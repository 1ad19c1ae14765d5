"""What a peer says of itself is asked for, kept, and asked for again in time."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from negd.errors import PeerError
from negd.nostr.document import RelayDocument
from negd.nostr.filter import EVERYTHING
from negd.peers.listing import Listing
from negd.settings import SyncSettings
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
