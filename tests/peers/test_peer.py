"""A peer's terms and its word on itself: what is asked, kept and held to, sync by sync."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace

import msgspec
import pytest
from twisted.internet.defer import CancelledError, Deferred, succeed

from negd.errors import PeerError
from negd.interfaces import PeerProfile, PeerState, PeerStatus, SyncProgress
from negd.nostr.document import RelayDocument
from negd.nostr.filter import EVERYTHING
from negd.nostr.messages import encode_closed
from negd.nostr.signing import Signer
from negd.peers.listing import Listing
from negd.settings import SyncSettings
from negd.sync.budget import Budget
from negd.testing.links import ConversationPeer, ScriptedPeer, drive, settle
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
    drive(world.clock, later.roster.start([Listing(THEIRS, tail=False)]))
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


def test_a_clock_that_was_set_back_puts_off_a_sync_for_no_longer_than_a_failure() -> None:
    world = World(SyncSettings(backoff_most=3600, jitter=0))
    failed_later = PeerState(
        status=PeerStatus.ERROR,
        consecutive_failures=1,
        next_sync=world.clock.seconds() + 3650 * DAY,
    )
    drive(world.clock, world.ours.storage.book.put(THEIRS, failed_later))
    world.dialer.peers[THEIRS] = PeerError("gone")
    drive(world.clock, world.ours.roster.start([Listing(THEIRS)]))
    world.clock.advance(3600)
    settle(world.clock)
    state = world.ours.roster.state(THEIRS)
    assert state is not None
    assert state.consecutive_failures == 2
    peer = world.ours.roster._peers[THEIRS]
    peer.state = replace(state, next_sync=failed_later.next_sync)
    assert peer.wait() == 3600
    drive(world.clock, world.ours.roster.stop())


# --- while a sync runs --------------------------------------------------------------------------


class Slow(ConversationPeer):
    """Their node, which takes ten events a minute."""

    def __init__(self, world: World) -> None:
        super().__init__(world.theirs.backend)
        self._world = world
        self._taken: dict[int, int] = {}

    def received(self, text: bytes) -> None:
        minute = int(self._world.clock.seconds() // 60)
        if text.startswith(b'["EVENT"'):
            self._taken[minute] = self._taken.get(minute, 0) + 1
            if self._taken[minute] > 10:
                event_id = json.loads(text)[1]["id"]
                self.send(b'["OK","%s",false,"rate-limited: slow down"]' % event_id.encode())
                return
        super().received(text)


def shown(world: World) -> PeerState:
    state = world.ours.roster.state(THEIRS)
    assert state is not None
    return state


def book_of(world: World) -> PeerState:
    return drive(world.clock, world.ours.storage.book.peers())[THEIRS]


def begin(world: World, count: int = 40) -> list[SyncProgress | BaseException]:
    """A sync with a peer that takes few events a minute; what it ends with."""
    alice = Signer(b"\x01" * 32)
    world.dialer.peers[THEIRS] = lambda: Slow(world)
    world.ours.hold([alice.sign(created_at=1000 + n) for n in range(count)])
    ended: list[SyncProgress | BaseException] = []
    running = world.ours.roster._peers[THEIRS].sync(EVERYTHING, lambda _: None)
    running.addCallbacks(ended.append, lambda failure: ended.append(failure.value))
    settle(world.clock)
    return ended


def pass_time(world: World, until: Callable[[], object], most: int = 3600) -> None:
    for _ in range(most):
        if until():
            return
        world.clock.advance(1)
        settle(world.clock)
    raise AssertionError("it did not come true")


def test_a_sync_that_the_peer_slows_says_so_and_how_far_it_is(world: World) -> None:
    ended = begin(world)
    told = shown(world)
    assert (told.status, told.events_synced) == (PeerStatus.SYNCING, 10)
    assert told.last_error == "slowed by the peer: rate-limited: slow down"
    assert drive(world.clock, world.ours.roster.describe(THEIRS, 0)).state == told
    assert world.ours.roster.states()[THEIRS] == told
    assert book_of(world).events_synced == 0
    pass_time(world, lambda: shown(world).events_synced > 10)
    pass_time(world, lambda: ended)
    told = shown(world)
    assert (told.status, told.events_synced, told.last_error) == (PeerStatus.IDLE, 40, "")
    assert book_of(world) == told


def test_what_a_cancelled_sync_moved_is_counted(world: World) -> None:
    ended = begin(world)
    running = world.ours.roster._peers[THEIRS].running
    assert running is not None
    running.cancel()
    settle(world.clock)
    assert isinstance(ended[0], CancelledError)
    told = shown(world)
    assert (told.status, told.events_synced, told.last_error) == (PeerStatus.IDLE, 10, "")
    assert book_of(world) == told


def test_a_turn_that_is_over_leaves_no_sync_in_the_book(world: World) -> None:
    ended = begin(world)
    peer = world.ours.roster._peers[THEIRS]
    run = peer._run
    assert run is not None
    run.make_room()
    pass_time(world, lambda: peer._run is not run)
    assert not ended
    assert book_of(world).events_synced >= 10
    assert (shown(world).status, book_of(world).status) == (PeerStatus.SYNCING, PeerStatus.IDLE)
    pass_time(world, lambda: ended)
    assert shown(world).events_synced == 40


def test_a_sync_that_is_cancelled_while_others_have_their_turn_is_over() -> None:
    world = World(SyncSettings(concurrent=1))
    roster = world.ours.roster
    roster.pause_background()
    drive(world.clock, roster.add(THEIRS))
    ended = begin(world)
    peer = roster._peers[THEIRS]
    assert peer._run is not None
    peer._run.make_room()
    other = roster._turns.acquire()
    pass_time(world, lambda: other.called)
    assert (shown(world).status, ended) == (PeerStatus.SYNCING, [])
    assert peer.running is not None
    peer.running.cancel()
    settle(world.clock)
    assert isinstance(ended[0], CancelledError)
    assert (shown(world).status, book_of(world).status) == (PeerStatus.IDLE, PeerStatus.IDLE)


def test_what_a_sync_moves_is_written_down_before_its_end(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    book = world.ours.storage.book
    update, written = book.update, list[tuple[float, PeerState]]()
    began = world.clock.seconds()

    async def note(url: str, state: PeerState) -> None:
        written.append((world.clock.seconds() - began, state))
        await update(url, state)

    monkeypatch.setattr(book, "update", note)
    ended = begin(world)
    pass_time(world, lambda: ended)
    assert shown(world).events_synced == 40
    assert written[-1][1] == shown(world)
    moved = [state.events_synced for _, state in written]
    assert moved[0] == 10
    assert moved[:-1] == sorted(set(moved[:-1]))  # nothing is written where nothing moved
    assert all(at % 30 == 0 for at, _ in written[:-1])
    assert {state.status for _, state in written} == {PeerStatus.IDLE}


def test_a_count_that_takes_long_to_write_does_not_undo_the_end_of_the_sync(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    book = world.ours.storage.book
    update, slow = book.update, Deferred[None]()
    delays = iter([slow])

    async def update_slowly_at_first(url: str, state: PeerState) -> None:
        await next(delays, succeed(None))
        await update(url, state)

    monkeypatch.setattr(book, "update", update_slowly_at_first)
    ended = begin(world)
    world.clock.advance(30)
    settle(world.clock)
    world.dialer.links[-1].close()
    pass_time(world, lambda: shown(world).status is PeerStatus.ERROR)
    assert not ended
    slow.callback(None)
    settle(world.clock)
    assert ended
    assert book_of(world) == shown(world)
    assert shown(world).status is PeerStatus.ERROR


# --- whose peer it is ---------------------------------------------------------------------------


def test_no_end_of_a_sync_takes_a_peer_from_the_configuration(world: World) -> None:
    peer, serve = world.ours.roster._peers[THEIRS], world.dialer.peers[THEIRS]
    ends = []

    def note() -> None:
        state = book_of(world)
        ends.append((state.status, bool(state.last_error), state.configured))

    note()
    world.dialer.peers[THEIRS] = PeerError("gone")
    failing = peer.sync(EVERYTHING, lambda _: None)
    settle(world.clock)
    assert str(failure_of(failing)) == "gone"
    note()
    world.dialer.peers[THEIRS] = serve
    world.ours.sync(THEIRS)
    note()
    begin(world)
    assert peer.running is not None
    peer.running.cancel()
    settle(world.clock)
    note()
    peer.listing = Listing(THEIRS, tail=False, budget=Budget(events=3))
    spent = peer.sync(EVERYTHING, lambda _: None)
    settle(world.clock)
    assert str(failure_of(spent)).startswith("budget spent")
    note()
    idle, error = PeerStatus.IDLE, PeerStatus.ERROR
    assert ends == [
        (idle, False, True),
        (error, True, True),
        (idle, False, True),
        (idle, False, True),
        (idle, True, True),
    ]


# --- what is said -------------------------------------------------------------------------------

LONG = "error: \x1b[31mred\n" + "x" * 4_000_000


def test_what_a_peer_says_at_length_is_shown_and_kept_short() -> None:
    def closed(text: bytes) -> list[bytes]:
        label, name, *_ = json.loads(text)
        return [encode_closed(name, LONG)] if label in ("REQ", "NEG-OPEN") else []

    world = World()
    world.dialer.peers[THEIRS] = lambda: ScriptedPeer(closed)
    drive(world.clock, world.ours.roster.start([Listing(THEIRS)]))
    settle(world.clock)
    for state in (shown(world), book_of(world)):
        assert state.status is PeerStatus.ERROR
        assert "error: ?[31mred?xxx" in state.last_error
        assert len(msgspec.json.encode(state)) < 1000
    drive(world.clock, world.ours.roster.stop())


def test_a_book_that_kept_all_that_a_peer_said_heals() -> None:
    world = World()
    book = world.ours.storage.book
    profile = PeerProfile(nip77=False, refusal=LONG)
    later = world.clock.seconds() + 60
    drive(world.clock, book.put(THEIRS, PeerState(0, 0, PeerStatus.ERROR, LONG, 1, later, profile)))
    roster = world.ours.roster
    drive(world.clock, roster.start([]))
    assert shown(world).last_error == shown(world).profile.refusal
    assert shown(world).last_error == "error: ?[31mred?" + "x" * 184
    world.clock.advance(60)
    settle(world.clock)
    assert book_of(world).last_sync == later
    assert len(msgspec.json.encode(book_of(world))) < 1000
    drive(world.clock, roster.stop())
