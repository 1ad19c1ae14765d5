"""Attending to a peer: one link, new events both ways as they come, and the next link after it."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise

import pytest
from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater

from negd.errors import PeerError, StorageError
from negd.interfaces import Direction, PeerDescription, PeerState, Verdict
from negd.nostr.event import Event
from negd.nostr.filing import Filing
from negd.nostr.filter import EVERYTHING, Filter
from negd.nostr.signing import Signer
from negd.peers.listing import Listing
from negd.reconcile import RecordSet
from negd.settings import SyncSettings
from negd.sync import lessons
from negd.testing.links import ConversationPeer, ScriptedPeer, drive, settle
from negd.testing.nodes import THEIRS, World, failure_of
from negd.websocket.conversation import Backend

alice = Signer(b"\x01" * 32)
NOW = 1_700_000_000
events = [alice.sign(created_at=NOW + n, kind=1 + n % 2, content=str(n)) for n in range(300)]
ids = [event.id_bytes for event in events]


Attend = Callable[..., World]


@pytest.fixture
def attending() -> Iterator[Attend]:
    """Makes two nodes with five events each, ours attending to theirs; stops them in the end."""
    worlds: list[World] = []

    def attend(
        listing: Listing = Listing(THEIRS),  # noqa: B008
        sync: SyncSettings | None = None,
        link: Callable[[Backend], ConversationPeer] | None = None,
        theirs: Sequence[Event] = events[5:10],
    ) -> World:
        world = World(sync or SyncSettings(jitter=0, backoff_first=5))
        worlds.append(world)
        if link is not None:
            world.dialer.peers[THEIRS] = lambda: link(world.theirs.backend)
        world.ours.hold(events[:5])
        world.theirs.hold(theirs)
        drive(world.clock, world.ours.roster.start([listing]))
        settle(world.clock)
        return world

    yield attend
    for world in worlds:
        drive(world.clock, world.ours.roster.stop())
        assert [call for call in world.clock.getDelayedCalls() if call.active()] == []


def labels(world: World, link: int = -1) -> Counter[str]:
    return Counter(json.loads(text)[0] for text in world.dialer.links[link].sent)


def test_new_events_move_both_ways_as_they_come(attending: Attend) -> None:
    world = attending()
    assert world.ours.held() == world.theirs.held() == set(ids[:10])
    world.theirs.hold(events[10:15])
    world.ours.hold(events[15:20])
    settle(world.clock)
    assert world.ours.held() == world.theirs.held() == set(ids[:20])
    assert len(world.dialer.links) == 1
    state = world.ours.roster.state(THEIRS)
    assert state is not None
    assert state.events_synced == 20


def test_the_tail_begins_before_the_reconciliation(attending: Attend) -> None:
    world = attending()
    first = [json.loads(text) for text in world.dialer.links[0].sent[:2]]
    assert [message[0] for message in first] == ["REQ", "NEG-OPEN"]
    assert first[0][2] == {"since": NOW - 60}


def test_what_a_peer_sent_is_not_sent_back(attending: Attend) -> None:
    world = attending()
    sent = labels(world)["EVENT"]
    world.theirs.hold(events[10:200])
    settle(world.clock)
    assert world.ours.held() >= set(ids[10:200])
    assert labels(world)["EVENT"] == sent


def test_directions_hold_for_the_tail_too(attending: Attend) -> None:
    for direction in (Direction.UP, Direction.DOWN):
        world = attending(Listing(THEIRS, direction))
        world.theirs.hold(events[10:15])
        world.ours.hold(events[15:20])
        settle(world.clock)
        fetched = set(ids[10:15]) <= world.ours.held()
        pushed = set(ids[15:20]) <= world.theirs.held()
        assert (fetched, pushed) == (direction is Direction.DOWN, direction is Direction.UP)


def test_a_filter_holds_for_the_tail_too(attending: Attend) -> None:
    world = attending(Listing(THEIRS, wanted=Filter.build(kinds=[2])))
    world.theirs.hold(events[10:20])
    world.ours.hold(events[20:30])
    settle(world.clock)
    assert {e.kind for e in events if e.id_bytes in world.ours.held() - set(ids[:5])} == {1, 2}
    assert {e.kind for e in events[10:20] if e.id_bytes in world.ours.held()} == {2}
    assert {e.kind for e in events[20:30] if e.id_bytes in world.theirs.held()} == {2}


def test_without_a_tail_a_link_lasts_for_one_sync(attending: Attend) -> None:
    world = attending(Listing(THEIRS, tail=False), SyncSettings(jitter=0, interval=600))
    world.theirs.hold(events[10:15])
    settle(world.clock)
    assert world.ours.held() == set(ids[:10])
    world.clock.advance(600)
    settle(world.clock)
    assert world.ours.held() == set(ids[:15])
    assert len(world.dialer.links) == 2


def test_a_lost_link_is_opened_again_and_what_was_missed_is_reconciled(attending: Attend) -> None:
    world = attending()
    world.theirs.served[-1].abort("gone")
    settle(world.clock)
    world.theirs.hold(events[10:15])
    world.ours.hold(events[15:20])
    world.clock.advance(10)
    settle(world.clock)
    assert len(world.dialer.links) == 2
    assert world.ours.held() == world.theirs.held() == set(ids[:20])
    state = world.ours.roster.state(THEIRS)
    assert state is not None
    assert state.consecutive_failures == 0


def test_links_that_do_not_last_are_opened_ever_later(attending: Attend) -> None:
    world = attending()
    opened: list[float] = []
    for _ in range(60):
        if len(world.dialer.links) > len(opened):
            opened.append(world.clock.seconds() - NOW)
            world.theirs.served[-1].abort("gone")
            settle(world.clock)
        world.clock.advance(5)
        settle(world.clock)
    gaps = [after - before for before, after in pairwise(opened)]
    assert gaps == sorted(gaps)
    assert gaps[-1] >= 8 * gaps[0]


def described(world: World) -> PeerDescription:
    return drive(world.clock, world.ours.roster.describe(THEIRS, 0))


def test_a_peer_that_will_not_be_tailed_is_still_synced_and_pushed_to(attending: Attend) -> None:
    world = attending()
    tail = world.theirs.served[-1]
    name = json.loads(world.dialer.links[0].sent[0])[1]
    tail.send(b'["CLOSED","%s","blocked: no subscriptions"]' % name.encode())
    settle(world.clock)
    world.ours.hold(events[10:15])
    settle(world.clock)
    assert world.theirs.held() == set(ids[:15])
    assert described(world).tail_refused == "blocked: no subscriptions"
    world.clock.advance(20)
    settle(world.clock)
    assert described(world).tail_refused == ""
    world.theirs.hold([alice.sign(created_at=NOW + 20)])
    settle(world.clock)
    assert len(world.ours.held()) == 16, "the tail began again"
    tail.abort("gone")
    settle(world.clock)
    world.clock.advance(10)
    settle(world.clock)
    assert len(world.dialer.links) == 2


@pytest.mark.parametrize("nip77", [True, False])
def test_a_peer_that_takes_one_subscription_is_synced_and_then_tailed(
    attending: Attend, nip77: bool
) -> None:
    class OneAtATime(ConversationPeer):
        """Their node, with one subscription at a time."""

        opened: str | None = None

        def received(self, text: bytes) -> None:
            label, name, *_ = json.loads(text)
            if label == "NEG-OPEN" and not nip77:
                self.send(b'["NOTICE","unknown cmd"]')
            elif label == "REQ" and self.opened not in (None, name):
                refusal = "rate-limited: too many subscriptions (max 1)"
                self.send(json.dumps(["CLOSED", name, refusal]).encode())
            else:
                if label == "REQ":
                    self.opened = name
                elif label == "CLOSE" and name == self.opened:
                    self.opened = None
                super().received(text)

    world = attending(link=OneAtATime, theirs=[alice.sign(created_at=1000 + n) for n in range(300)])
    for _ in range(60):
        world.clock.advance(1)
        settle(world.clock)
    assert world.ours.held() == world.theirs.held()
    state = world.ours.roster.state(THEIRS)
    assert state is not None and state.last_sync
    world.clock.advance(20)
    settle(world.clock)
    world.theirs.hold([alice.sign(created_at=NOW + 90)])
    settle(world.clock)
    assert world.ours.held() == world.theirs.held()


def test_a_sync_on_demand_uses_the_open_link(attending: Attend) -> None:
    world = attending()
    world.ours.sync(THEIRS, Filter.build(kinds=[1]))
    assert len(world.dialer.links) == 1


def test_a_failed_sync_keeps_the_link_and_is_tried_again_on_it(
    attending: Attend, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = attending(sync=SyncSettings(jitter=0, interval=600, backoff_first=5))

    async def broken(wanted: Filter) -> RecordSet:
        raise StorageError("the disk is on fire")

    with monkeypatch.context() as patched:
        patched.setattr(world.ours.storage.events, "snapshot", broken)
        world.clock.advance(600)
        settle(world.clock)
    state = world.ours.roster.state(THEIRS)
    assert state is not None
    assert (state.status.value, state.consecutive_failures) == ("error", 1)
    assert state.last_error == "the disk is on fire"
    world.theirs.hold(events[10:13])
    settle(world.clock)
    assert world.ours.held() == set(ids[:13])
    world.theirs.hold([alice.sign(created_at=5)])
    world.clock.advance(5)
    settle(world.clock)
    state = world.ours.roster.state(THEIRS)
    assert state is not None
    assert (state.status.value, state.consecutive_failures) == ("idle", 0)
    assert len(world.ours.held()) == 14
    assert len(world.dialer.links) == 1


def test_a_peer_out_of_reach_is_a_failed_sync(attending: Attend) -> None:
    world = attending()
    world.dialer.peers[THEIRS] = PeerError("connection refused")
    world.theirs.served[-1].abort("gone")
    settle(world.clock)
    world.clock.advance(10)
    settle(world.clock)
    state = world.ours.roster.state(THEIRS)
    assert state is not None
    assert (state.last_error, state.next_sync) == ("connection refused", NOW + 15)


class TailedPeer:
    """Links to a peer, in the place of theirs, that is silent where it is to reconcile.

    :ivar refusal: what it says instead, if anything, also where pages are asked for.
    """

    def __init__(self, world: World) -> None:
        self.links: list[ScriptedPeer] = []
        self.refusal = ""
        world.dialer.peers[THEIRS] = self

    def __call__(self) -> ScriptedPeer:
        self.links.append(ScriptedPeer(self._answers))
        return self.links[-1]

    def _answers(self, text: bytes) -> list[bytes]:
        label, name, *rest = json.loads(text)
        if label == "REQ" and self.refusal and "limit" in rest[0]:
            return [json.dumps(["CLOSED", name, self.refusal]).encode()]
        if label == "REQ":
            return [json.dumps(["EOSE", name]).encode()]
        if label == "NEG-OPEN" and self.refusal:
            return [json.dumps(["NEG-ERR", name, self.refusal]).encode()]
        return []

    @property
    def asked(self) -> int:
        """How often the last link was asked to reconcile."""
        return sum(json.loads(text)[0] == "NEG-OPEN" for text in self.links[-1].heard)


def write_slowly(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have states of peers take a moment to be written."""
    book = world.ours.storage.book
    update = book.update

    async def slowly(url: str, state: PeerState) -> None:
        await deferLater(world.clock, 0.01)
        await update(url, state)

    monkeypatch.setattr(book, "update", slowly)


