"""The roster: when peers are synced, what is remembered of it, and how it is steered."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from itertools import chain, count, repeat
from math import inf
from typing import cast

import pytest
from twisted.internet.defer import CancelledError, Deferred
from twisted.logger import capturedLogs, formatEvent
from zope.interface.verify import verifyObject

from negd.errors import ConfigError, LimitReached, PeerError, Unknown
from negd.interfaces import (
    Direction,
    IPeerSync,
    LedgerEntry,
    PeerDescription,
    PeerState,
    Residue,
    SyncProgress,
)
from negd.nostr.filter import EVERYTHING, Filter
from negd.nostr.signing import Signer
from negd.peers.listing import Listing
from negd.settings import SyncSettings
from negd.sync.budget import Budget
from negd.testing.leases import LeaseTable, MemoryLeases
from negd.testing.links import PagedPeer, PeerEnd, ScriptedPeer, drive, settle
from negd.testing.nodes import OURS, THEIRS, MemoryNode, World, failure_of
from negd.websocket.conversation import Backend

alice = Signer(b"\x01" * 32)
events = [alice.sign(created_at=1000 + n // 3, kind=1 + n % 2, content=str(n)) for n in range(200)]
ids = [event.id_bytes for event in events]

MakeWorld = Callable[..., World]


@pytest.fixture
def make_world() -> Iterator[MakeWorld]:
    """Makes worlds; stops our node's roster in the end, after which nothing may be due."""
    worlds: list[World] = []

    def make(sync: SyncSettings | None = None) -> World:
        worlds.append(World(sync))
        return worlds[-1]

    yield make
    for world in worlds:
        drive(world.clock, world.ours.roster.stop())
        assert [call for call in world.clock.getDelayedCalls() if call.active()] == []


def test_it_is_a_peer_sync() -> None:
    verifyObject(IPeerSync, World().ours.roster)


def test_private_targets_are_refused_where_they_are_forbidden(make_world: MakeWorld) -> None:
    world = make_world(SyncSettings(private_targets=False))
    roster, private = world.ours.roster, "ws://127.0.0.1:7777"
    drive(world.clock, world.ours.storage.book.put(private, PeerState()))
    drive(world.clock, roster.start([]))
    for call in (
        roster.add(private),
        roster.trigger(private, EVERYTHING),
        roster.sync(private, EVERYTHING, lambda _: None),
    ):
        assert isinstance(failure_of(Deferred.fromCoroutine(call)), ConfigError)
    drive(world.clock, roster.remove(private))
    assert roster.peers() == []
    assert world.ours.sync(THEIRS).complete


def test_two_syncs_with_one_peer_do_not_run_at_once(make_world: MakeWorld) -> None:
    world = make_world()
    world.theirs.hold(events)
    roster = world.ours.roster
    first = Deferred.fromCoroutine(roster.sync(THEIRS, EVERYTHING, lambda _: None))
    second = Deferred.fromCoroutine(roster.sync("WS://theirs.example/", EVERYTHING, lambda _: None))
    assert isinstance(failure_of(second), LimitReached)
    settle(world.clock)
    assert first.called
    assert world.ours.held() == set(ids)


def test_a_visited_peer_is_not_listed_and_leaves_no_trace(make_world: MakeWorld) -> None:
    world = make_world()
    world.ours.sync(THEIRS)
    assert world.ours.roster.peers() == []
    assert world.ours.roster.states() == {}
    assert drive(world.clock, world.ours.storage.book.peers()) == {}


def test_listed_peers_are_synced_at_start_and_at_every_interval(make_world: MakeWorld) -> None:
    world = make_world(SyncSettings(interval=600, jitter=0))
    world.theirs.hold(events[:10])
    drive(world.clock, world.ours.roster.start([Listing(THEIRS)]))
    settle(world.clock)
    assert world.ours.held() == set(ids[:10])
    world.theirs.hold(events[10:20])
    world.clock.advance(599)
    settle(world.clock)
    assert world.ours.held() == set(ids[:10])
    world.clock.advance(1)
    settle(world.clock)
    assert world.ours.held() == set(ids[:20])
    state = world.ours.roster.state(THEIRS)
    assert state is not None
    assert (state.last_sync, state.events_synced) == (int(world.clock.seconds()), 20)
    drive(world.clock, world.ours.roster.stop())
    assert world.clock.getDelayedCalls() == []


