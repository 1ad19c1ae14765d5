"""Several nodes on one store: each peer is one node's to sync, and never nobody's for long."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
from twisted.internet.defer import CancelledError, Deferred
from twisted.logger import LogLevel, capturedLogs, formatEvent
from zope.interface.verify import verifyObject

from negd.interfaces import ILeases, PeerState
from negd.nostr.filter import EVERYTHING
from negd.nostr.signing import Signer
from negd.peers.listing import Listing
from negd.settings import SyncSettings
from negd.testing.leases import LeaseTable, MemoryLeases
from negd.testing.links import drive, settle
from negd.testing.nodes import THEIRS, MemoryNode, World, failure_of

alice = Signer(b"\x01" * 32)
NOW = 1_700_000_000
events = [alice.sign(created_at=NOW + n, content=str(n)) for n in range(100)]
ids = [event.id_bytes for event in events]
LEASE = 60.0
LOOK = LEASE / 4
SETTINGS = SyncSettings(jitter=0, interval=600, lease=LEASE)


class Nodes:
    """Nodes that share a store, and one peer that none of them is."""

    def __init__(self) -> None:
        self.world = World()
        self.clock = self.world.clock
        self.theirs = self.world.theirs
        self.table = LeaseTable(self.clock)
        self.leases: list[MemoryLeases] = []
        self.nodes: list[MemoryNode] = []
        self.storage = self.world.ours.storage

    def add(self, *listings: Listing) -> MemoryNode:
        """One more node, started."""
        self.leases.append(MemoryLeases(self.table))
        node = MemoryNode(
            f"ws://node{len(self.nodes)}.example",
            self.world.dialer,
            self.clock,
            SETTINGS,
            storage=self.storage,
            leases=self.leases[-1],
        )
        self.nodes.append(node)
        drive(self.clock, node.roster.start(listings))
        settle(self.clock)
        return node

    def after(self, seconds: float, step: float = 1.0) -> None:
        """Let time pass."""
        for _ in range(round(seconds / step)):
            self.clock.advance(step)
            settle(self.clock)

    def linked(self) -> list[int]:
        """Which nodes have a link to the peer."""
        return [at for at, node in enumerate(self.nodes) if node.roster._peers[THEIRS].contact]

    def kept(self) -> PeerState:
        """What the store has of the peer."""
        return drive(self.clock, self.storage.book.peers())[THEIRS]

    def die(self, at: int) -> None:
        """Have a node do nothing any more, as if its process was gone."""
        node, self.leases[at].away = self.nodes[at], True
        for link in self.world.dialer.links:
            link.close()
        drive(self.clock, node.roster.stop())


@pytest.fixture
def nodes() -> Iterator[Nodes]:
    nodes = Nodes()
    nodes.theirs.hold(events[:5])
    yield nodes
    for node in nodes.nodes:
        drive(nodes.clock, node.roster.stop())
    assert [call for call in nodes.clock.getDelayedCalls() if call.active()] == []


def test_the_leases_of_these_tests_keep_the_promises_of_real_ones() -> None:
    world = World()
    table = LeaseTable(world.clock)
    ours, theirs = MemoryLeases(table), MemoryLeases(table)
    verifyObject(ILeases, ours)

    def hold(leases: MemoryLeases, name: str = "a") -> bool:
        return drive(world.clock, leases.hold(name, 30))

    assert hold(ours) and hold(ours) and not hold(theirs) and hold(theirs, "b")
    drive(world.clock, theirs.release("a"))
    assert not hold(theirs)
    world.clock.advance(29)
    assert not hold(theirs)
    world.clock.advance(1)
    assert hold(theirs) and not hold(ours)
    drive(world.clock, theirs.release("a"))
    assert hold(ours)


def test_one_node_syncs_a_peer_and_the_others_tell_how_it_went(nodes: Nodes) -> None:
    for _ in range(3):
        nodes.add(Listing(THEIRS))
    assert nodes.linked() == [0]
    nodes.theirs.hold(events[5:10])
    nodes.after(700)
    assert nodes.linked() == [0]
    assert len(nodes.world.dialer.links) == 1
    assert nodes.nodes[1].held() == set(ids[:10])
    first, *others = [node.roster.state(THEIRS) for node in nodes.nodes]
    assert first is not None and first.last_sync == NOW + 600
    assert others == [first, first]
    described = [
        drive(nodes.clock, node.roster.describe(THEIRS, 0)).elsewhere for node in nodes.nodes
    ]
    assert described == [False, True, True]


def test_another_node_takes_over_from_one_that_stops_at_its_next_look(nodes: Nodes) -> None:
    first, _ = nodes.add(Listing(THEIRS)), nodes.add(Listing(THEIRS))
    drive(nodes.clock, first.roster.stop())
    nodes.after(LOOK)
    assert nodes.linked() == [1]
    nodes.theirs.hold(events[5:10])
    settle(nodes.clock)
    assert nodes.nodes[1].held() == set(ids[:10])
    state = nodes.nodes[1].roster.state(THEIRS)
    assert state is not None and state.events_synced == 10


@pytest.mark.parametrize("moment", [90, 91, 98, 104])
def test_another_node_takes_over_from_one_that_dies_within_a_lease(
    nodes: Nodes, moment: int
) -> None:
    nodes.add(Listing(THEIRS))
    nodes.after(7)
    nodes.add(Listing(THEIRS))
    nodes.after(moment - 7)
    nodes.die(0)
    nodes.after(LOOK)
    assert nodes.linked() == []
    nodes.after(LEASE - LOOK)
    assert nodes.linked() == [1]


def test_a_node_that_fails_to_renew_its_lease_once_keeps_it(nodes: Nodes) -> None:
    nodes.add(Listing(THEIRS))
    nodes.add(Listing(THEIRS))
    nodes.after(5)
    nodes.leases[0].away = True
    nodes.after(LOOK)
    nodes.leases[0].away = False
    nodes.after(2 * LEASE)
    assert nodes.linked() == [0]
    assert len(nodes.world.dialer.links) == 1


def test_a_node_cut_off_from_the_leases_ends_its_visit_before_another_begins(
    nodes: Nodes,
) -> None:
    nodes.add(Listing(THEIRS))
    nodes.add(Listing(THEIRS))
    nodes.after(25)
    nodes.leases[0].away = True
    seen: list[list[int]] = []
    for _ in range(200):
        nodes.after(0.5, step=0.5)
        seen.append(nodes.linked())
    assert [0, 1] not in seen
    assert seen[0] == [0] and seen[-1] == [1]
    gap = 0.5 * seen.count([])
    assert gap <= LOOK + 1
    nodes.leases[0].away = False
    nodes.after(100)
    assert nodes.linked() == [1]


def test_a_node_that_loses_its_lease_cancels_the_sync_under_way(nodes: Nodes) -> None:
    first = nodes.add(Listing(THEIRS))
    nodes.after(2)
    peer = first.roster._peers[THEIRS]
    before = nodes.kept()
    nodes.world.dialer.links[-1].pause()
    running = peer.sync(EVERYTHING, lambda _: None)
    nodes.table.held["sync:" + THEIRS] = (MemoryLeases(nodes.table), NOW + 10**6)
    nodes.after(LOOK)
    assert isinstance(failure_of(running), CancelledError)
    assert nodes.linked() == []
    assert nodes.kept() == before


def test_peers_added_and_removed_at_one_node_are_so_at_all(nodes: Nodes) -> None:
    first, second = nodes.add(), nodes.add()
    drive(nodes.clock, second.roster.add(THEIRS))
    settle(nodes.clock)
    assert second.held() == set(ids[:5])
    nodes.after(LOOK)
    assert first.roster.peers() == [THEIRS]
    assert nodes.linked() == [1]
    drive(nodes.clock, first.roster.remove(THEIRS))
    nodes.after(LOOK)
    assert second.roster.peers() == []
    nodes.theirs.hold(events[5:10])
    settle(nodes.clock)
    assert second.held() == set(ids[:5])
    nodes.after(LEASE)
    assert drive(nodes.clock, nodes.storage.book.peers()) == {}


def test_a_sync_that_ends_after_its_peer_was_removed_does_not_list_it_again(nodes: Nodes) -> None:
    first, second = nodes.add(Listing(THEIRS)), nodes.add(Listing(THEIRS))
    drive(nodes.clock, second.roster.remove(THEIRS))
    first.sync(THEIRS)
    nodes.after(LEASE)
    assert drive(nodes.clock, nodes.storage.book.peers()) == {}


def test_a_sync_on_demand_runs_where_it_was_asked_for_and_leaves_the_state_alone(
    nodes: Nodes,
) -> None:
    nodes.add(Listing(THEIRS))
    second = nodes.add(Listing(THEIRS))
    nodes.after(5)
    before = nodes.kept()
    assert second.sync(THEIRS).complete
    assert len(nodes.world.dialer.links) == 2
    assert nodes.linked() == [0]
    assert nodes.kept() == before
    nodes.after(LOOK)
    assert second.roster.state(THEIRS) == before


def test_a_peer_that_one_of_the_nodes_is_without_stays_and_is_warned_of(nodes: Nodes) -> None:
    nodes.add(Listing(THEIRS))
    nodes.after(1)
    assert nodes.kept().configured
    with capturedLogs() as told:
        second = nodes.add()
    assert [formatEvent(event) for event in told if event["log_level"] is LogLevel.warn] == [
        f"{THEIRS}: the configuration has no terms for it any more"
    ]
    nodes.die(0)
    nodes.after(2 * LEASE)
    assert nodes.linked() == [1]
    second.sync(THEIRS)
    assert nodes.kept().configured


def test_a_peer_is_the_configurations_whichever_node_lists_it(nodes: Nodes) -> None:
    first = nodes.add()
    drive(nodes.clock, first.roster.add(THEIRS))
    nodes.add(Listing(THEIRS))
    nodes.after(LEASE)
    assert not nodes.kept().configured
    first.roster.pause_background()
    nodes.after(LEASE)
    assert nodes.linked() == [1]
    assert nodes.kept().configured


def test_what_another_node_keeps_of_a_peer_at_length_is_cut(nodes: Nodes) -> None:
    first, second = nodes.add(Listing(THEIRS)), nodes.add(Listing(THEIRS))
    long = replace(nodes.kept(), last_error="no\n" * 1000)
    drive(nodes.clock, nodes.storage.book.put(THEIRS, long))
    nodes.after(LOOK)
    state = second.roster.state(THEIRS)
    assert state is not None
    assert state.last_error == ("no?" * 1000)[:200]
    first.roster.pause_background()
    nodes.after(LOOK)
    assert nodes.linked() == [1]
    assert nodes.kept().last_error == ""


def test_pausing_a_node_leaves_its_peers_to_the_others(nodes: Nodes) -> None:
    first, _ = nodes.add(Listing(THEIRS)), nodes.add(Listing(THEIRS))
    first.roster.pause_background()
    nodes.after(LOOK)
    assert nodes.linked() == [1]
    first.roster.resume_background()
    nodes.after(LEASE)
    assert nodes.linked() == [1]


def test_a_node_begins_again_when_it_has_its_lease_back(nodes: Nodes) -> None:
    nodes.add(Listing(THEIRS))
    nodes.leases[0].away = True
    nodes.after(LEASE + 1)
    assert nodes.linked() == []
    nodes.leases[0].away = False
    nodes.after(LOOK)
    assert nodes.linked() == [0]


def test_a_lease_that_ends_while_the_node_stops_is_no_matter(nodes: Nodes) -> None:
    node = nodes.add(Listing(THEIRS))
    nodes.after(1)
    peer, stopped = node.roster._peers[THEIRS], Deferred[None]()
    halt = peer.halt

    async def slowly() -> None:
        await stopped
        await halt()

    peer.halt = slowly  # type: ignore[method-assign]
    stopping = Deferred.fromCoroutine(node.roster.stop())
    nodes.after(2 * LEASE)
    assert not stopping.called
    stopped.callback(None)
    settle(nodes.clock)
    assert stopping.called