def pass_time(world: World, seconds: int) -> None:
    for _ in range(seconds * 2):
        world.clock.advance(0.5)
        settle(world.clock)


def test_a_link_that_ends_in_mid_sync_is_a_failed_sync(
    attending: Attend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lessons, "_MOST_BROKEN_OFF", 99)
    world = attending()
    write_slowly(world, monkeypatch)
    silent = TailedPeer(world)
    world.theirs.served[-1].abort("gone")
    opened: list[float] = []
    for _ in range(400):
        if len(silent.links) > len(opened):
            opened.append(world.clock.seconds() - NOW)
            assert silent.asked == 1
            silent.links[-1].end.send(b"[")
            silent.links[-1].end.close("no more")
        pass_time(world, 1)
    gaps = [after - before for before, after in pairwise(opened)]
    assert len(gaps) >= 5
    assert all(after > 1.5 * before for before, after in pairwise(gaps))
    state = world.ours.roster.state(THEIRS)
    assert state is not None
    assert state.consecutive_failures == len(opened)
    assert "no more" in state.last_error


def test_a_sync_that_is_due_waits_for_one_that_somebody_asked_for(attending: Attend) -> None:
    """Also after a failure, when it has been due for long."""
    world = attending()
    silent = TailedPeer(world)
    silent.refusal = "error: not now"
    world.theirs.served[-1].abort("gone")
    pass_time(world, 12)
    state = world.ours.roster.state(THEIRS)
    assert state is not None
    assert state.consecutive_failures == 1
    silent.refusal = ""
    asked_for = Deferred.fromCoroutine(world.ours.roster.sync(THEIRS, EVERYTHING, lambda _: None))
    pass_time(world, 15)
    assert silent.asked == 2
    asked_for.cancel()
    failure_of(asked_for)
    pass_time(world, 1)
    assert silent.asked == 3
    assert len(silent.links) == 1


