"""What is learned of a peer's ways is used at the next sync."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest
from twisted.internet.defer import Deferred

from negd.interfaces import Direction, PeerProfile
from negd.nostr.filter import EVERYTHING
from negd.nostr.signing import Signer
from negd.settings import SessionSettings, SyncSettings
from negd.sync.run import DOUBT, SyncRun
from negd.testing.links import PeerEnd, ScriptedPeer, drive
from negd.testing.nodes import THEIRS, World

alice = Signer(b"\x01" * 32)
events = [alice.sign(created_at=1000 + n, content=str(n)) for n in range(400)]
ids = {event.id_bytes for event in events}


class Bent(ScriptedPeer):
    """Their node, with some of our messages answered otherwise, and some of its answers left out.

    :ivar sent: what we sent, decoded.
    """

    def __init__(self, world: World, answer: Callable[[list], list | None], cap: int = 10**9):  # type: ignore[type-arg]
        super().__init__(self._script)
        self._inner = world.theirs.serve()
        self._other = answer
        self._cap = cap
        self._delivered: dict[str, int] = {}
        self.sent: list[list] = []  # type: ignore[type-arg]

    def connected(self, end: PeerEnd) -> None:
        super().connected(end)
        self._end = end
        self._inner.connected(self)  # type: ignore[arg-type]

    def send(self, text: bytes) -> None:
        message = json.loads(text)
        if message[0] == "EVENT":
            count = self._delivered[message[1]] = self._delivered.get(message[1], 0) + 1
            if count > self._cap:
                return
        self._end.send(text)

    def close(self, reason: str = "") -> None:
        self._end.close(reason)

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
    parts = world.ours.parts
    run = SyncRun(parts, THEIRS, EVERYTHING, Direction.BOTH, None, profile, lambda _: None)
    assert drive(world.clock, run.run()).complete
    return run.profile


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
    parts = world.ours.parts
    world.dialer.peers[THEIRS] = lambda: peer
    run = SyncRun(parts, THEIRS, EVERYTHING, Direction.BOTH, None, PeerProfile(), lambda _: None)
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