def test_failures_count_up_back_off_survive_a_restart_and_reset(make_world: MakeWorld) -> None:
    world = make_world(SyncSettings(jitter=0, backoff_first=5, backoff_most=30))
    served = world.dialer.peers[THEIRS]
    world.dialer.peers[THEIRS] = PeerError("connection refused")
    drive(world.clock, world.ours.roster.start([Listing(THEIRS)]))
    waits = []
    for failures in range(1, 6):
        settle(world.clock)
        state = world.ours.roster.state(THEIRS)
        assert state is not None
        assert (state.consecutive_failures, state.status.value) == (failures, "error")
        assert state.last_error == "connection refused"
        waits.append(state.next_sync - world.clock.seconds())
        if failures < 5:
            world.clock.advance(waits[-1])
    assert waits == [5, 10, 20, 30, 30]
    drive(world.clock, world.ours.roster.stop())
    reborn = MemoryNode(OURS, world.dialer, world.clock, SyncSettings(jitter=0))
    reborn.roster._book = world.ours.storage.book
    drive(world.clock, reborn.roster.start([Listing(THEIRS)]))
    settle(world.clock)
    state = reborn.roster.state(THEIRS)
    assert state is not None
    assert state.consecutive_failures == 5
    world.dialer.peers[THEIRS] = served
    world.clock.advance(30)
    settle(world.clock)
    state = reborn.roster.state(THEIRS)
    drive(world.clock, reborn.roster.stop())
    assert state is not None
    assert (state.consecutive_failures, state.status.value, state.last_error) == (0, "idle", "")


def test_removing_a_peer_stops_its_sync_and_forgets_it(make_world: MakeWorld) -> None:
    world = make_world(SyncSettings(fetch_batch=10, fetch_in_flight=1))
    world.theirs.hold(events)
    drive(world.clock, world.ours.roster.start([]))
    drive(world.clock, world.ours.roster.add(THEIRS))
    drive(world.clock, world.ours.roster.add(THEIRS))
    assert world.ours.roster.peers() == [THEIRS]
    more = [alice.sign(created_at=9000 + n) for n in range(100)]
    world.theirs.hold(more)
    removed: list[Deferred[None]] = []

    def remove() -> None:
        removed.append(Deferred.fromCoroutine(world.ours.roster.remove(THEIRS)))

    def remove_soon(progress: SyncProgress) -> None:
        if progress.fetched == 20:
            world.clock.callLater(0, remove)

    running = Deferred.fromCoroutine(world.ours.roster.sync(THEIRS, EVERYTHING, remove_soon))
    settle(world.clock)
    assert isinstance(failure_of(running), CancelledError)
    assert removed[0].called
    assert world.ours.roster.peers() == []
    assert drive(world.clock, world.ours.storage.book.peers()) == {}
    world.clock.advance(10_000)
    settle(world.clock)
    assert len(world.dialer.links) == 1
    assert [call for call in world.clock.getDelayedCalls() if call.active()] == []


def test_a_peer_is_described_with_its_terms_and_what_stays_different(
    make_world: MakeWorld,
) -> None:
    world = make_world(SyncSettings(interval=900))
    roster, book = world.ours.roster, world.ours.storage.book
    wanted = Filter.build(kinds=[1])
    drive(world.clock, roster.start([Listing(THEIRS, Direction.DOWN, wanted)]))
    settle(world.clock)
    entries = {
        event_id: LedgerEntry(Residue.UNFETCHABLE if n else Residue.OURS_REJECTED, "no", 1, n)
        for n, event_id in enumerate(ids[:4])
    }
    drive(world.clock, book.write_ledger(THEIRS, entries, []))
    state = roster.state(THEIRS)
    assert state is not None
    described = PeerDescription(
        url=THEIRS,
        listed=True,
        direction=Direction.DOWN,
        wanted=wanted,
        interval=900,
        tail=True,
        linked=True,
        state=state,
        residues={Residue.OURS_REJECTED: 1, Residue.UNFETCHABLE: 3},
        entries={event_id: entries[event_id] for event_id in ids[:3]},
    )
    assert drive(world.clock, roster.describe(THEIRS.upper(), 2)) == described
    roster.pause_background()
    assert drive(world.clock, roster.describe(THEIRS, 2)) == replace(described, linked=False)


def test_a_peer_that_is_not_listed_is_described_while_it_is_synced(make_world: MakeWorld) -> None:
    world = make_world()
    roster = world.ours.roster
    with pytest.raises(Unknown):
        drive(world.clock, roster.describe(THEIRS, 1))
    running = Deferred.fromCoroutine(roster.sync(THEIRS, EVERYTHING, lambda _: None))
    assert (roster.states(), list(roster.visits())) == ({}, [THEIRS])
    described = drive(world.clock, roster.describe(THEIRS, 1))
    assert (described.listed, described.state.status.value) == (False, "syncing")
    # What is written must not say so after a restart.
    added = Deferred.fromCoroutine(roster.add(THEIRS))
    assert added.called
    (written,) = drive(world.clock, world.ours.storage.book.peers()).values()
    assert written.status.value == "idle"
    assert (list(roster.states()), roster.visits()) == ([THEIRS], {})
    settle(world.clock)
    assert running.called


