"""What is learned of a peer's ways is used at the next sync."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from random import Random

import pytest
from twisted.internet.defer import Deferred

from negd.errors import PeerError
from negd.interfaces import PeerProfile, Residue
from negd.nostr.event import Event
from negd.nostr.signing import Signer
from negd.settings import SessionSettings, SyncSettings
from negd.storage.memory import MemoryBook
from negd.sync.contact import get_in_touch
from negd.sync.lessons import DOUBT
from negd.sync.run import SyncRun
from negd.testing.links import drive
from negd.testing.nodes import THEIRS, InFront, World

alice = Signer(b"\x01" * 32)
events = [alice.sign(created_at=1000 + n, content=str(n)) for n in range(400)]
ids = {event.id_bytes for event in events}


def scattered(seed: int) -> list[Event]:
    """Events all over the same time, so that reconciling them takes much to say."""
    return [alice.sign(created_at=1000 + n % 97, content=f"{seed} {n}") for n in range(1000)]


class Bent(InFront):
    """Their node, with some of our messages answered otherwise, and some of its answers left out.

    :ivar sent: what we sent, decoded.
    """

    def __init__(self, world: World, answer: Callable[[list], list | None], cap: int = 10**9):  # type: ignore[type-arg]
        super().__init__(world.theirs)
        self._other = answer
        self._cap = cap
        self._delivered: dict[str, int] = {}
        self.sent: list[list] = []  # type: ignore[type-arg]

    def send(self, text: bytes) -> None:
        message = json.loads(text)
        if message[0] == "EVENT":
            count = self._delivered[message[1]] = self._delivered.get(message[1], 0) + 1
            if count > self._cap:
                return
        self.end.send(text)

    def _script(self, text: bytes) -> Iterator[bytes]:
        message = json.loads(text)
        self.sent.append(message)
        answer = self._other(message)
        if answer is None:
            self._inner.received(text)
        else:
            yield json.dumps(answer).encode()


def sync(world: World, peer: Bent, profile: PeerProfile) -> PeerProfile:
    world.dialer.peers[THEIRS] = lambda: peer
    run = world.run_of(profile=profile)
    assert drive(world.clock, run.run()).complete
    return run.profile


def sync_for(world: World, peer: Bent, profile: PeerProfile, seconds: int = 20) -> PeerProfile:
    """As :func:`sync`, while time passes."""
    world.dialer.peers[THEIRS] = lambda: peer
    run = world.run_of(profile=profile)
    see_through(world, run, seconds)
    assert run.progress.complete
    return run.profile


def see_through(world: World, run: SyncRun, seconds: int) -> None:
    """A sync to its end, which must come within so many seconds."""
    done = Deferred.fromCoroutine(run.run())
    for _ in range(seconds):
        world.clock.pump([0] * 200)
        world.clock.advance(1)
    assert done.called


def count(peer: Bent, label: str) -> int:
    return sum(message[0] == label for message in peer.sent)


def no_nip77(message: list) -> list | None:  # type: ignore[type-arg]
    return ["NOTICE", "unknown cmd NEG-OPEN"] if message[0] == "NEG-OPEN" else None


def test_a_peer_without_nip77_is_not_asked_again_for_a_day() -> None:
    world = World()
    world.theirs.hold(events)
    learned = sync(world, Bent(world, no_nip77), PeerProfile())
    assert (learned.nip77, learned.found_at) == (False, world.clock.seconds())
    assert "unknown cmd" in learned.refusal
    again = Bent(world, no_nip77)
    assert sync(world, again, learned) == learned
    assert count(again, "NEG-OPEN") == 0
    world.clock.advance(DOUBT)
    later = Bent(world, lambda message: None)
    assert sync(world, later, learned).nip77 is True
    assert count(later, "NEG-OPEN") == 1


def test_a_peers_largest_set_is_kept_to_from_the_start() -> None:
    world = World(sessions=SessionSettings(max_records=100))
    world.theirs.hold(events)
    world.ours.hold(events[::2])
    learned = sync(world, Bent(world, lambda message: None), PeerProfile())
    assert learned.max_records == 100
    again = Bent(world, lambda message: None)
    sync(world, again, learned)
    refused = [m for m in again.sent if m[0] == "NEG-OPEN" and m[2] == {}]
    assert refused == []


TOO_MANY_IDS = {
    "CLOSED": (["CLOSED", "NAME", "error: too many ids in filter (max 50)"], 50),
    "CLOSED without a number": (["CLOSED", "NAME", "invalid: filter too large"], 50),
    "NOTICE": (["NOTICE", "ERROR: bad req: too many ids in filter"], 50),
    "silence": (["WHAT"], 50),
}


@pytest.mark.parametrize("way", TOO_MANY_IDS)
def test_a_peer_that_refuses_so_many_ids_is_asked_for_fewer(way: str) -> None:
    world = World(SyncSettings(fetch_batch=200))
    world.theirs.hold(events)
    refusal, cap = TOO_MANY_IDS[way]

    def answer(message: list) -> list | None:  # type: ignore[type-arg]
        if message[0] == "REQ" and len(message[2]["ids"]) > 60:
            return [message[1] if part == "NAME" else part for part in refusal]
        return None

    learned = sync_for(world, Bent(world, answer), PeerProfile(), seconds=70)
    assert world.ours.held() == ids
    assert learned.ids_per_request == cap
    again = Bent(world, answer)
    world.ours.hold([])
    sync(world, again, learned)
    world.clock.advance(DOUBT)
    assert sync(world, Bent(world, lambda _: None), learned).ids_per_request is None


def test_ids_that_are_listed_and_not_served_are_no_cap() -> None:
    world = World(SyncSettings(fetch_batch=50, fetch_in_flight=1))
    world.theirs.hold(events)
    hidden = {event.id for event in Random(1).sample(events, 200)}

    class Hiding(Bent):
        def send(self, text: bytes) -> None:
            message = json.loads(text)
            if message[0] != "EVENT" or message[2]["id"] not in hidden:
                super().send(text)

    peer = Hiding(world, lambda message: None)
    learned = sync(world, peer, PeerProfile())
    assert len(world.ours.held()) == 200
    assert learned.ids_per_request is None
    assert count(peer, "REQ") < 400 // 50 * 4


@pytest.mark.parametrize("cap", [25, 60])
def test_a_peers_cap_on_events_is_learned_and_kept_to(cap: int) -> None:
    world = World(SyncSettings(fetch_batch=200))
    world.theirs.hold(events)
    learned = sync(world, Bent(world, lambda message: None, cap), PeerProfile())
    assert world.ours.held() == ids
    assert learned.ids_per_request is not None
    assert 20 <= learned.ids_per_request <= cap
    more = [alice.sign(created_at=5000 + n) for n in range(300)]
    world.theirs.hold(more)
    again = Bent(world, lambda message: None, cap)
    sync(world, again, learned)
    assert {len(m[2]["ids"]) for m in again.sent if m[0] == "REQ"} <= set(range(cap + 1))


def test_a_peer_that_takes_few_requests_at_once_gets_fewer() -> None:
    world = World(SyncSettings(fetch_batch=10, fetch_in_flight=8))
    world.theirs.hold(events)
    open_now: set[str] = set()
    most_open = 0

    def answer(message: list) -> list | None:  # type: ignore[type-arg]
        nonlocal most_open
        if message[0] == "CLOSE":
            open_now.discard(message[1])
        if message[0] == "REQ":
            if len(open_now) >= 3:
                return ["CLOSED", message[1], "rate-limited: too many subscriptions"]
            open_now.add(message[1])
            most_open = max(most_open, len(open_now))
        return None

    peer = Bent(world, answer)
    world.dialer.peers[THEIRS] = lambda: peer
    run = world.run_of()
    done = Deferred.fromCoroutine(run.run())
    for _ in range(20):
        world.clock.pump([0] * 200)
        world.clock.advance(1)
    assert done.called
    assert world.ours.held() == ids
    assert run.progress.unfetchable == 0
    assert most_open == 3


def test_profiles_are_kept_with_the_state_of_a_listed_peer() -> None:
    world = World()
    world.theirs.hold(events[:10])
    drive(world.clock, world.ours.roster.start([]))
    drive(world.clock, world.ours.roster.add(THEIRS))
    kept = drive(world.clock, world.ours.storage.book.peers())[THEIRS].profile
    assert kept.nip77 is True
    assert replace(kept, nip77=None, found_at=0, described_at=0) == PeerProfile()
    drive(world.clock, world.ours.roster.stop())


def test_a_peer_that_takes_few_requests_is_asked_so_from_the_start_and_tried_with_one_more() -> (
    None
):
    world = World(SyncSettings(fetch_batch=10, fetch_in_flight=8))
    world.theirs.hold(events)

    def few(most: int) -> Bent:
        """A peer that refuses to have more than so many subscriptions open."""
        opened: set[str] = set()

        def answer(message: list) -> list | None:  # type: ignore[type-arg]
            if message[0] == "CLOSE":
                opened.discard(message[1])
            elif message[0] == "REQ" and len(opened) >= most:
                return ["CLOSED", message[1], "rate-limited: too many subscriptions"]
            elif message[0] == "REQ":
                opened.add(message[1])
            return None

        return Bent(world, answer)

    learned = sync_for(world, few(3), PeerProfile())
    assert world.ours.held() == ids
    assert learned.requests_in_flight in (3, 4)  # a refused one may come late
    world.theirs.hold([alice.sign(created_at=5000 + n) for n in range(200)])
    later = sync_for(world, few(8), learned)
    assert later.requests_in_flight == learned.requests_in_flight + 1


def test_a_peer_that_reads_only_small_frames_gets_them_and_this_is_kept() -> None:
    world = World(SyncSettings(frame_limit=60_000))
    world.ours.hold(scattered(1000))
    world.theirs.hold(scattered(1500))

    def small(message: list) -> list | None:  # type: ignore[type-arg]
        if message[0] == "NEG-MSG" and len(message[2]) > 2 * 9000:
            return ["NOTICE", "ERROR: message is too large"]
        return None

    learned = sync_for(world, Bent(world, small), PeerProfile())
    assert world.ours.held() == world.theirs.held()
    assert learned.frame_limit == 7500
    world.ours.hold(scattered(1700))
    again = Bent(world, small)
    sync(world, again, learned)
    assert max(len(m[2]) for m in again.sent if m[0] == "NEG-MSG") <= 2 * 7500
    assert count(again, "NEG-OPEN") == 1


def test_a_link_lost_over_a_large_frame_is_tried_with_smaller_ones_next_time() -> None:
    world = World()
    world.ours.hold(scattered(1000))
    world.theirs.hold(scattered(1500))
    peer: Bent

    def drop(message: list) -> list | None:  # type: ignore[type-arg]
        if message[0] == "NEG-MSG" and len(message[2]) > 8000:
            peer.close("the peer closed the link (1009: too big)")
        return None

    peer = Bent(world, drop)
    world.dialer.peers[THEIRS] = lambda: peer
    run = world.run_of()
    with pytest.raises(PeerError, match="1009"):
        drive(world.clock, run.run())
    assert run.profile.frame_limit == 30_000


def test_what_a_peer_does_wrong_is_counted() -> None:
    world = World()
    world.theirs.hold(events[:50])
    peer: Bent

    def sloppy(message: list) -> list | None:  # type: ignore[type-arg]
        if message[0] == "REQ":
            peer.send(b'["EVENT","x","not an event"]')
            for shown in (events[0], events[0], events[399]):
                peer.send(b'["EVENT","%s",%s]' % (message[1].encode(), shown.encode()))
            peer.send(b'["EVENT","never-opened",%s]' % events[1].encode())
        return None

    peer = Bent(world, sloppy)
    learned = sync(world, peer, PeerProfile(faults={"unasked": 5}))
    assert world.ours.held() == {event.id_bytes for event in events[:50]}
    assert learned.faults == {"unreadable": 1, "repeated": 2, "unasked": 7}


def test_what_a_peer_keeps_from_strangers_is_explained_so() -> None:
    world = World()
    world.ours.hold(events[:5])
    world.theirs.hold(events[5:9])
    book = MemoryBook()

    def guard(message: list) -> list | None:  # type: ignore[type-arg]
        if message[0] == "EVENT":
            return ["OK", message[1]["id"], False, "auth-required: who are you?"]
        if message[0] == "REQ":
            return ["CLOSED", message[1], "restricted: members only"]
        return None

    world.dialer.peers[THEIRS] = lambda: Bent(world, guard)
    for explained in (0, 9):
        run = world.run_of(book=book)
        see_through(world, run, 5)
        assert run.progress.explained == explained
        assert drive(world.clock, book.residues(THEIRS)) == {Residue.AUTH_GATED: 9}
        said = {"auth-required: who are you?": 5, "restricted: members only": 4}
        assert run.progress.reasons == ({} if explained else said)


def test_a_peer_that_asks_for_patience_is_given_it_and_gets_everything() -> None:
    world = World()
    world.ours.hold(events[:200])
    minutes: Counter[int] = Counter()
    refused = 0

    def slow(message: list) -> list | None:  # type: ignore[type-arg]
        nonlocal refused
        minute = int(world.clock.seconds() // 60)
        if message[0] == "EVENT" and minutes[minute] >= 40:
            refused += 1
            return ["OK", message[1]["id"], False, "rate-limited: slow down"]
        if message[0] == "EVENT":
            minutes[minute] += 1
        return None

    sync_for(world, Bent(world, slow), PeerProfile(), 600)
    assert world.theirs.held() == world.ours.held()
    assert refused < 200  # of which the first window has 64


def test_a_peer_that_takes_nothing_for_minutes_is_left_alone_and_quoted() -> None:
    world = World()
    world.ours.hold(events[:300])
    book = MemoryBook()
    refused = 0

    def full(message: list) -> list | None:  # type: ignore[type-arg]
        nonlocal refused
        if message[0] != "EVENT":
            return None
        refused += 1
        return ["OK", message[1]["id"], False, "rate-limited: come back tomorrow"]

    world.dialer.peers[THEIRS] = lambda: Bent(world, full)
    run = world.run_of(book=book)
    see_through(world, run, 240)
    assert (run.progress.complete, run.progress.sent, run.progress.rejected) == (True, 0, 300)
    assert run.progress.reasons == {"rate-limited: come back tomorrow": 300}
    assert drive(world.clock, book.residues(THEIRS)) == {Residue.THEIRS_REJECTED: 300}
    assert refused < 150
    entry = drive(world.clock, book.ledger(THEIRS, [events[299].id_bytes]))[events[299].id_bytes]
    assert entry.retry_at - world.clock.seconds() <= 60


def test_an_event_that_is_put_off_does_not_wait_for_ever_while_others_are_taken() -> None:
    world = World()
    world.ours.hold(events)
    shunned = {event.id for event in events[:3]}

    def partial(message: list) -> list | None:  # type: ignore[type-arg]
        if message[0] == "EVENT" and message[1]["id"] in shunned:
            return ["OK", message[1]["id"], False, "rate-limited: too many of this kind"]
        return None

    world.dialer.peers[THEIRS] = lambda: Bent(world, partial)
    run = world.run_of()
    done = Deferred.fromCoroutine(run.run())
    for _ in range(400):
        world.clock.pump([0] * 100)
        world.clock.advance(1)
    assert done.called
    assert (run.progress.complete, run.progress.sent, run.progress.rejected) == (True, 397, 3)


def test_a_notice_that_there_are_too_many_requests_is_heeded() -> None:
    world = World(SyncSettings(fetch_batch=10, fetch_in_flight=8))
    world.theirs.hold(events)
    opened: set[str] = set()

    def few(message: list) -> list | None:  # type: ignore[type-arg]
        if message[0] == "CLOSE":
            opened.discard(message[1])
        elif message[0] == "REQ" and len(opened) >= 2:
            return ["NOTICE", "ERROR: too many concurrent REQs"]
        elif message[0] == "REQ":
            opened.add(message[1])
        return None

    learned = sync_for(world, Bent(world, few), PeerProfile(), 40)
    assert world.ours.held() == ids
    assert learned.requests_in_flight is not None
    assert learned.requests_in_flight <= 4


def test_faults_are_counted_once_and_bounded_over_all_syncs_of_a_link() -> None:
    world = World()

    def sloppy(message: list) -> list | None:  # type: ignore[type-arg]
        if message[0] == "NEG-OPEN":
            for _ in range(400):
                peer.send(b'["EVENT","x","not an event"]')
        return None

    peer = Bent(world, sloppy)
    world.dialer.peers[THEIRS] = lambda: peer
    profile = PeerProfile()
    contact = drive(world.clock, get_in_touch(world.ours.parts, THEIRS))
    for total in (400, 800):
        run = world.run_of(profile=profile)
        drive(world.clock, run.run(contact))
        profile = run.profile
        assert profile.faults == {"unreadable": total}
    run = world.run_of(profile=profile)
    with pytest.raises(PeerError, match="cannot be read"):
        drive(world.clock, run.run(contact))
    contact.close()