def test_pausing_closes_the_link_once_nothing_runs_on_it(attending: Attend) -> None:
    world = attending()
    world.ours.roster.pause_background()
    settle(world.clock)
    world.theirs.hold(events[10:15])
    settle(world.clock)
    assert world.ours.held() == set(ids[:10])
    world.ours.roster.resume_background()
    settle(world.clock)
    assert world.ours.held() == set(ids[:15])


def test_a_start_while_what_came_is_still_being_stored_is_no_matter(
    attending: Attend, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = attending()
    store, roster = world.ours.storage.events, world.ours.roster
    ingest = store.ingest

    async def slowly(filings: Sequence[Filing]) -> list[Verdict]:
        await deferLater(world.clock, 3)
        return await ingest(filings)

    monkeypatch.setattr(store, "ingest", slowly)
    world.theirs.hold(events[10:15])
    settle(world.clock)
    roster.pause_background()
    settle(world.clock)
    roster.resume_background()
    for _ in range(20):
        world.clock.advance(1)
        settle(world.clock)
    assert world.ours.held() == set(ids[:15])
    world.theirs.hold(events[15:16])
    settle(world.clock)
    stopped = Deferred.fromCoroutine(roster.stop())
    settle(world.clock)
    assert not stopped.called
    world.clock.advance(3)
    settle(world.clock)
    assert stopped.called
    assert world.ours.held() == set(ids[:16])


def test_pausing_closes_no_link_that_a_sync_asked_for_before_still_needs(attending: Attend) -> None:
    world = attending(Listing(THEIRS, wanted=Filter.build(kinds=[1, 2])))
    world.theirs.hold([alice.sign(created_at=1, kind=3), alice.sign(created_at=1, kind=4)])
    world.dialer.links[0]._latency = lambda: 1.0
    roster = world.ours.roster
    running = Deferred.fromCoroutine(roster.sync(THEIRS, Filter.build(kinds=[3]), lambda _: None))
    drive(world.clock, roster.trigger(None, Filter.build(kinds=[4])))
    roster.pause_background()
    pass_time(world, 60)
    assert running.called
    state = roster.state(THEIRS)
    assert state is not None
    assert (state.status.value, state.consecutive_failures) == ("idle", 0)
    assert len(world.ours.held()) == 12
    assert described(world).linked is False