def test_no_more_than_so_many_peers_are_listed_visited_or_not(make_world: MakeWorld) -> None:
    world = make_world(SyncSettings(max_peers=1))
    roster = world.ours.roster
    drive(world.clock, roster.start([Listing("wss://other.example")]))
    running = Deferred.fromCoroutine(roster.sync(THEIRS, EVERYTHING, lambda _: None))
    for url in (THEIRS, "wss://third.example"):
        refused = failure_of(Deferred.fromCoroutine(roster.add(url)))
        assert str(refused) == "too many peers (limit 1)"
    drive(world.clock, roster.add("wss://other.example"))
    settle(world.clock)
    assert running.called
    assert roster.peers() == ["wss://other.example"]
    assert list(drive(world.clock, world.ours.storage.book.peers())) == roster.peers()


@pytest.mark.parametrize("ends", [False, True])
def test_a_visit_may_begin_or_end_while_its_peer_is_being_listed(
    make_world: MakeWorld, ends: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = make_world()
    roster, book = world.ours.roster, world.ours.storage.book
    drive(world.clock, roster.start([]))
    put, written = book.put, Deferred[None]()

    async def put_later(url: str, state: PeerState) -> None:
        await written
        await put(url, state)

    monkeypatch.setattr(book, "put", put_later)
    visits: list[Deferred[SyncProgress]] = []

    def visit() -> None:
        visits.append(Deferred.fromCoroutine(roster.sync(THEIRS, EVERYTHING, lambda _: None)))

    if ends:
        visit()
    added = Deferred.fromCoroutine(roster.add(THEIRS))
    if ends:
        settle(world.clock)
    else:
        visit()
    assert visits[0].called == ends
    written.callback(None)
    settle(world.clock)
    assert (added.called, added.result, roster.peers()) == (True, None, [THEIRS])
    assert drive(world.clock, roster.describe(THEIRS, 0)).linked


def test_what_the_ledger_explains_is_tried_again_once_it_is_forgotten(
    make_world: MakeWorld,
) -> None:
    world = make_world()
    world.theirs.hold(events[:3])
    roster, book = world.ours.roster, world.ours.storage.book
    drive(world.clock, roster.start([]))
    roster.pause_background()
    drive(world.clock, roster.add(THEIRS))
    entry = LedgerEntry(Residue.UNFETCHABLE, "not returned", 1, world.clock.seconds() + 3600)
    drive(world.clock, book.write_ledger(THEIRS, {ids[0]: entry, ids[1]: entry}, []))
    assert world.ours.sync(THEIRS).explained == 2
    assert drive(world.clock, roster.forget_ledger(THEIRS.upper())) == 2
    assert drive(world.clock, roster.forget_ledger(THEIRS)) == 0
    assert world.ours.sync(THEIRS).explained == 0
    assert world.ours.held() == set(ids[:3])
    with pytest.raises(Unknown):
        drive(world.clock, roster.forget_ledger("wss://unknown.example"))


ADDED = "ws://added.example"


def restart(world: World, *listings: Listing) -> list[str]:
    """Start our node anew on the same store, and stop it; what it said of the configuration."""
    node = MemoryNode(OURS, world.dialer, world.clock, storage=world.ours.storage)
    with capturedLogs() as told:
        drive(world.clock, node.roster.start(listings))
        drive(world.clock, node.roster.stop())
    assert node.roster.peers() == sorted(drive(world.clock, world.ours.storage.book.peers()))
    return [text for text in map(formatEvent, told) if "the configuration" in text]


def configured(world: World) -> dict[str, bool]:
    """The peers of our book, and whether the configuration lists them."""
    states = drive(world.clock, world.ours.storage.book.peers())
    return {url: state.configured for url, state in states.items()}


def test_a_peer_that_the_configuration_lists_no_more_is_forgotten_at_the_next_start() -> None:
    world = World()
    world.dialer.peers[THEIRS] = PeerError("connection refused")
    roster, book = world.ours.roster, world.ours.storage.book
    drive(world.clock, roster.start([Listing(THEIRS, Direction.DOWN)]))
    drive(world.clock, roster.add(ADDED))
    entry = LedgerEntry(Residue.UNFETCHABLE, "not returned", 1, 0)
    drive(world.clock, book.write_ledger(THEIRS, {ids[0]: entry}, []))
    drive(world.clock, roster.stop())
    assert configured(world) == {THEIRS: True, ADDED: False}
    assert restart(world, Listing(THEIRS)) == []
    assert drive(world.clock, book.residues(THEIRS)) == {Residue.UNFETCHABLE: 1}
    said = f"{THEIRS}: not listed any more, the configuration is without it"
    assert restart(world) == [said]
    assert configured(world) == {ADDED: False}
    assert drive(world.clock, book.residues(THEIRS)) == {}
    assert restart(world) == []


def test_a_peer_that_was_added_and_is_configured_later_is_the_configurations() -> None:
    world = World()
    drive(world.clock, world.ours.roster.add(ADDED))
    assert restart(world) == []
    assert restart(world, Listing(ADDED)) == []
    assert configured(world) == {ADDED: True}
    assert len(restart(world)) == 1
    assert configured(world) == {}


def test_a_peer_that_is_visited_as_the_start_lists_it_is_the_configurations() -> None:
    world = World()
    roster = world.ours.roster
    running = Deferred.fromCoroutine(roster.sync(THEIRS, EVERYTHING, lambda _: None))
    terms = Listing(THEIRS, Direction.DOWN, tail=False)
    drive(world.clock, roster.start([terms]))
    settle(world.clock)
    assert running.called
    assert configured(world) == {THEIRS: True}
    assert drive(world.clock, roster.describe(THEIRS, 0)).direction is Direction.DOWN
    drive(world.clock, roster.stop())


OLD = {
    "ws://[0:0:0:0:0:0:0:1]:17998": "ws://[::1]:17998",
    "wss://relay.example.com.": "wss://relay.example.com",
    "wss://B\u00fccher.example": "wss://xn--bcher-kva.example",
}


def test_peers_of_a_book_in_an_old_spelling_are_listed_once_and_keep_their_state(
    make_world: MakeWorld,
) -> None:
    world = make_world()
    roster, book = world.ours.roster, world.ours.storage.book
    entry = LedgerEntry(Residue.UNFETCHABLE, "not returned", 1, world.clock.seconds() + 3600)
    for n, url in enumerate(OLD):
        drive(world.clock, book.put(url, PeerState(last_sync=n + 1)))
        drive(world.clock, book.write_ledger(url, {ids[0]: entry}, []))
    drive(world.clock, book.put("gopher://hole.example", PeerState()))
    roster.pause_background()
    drive(world.clock, roster.start([Listing("ws://[::1]:17998")]))
    assert roster.peers() == sorted(OLD.values())
    kept = drive(world.clock, book.peers())
    assert {url: state.last_sync for url, state in kept.items()} == {
        url: n + 1 for n, url in enumerate(OLD.values())
    }
    assert [drive(world.clock, book.residues(url)) for url in OLD] == [{}, {}, {}]
    for url in OLD:
        assert roster.state(url) is not None
        drive(world.clock, roster.remove(url))
    assert (roster.peers(), drive(world.clock, book.peers())) == ([], {})


def test_the_canonical_entry_of_a_book_wins_over_an_old_spelling(make_world: MakeWorld) -> None:
    world = make_world()
    book = world.ours.storage.book
    drive(world.clock, book.put("wss://relay.example.com.", PeerState(last_sync=1)))
    drive(world.clock, book.put("wss://relay.example.com", PeerState(last_sync=2)))
    drive(world.clock, book.put("WSS://relay.example.com", PeerState(last_sync=3)))
    drive(world.clock, world.ours.roster.start([]))
    assert world.ours.roster.peers() == ["wss://relay.example.com"]
    kept = drive(world.clock, book.peers())
    assert [(url, at.last_sync) for url, at in kept.items()] == [("wss://relay.example.com", 2)]


def test_an_old_spelling_that_another_node_writes_is_taken_over_by_all_the_others() -> None:
    world = World()
    world.theirs.hold(events[:5])
    table, storage = LeaseTable(world.clock), world.ours.storage
    settings = SyncSettings(jitter=0, lease=60)
    nodes = [
        MemoryNode(
            f"ws://node{n}.example",
            world.dialer,
            world.clock,
            settings,
            storage=storage,
            leases=MemoryLeases(table),
        )
        for n in range(2)
    ]
    for node in nodes:
        drive(world.clock, node.roster.start([]))
    drive(world.clock, storage.book.put(f"{THEIRS}./", PeerState(events_synced=7)))
    for _ in range(21):
        world.clock.advance(1)
        settle(world.clock)
    assert [node.roster.peers() for node in nodes] == [[THEIRS], [THEIRS]]
    kept = drive(world.clock, storage.book.peers())
    assert {url: state.events_synced for url, state in kept.items()} == {THEIRS: 7 + 5}
    assert len(world.theirs.served) == 1
    for node in nodes:
        drive(world.clock, node.roster.stop())


def test_pausing_stops_syncs_by_themselves_but_not_on_demand(make_world: MakeWorld) -> None:
    world = make_world()
    roster = world.ours.roster
    drive(world.clock, roster.start([Listing(THEIRS)]))
    roster.pause_background()
    world.theirs.hold(events[:5])
    world.clock.advance(10_000)
    settle(world.clock)
    assert (roster.active(), world.ours.held()) == (False, set())
    drive(world.clock, roster.trigger(None, EVERYTHING))
    settle(world.clock)
    assert world.ours.held() == set(ids[:5])
    world.theirs.hold(events[5:10])
    roster.resume_background()
    settle(world.clock)
    assert world.ours.held() == set(ids[:10])


def test_a_triggered_sync_keeps_to_its_filter(make_world: MakeWorld) -> None:
    world = make_world()
    world.theirs.hold(events[:30])
    roster = world.ours.roster
    drive(world.clock, roster.start([Listing(THEIRS, Direction.BOTH, Filter.build(kinds=[9]))]))
    settle(world.clock)
    assert world.ours.held() == set()
    drive(world.clock, roster.trigger(THEIRS, Filter.build(kinds=[2])))
    settle(world.clock)
    assert world.ours.held() == {e.id_bytes for e in events[:30] if e.kind == 2}


def busy_with_kind_one(world: World) -> Deferred[SyncProgress]:
    """A sync of one kind, which takes a while, with a listed peer that is not attended to."""
    world.theirs.hold(events[:30])
    world.dialer.latency = lambda: 1.0
    world.ours.roster.pause_background()
    drive(world.clock, world.ours.roster.add(THEIRS))
    wanted = Filter.build(kinds=[1])
    running = Deferred.fromCoroutine(world.ours.roster.sync(THEIRS, wanted, lambda _: None))
    settle(world.clock)
    return running


def pass_time(world: World, seconds: int) -> None:
    for _ in range(seconds):
        world.clock.advance(1)
        settle(world.clock)


def test_a_sync_of_all_comes_after_one_of_something_else(make_world: MakeWorld) -> None:
    world = make_world()
    other = MemoryNode("ws://other.example", world.dialer, world.clock)
    other.hold(events[30:40])
    running = busy_with_kind_one(world)
    roster = world.ours.roster
    drive(world.clock, roster.add(other.url))
    for kind in (1, 2, 2):  # what runs, or waits, is not done twice
        drive(world.clock, roster.trigger(None, Filter.build(kinds=[kind])))
    with pytest.raises(LimitReached, match="already waiting"):
        drive(world.clock, roster.trigger(None, EVERYTHING))
    with pytest.raises(LimitReached, match="already running"):
        drive(world.clock, roster.trigger(THEIRS, Filter.build(kinds=[2])))
    pass_time(world, 60)
    assert running.called
    assert world.ours.held() == set(ids[:40])
    assert sum(link.url == THEIRS for link in world.dialer.links) == 2
    world.dialer.latency = lambda: 0.0
    drive(world.clock, roster.trigger(None, EVERYTHING))


def test_what_waits_for_a_sync_ends_with_its_peer(make_world: MakeWorld) -> None:
    world = make_world()
    running = busy_with_kind_one(world)
    drive(world.clock, world.ours.roster.trigger(None, Filter.build(kinds=[2])))
    drive(world.clock, world.ours.roster.remove(THEIRS))
    assert isinstance(failure_of(running), CancelledError)
    pass_time(world, 60)
    assert sum(link.url == THEIRS for link in world.dialer.links) == 1


def test_no_more_than_so_many_syncs_run_at_once(make_world: MakeWorld) -> None:
    world = make_world(SyncSettings(concurrent=2))
    urls = [f"ws://silent{n}.example" for n in range(5)]
    for url in urls:
        world.dialer.peers[url] = ScriptedPeer
    drive(world.clock, world.ours.roster.start([Listing(url) for url in urls]))
    settle(world.clock)
    states = world.ours.roster.states().values()
    assert [state.status.value for state in states].count("syncing") == 2
    drive(world.clock, world.ours.roster.stop())


def test_a_huge_peer_makes_room_for_small_ones_and_goes_on_after_them() -> None:
    world = World(SyncSettings(concurrent=1, turn=5, fetch_batch=10, fetch_in_flight=1))
    world.dialer.latency = lambda: 0.2
    small = MemoryNode("ws://small.example", world.dialer, world.clock)
    many = [alice.sign(created_at=1000 + n, content=str(n)) for n in range(600)]
    world.theirs.hold(many)
    few = [alice.sign(created_at=9000 + n) for n in range(3)]
    small.hold(few)
    told: list[SyncProgress] = []
    roster = world.ours.roster
    first = Deferred.fromCoroutine(roster.sync(THEIRS, EVERYTHING, told.append))
    late = Filter.build(since=9000)
    second = Deferred.fromCoroutine(roster.sync(small.url, late, lambda _: None))
    while not second.called:
        world.clock.advance(0.2)
    assert not first.called
    assert 0 < len(world.ours.held()) < 600
    while not first.called:
        world.clock.advance(0.2)
    assert world.ours.held() == {event.id_bytes for event in (*many, *few)}
    assert world.theirs.held() == world.ours.held()
    assert (told[-1].need, told[-1].fetched, told[-1].already) == (600, 600, 0)
    assert [progress.complete for progress in told].count(True) == 1
    fetched = [progress.fetched for progress in told]
    assert fetched == sorted(fetched)


def test_a_huge_peer_without_nip77_goes_on_where_its_turn_ended() -> None:
    world = World(SyncSettings(concurrent=1, turn=4))
    world.dialer.latency = lambda: 1.0
    links: list[PagedPeer] = []

    def link() -> PagedPeer:
        links.append(PagedPeer(world.theirs.backend))
        return links[-1]

    world.dialer.peers[THEIRS] = link
    small = MemoryNode("ws://small.example", world.dialer, world.clock)
    many = [alice.sign(created_at=1000 + n, content=str(n)) for n in range(600)]
    world.theirs.hold(many[:400])
    world.ours.hold(many[400:])
    roster = world.ours.roster
    told: list[SyncProgress] = []
    first = Deferred.fromCoroutine(roster.sync(THEIRS, EVERYTHING, told.append))
    nothing = Filter.build(since=9000)
    turns = 0
    for _ in range(600):
        if first.called:
            break
        # There is always somebody who waits.
        other = Deferred.fromCoroutine(roster.sync(small.url, nothing, lambda _: None))
        turns += 1
        while not other.called:
            world.clock.advance(0.5)
    assert first.called
    assert turns > 3
    assert sum(link.asked for link in links) <= 400 // 20 + 3 * turns
    assert world.ours.held() == world.theirs.held() == {event.id_bytes for event in many}
    assert (told[-1].complete, told[-1].have, told[-1].sent) == (True, 200, 200)
    assert (told[-1].need, told[-1].fetched, told[-1].already) == (400, 400, 0)


class Flagging(PagedPeer):
    """One whose links last for three pages."""

    def __init__(self, backend: Backend, asked: int = 0) -> None:
        super().__init__(backend)
        self.asked = asked

    def received(self, text: bytes) -> None:
        if self.asked == 3:
            self.abort("out of breath")
        else:
            super().received(text)


def test_a_tailed_peer_whose_links_do_not_last_is_read_to_the_end_as_well() -> None:
    world = World(SyncSettings(backoff_first=1, backoff_most=1, jitter=0))
    world.dialer.peers[THEIRS] = lambda: Flagging(world.theirs.backend, asked=-1)
    many = [alice.sign(created_at=1000 + n, content=str(n)) for n in range(400)]
    world.theirs.hold(many)
    roster = world.ours.roster
    drive(world.clock, roster.start([Listing(THEIRS, Direction.DOWN)]))
    for _ in range(200):
        world.clock.advance(1)
        settle(world.clock)
        if roster.states()[THEIRS].last_sync:
            break
    assert world.ours.held() == {event.id_bytes for event in many}
    drive(world.clock, roster.stop())


def test_a_peer_without_nip77_whose_links_do_not_last_is_read_to_the_end_all_the_same() -> None:
    world = World()
    links: list[Flagging] = []

    def link() -> Flagging:
        links.append(Flagging(world.theirs.backend))
        return links[-1]

    world.dialer.peers[THEIRS] = link
    many = [alice.sign(created_at=1000 + n, content=str(n)) for n in range(400)]
    world.theirs.hold(many)
    roster = world.ours.roster
    roster.pause_background()
    drive(world.clock, roster.add(THEIRS))
    failures = 0
    while True:
        sync = Deferred.fromCoroutine(roster.sync(THEIRS, EVERYTHING, lambda _: None))
        settle(world.clock)
        if roster.states()[THEIRS].last_sync:
            break
        assert "out of breath" in str(failure_of(sync))
        failures += 1
        assert failures < 16
        world.clock.advance(100)
        if failures < 6:  # meanwhile there is more
            more = alice.sign(created_at=int(world.clock.seconds()))
            many.append(more)
            world.theirs.hold([more])
    assert failures > 6
    assert world.ours.held() == {event.id_bytes for event in many}
    assert sum(peer.asked for peer in links) <= len(many) // 20 + 2 * len(links) + 3


class Measured(PagedPeer):
    """One whose links last for so many pages, and one more REQ.

    :ivar asked_for: the second that each REQ reads pages from, None for the newest.
    :ivar takes: whether it answers to events.
    :ivar falls_silent: whether it says nothing more then, in place of ending the link.
    """

    takes = True
    falls_silent = False

    def __init__(self, backend: Backend, pages: float) -> None:
        super().__init__(backend)
        self.asked_for: list[int | None] = []
        self._pages = pages

    def received(self, text: bytes) -> None:
        label, _, *rest = json.loads(text)
        if label == "REQ":
            self.asked_for.append(rest[0].get("until"))
        if label == "EVENT" and not self.takes:
            return
        if len(self.asked_for) > self._pages:
            if not self.falls_silent:
                self.abort("out of breath")
        else:
            super().received(text)


class PagedWorld(World):
    """A world whose other node shows pages of 20 of its 400 events.

    :ivar pages: how many of them each next link shows, for ever after those that are listed.
    :ivar shown: those links.
    """

    def __init__(
        self, pages: Iterable[float], listing: Listing | None = None, began: int = 1000
    ) -> None:
        super().__init__(SyncSettings(jitter=0, interval=10**6))
        self.theirs.hold([alice.sign(created_at=began + n) for n in range(400)])
        self.pages = chain(pages, repeat(inf))
        self.shown: list[Measured] = []
        self.dialer.peers[THEIRS] = self._link
        self.ours.roster.pause_background()
        self.peer = self.ours.roster._peer(listing or Listing(THEIRS), PeerState(), listed=True)

    def _link(self) -> Measured:
        self.shown.append(Measured(self.theirs.backend, next(self.pages)))
        return self.shown[-1]

    def fail(self) -> str:
        """A sync that does not come to its end; with which words."""
        syncing = self.peer.sync(EVERYTHING, lambda _: None)
        settle(self.clock)
        self.clock.advance(30)
        settle(self.clock)
        return str(failure_of(syncing))

    def succeed(self) -> SyncProgress:
        """A sync that does."""
        syncing = self.peer.sync(EVERYTHING, lambda _: None)
        settle(self.clock)
        assert self.ours.held() == self.theirs.held()
        return cast(SyncProgress, syncing.result)

    def starts(self) -> list[int | None]:
        """Where each link's pages began."""
        return [link.asked_for[0] for link in self.shown]


def test_a_link_that_brings_no_page_loses_no_place() -> None:
    world = PagedWorld(4 if n % 2 else 0 for n in range(1, 12))
    while world.peer.state.last_sync == 0:
        assert len(world.shown) < 12
        syncing = world.peer.sync(EVERYTHING, lambda _: None)
        settle(world.clock)
        syncing.addErrback(lambda failure: failure.trap(PeerError))
    assert world.ours.held() == world.theirs.held()
    assert world.starts().count(None) == 1


def test_a_place_where_a_peer_falls_silent_three_times_in_a_row_is_not_gone_on_from() -> None:
    world = PagedWorld([4])
    assert "out of breath" in world.fail()
    silent = [Measured(world.theirs.backend, 0) for _ in range(3)]
    for link in silent:
        link.falls_silent = True
    links = iter(silent)
    shown = world.dialer.peers[THEIRS]
    world.dialer.peers[THEIRS] = lambda: next(links)
    for _ in silent:
        assert world.fail().startswith("no answer to a REQ")
    world.dialer.peers[THEIRS] = shown
    world.succeed()
    places = [link.asked_for[0] for link in silent]
    assert len(set(places)) == 1 and places[0] is not None
    assert world.starts() == [None, None]


@pytest.mark.parametrize("at", [0, 150, 399])
def test_an_event_that_a_peer_chokes_on_keeps_no_other_from_coming(at: int) -> None:
    began = 1_700_000_000 - 400
    world = PagedWorld([], began=began)
    poison = alice.sign(created_at=began + at)
    assert poison.id_bytes in world.theirs.held()

    class Choking(PagedPeer):
        """Hangs up in place of sending one event."""

        def send(self, text: bytes) -> None:
            if poison.id.encode() in text and text.startswith(b'["EVENT"'):
                self.abort("I choke")
            else:
                super().send(text)

    world.dialer.peers[THEIRS] = lambda: Choking(world.theirs.backend)
    failures = 0
    while True:
        syncing = world.peer.sync(EVERYTHING, lambda _: None)
        settle(world.clock)
        if world.peer.state.last_sync:
            break
        assert "I choke" in str(failure_of(syncing))
        failures += 1
        assert failures < 20
        world.clock.advance(30)
    progress = cast(SyncProgress, syncing.result)
    lost = world.theirs.held() - world.ours.held()
    assert poison.id_bytes in lost
    assert len(lost) <= 8  # and its neighbours, perhaps, until the next sync
    assert any("are left out: links end there" in text for text in progress.reasons)
    assert "are left out: links end there" in world.peer.state.last_error
    assert world.peer.state.consecutive_failures == 0


def test_what_a_peer_out_of_reach_had_shown_is_not_read_again() -> None:
    world = PagedWorld([4])
    world.fail()
    link = world.dialer.peers[THEIRS]
    world.dialer.peers[THEIRS] = PeerError("gone")
    for _ in range(5):
        assert world.fail() == "gone"
    world.dialer.peers[THEIRS] = link
    world.succeed()
    assert world.starts()[1] is not None


@pytest.mark.parametrize(("seconds", "most", "next_pages"), [(10, 20, 20), (100, 30, 2)])
def test_a_cancelled_sync_is_gone_on_with_and_what_it_had_found_is_sent(
    seconds: int, most: int, next_pages: int
) -> None:
    world = PagedWorld([])
    world.ours.hold([alice.sign(created_at=1390 + n, content="ours") for n in range(10)])
    world.dialer.latency = lambda: 1.0
    syncing = world.peer.sync(EVERYTHING, lambda _: None)
    settle(world.clock)
    [link] = world.shown
    link.takes = False
    for _ in range(seconds):
        world.clock.advance(1)
    assert 2 < len(link.asked_for) < most
    assert len(world.theirs.held()) == 400
    syncing.cancel()
    failure_of(syncing)
    world.dialer.latency = lambda: 0.0
    progress = world.succeed()
    assert len(world.shown[1].asked_for) <= next_pages
    assert (progress.have, progress.sent) == (10, 10)


def test_a_spent_budget_reads_no_page_twice() -> None:
    world = PagedWorld([], Listing(THEIRS, budget=Budget(events=100)))
    for _ in range(3):
        assert world.fail().startswith("budget spent")
    world.succeed()
    asked_for = [until for link in world.shown for until in link.asked_for]
    assert asked_for.count(None) == 2  # and one for what came meanwhile
    assert len(asked_for) < 400 / 20 + 2 * len(world.shown) + 3


def test_a_sync_of_something_else_leaves_the_place_where_it_is() -> None:
    world = PagedWorld([4])
    world.fail()
    syncing = world.peer.sync(Filter.build(kinds=[7]), lambda _: None)
    settle(world.clock)
    assert syncing.called
    world.succeed()
    assert world.starts()[2] is not None


class Dripping(ScriptedPeer):
    """Lets whoever asks wait for ever, and never falls silent."""

    def __init__(self, world: World) -> None:
        super().__init__(self._script)
        self._clock = world.clock
        self._stamps = count(5000)

    def _script(self, text: bytes) -> list[bytes]:
        label, name, *_ = json.loads(text)
        if label == "NEG-OPEN":
            return [b'["NOTICE","unknown cmd"]']
        if label == "REQ":
            self._drip(name)
        return []

    def _drip(self, name: str) -> None:
        event = alice.sign(created_at=next(self._stamps))
        self._end.send(b'["EVENT","%b",%b]' % (name.encode(), event.encode()))
        self._clock.callLater(5, self._drip, name)

    def connected(self, end: PeerEnd) -> None:
        super().connected(end)
        self._end = end


def test_a_peer_that_drips_keeps_nobody_waiting_for_long_and_is_given_up() -> None:
    world = World(SyncSettings(concurrent=1, turn=10))
    world.dialer.peers[THEIRS] = lambda: Dripping(world)
    small = MemoryNode("ws://small.example", world.dialer, world.clock)
    roster = world.ours.roster
    evil = Deferred.fromCoroutine(roster.sync(THEIRS, EVERYTHING, lambda _: None))
    waits = []
    while not evil.called:
        began = world.clock.seconds()
        good = Deferred.fromCoroutine(roster.sync(small.url, EVERYTHING, lambda _: None))
        while not good.called:
            world.clock.advance(0.5)
            settle(world.clock)
        waits.append(world.clock.seconds() - began)
    assert waits[0] <= 2 * 10 + 1
    assert max(waits) <= (1 + 2**5) * 10 + 1
    assert "too slow" in str(failure_of(evil))
