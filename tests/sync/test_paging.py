"""Pages of peers that are particular about them."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
from twisted.internet.defer import Deferred

from negd.interfaces import PeerProfile
from negd.nostr.document import RelayDocument
from negd.nostr.signing import Signer
from negd.sync import paging
from negd.sync.run import SyncRun
from negd.testing.links import settle
from negd.testing.nodes import THEIRS, InFront, World, failure_of

alice = Signer(b"\x01" * 32)
events = [alice.sign(created_at=1000 + n, content=str(n)) for n in range(300)]
ids = {event.id_bytes for event in events}
NAME = "the name of the REQ"


class Paged(InFront):
    """Their node without NIP-77.

    :param answer: what is answered in place of what it would; None leaves it to it.
    :ivar limits: of every REQ.
    """

    def __init__(
        self,
        world: World,
        answer: Callable[[dict[str, int]], list[object] | None] = lambda wanted: None,
    ) -> None:
        super().__init__(world.theirs)
        self._answer = answer
        self.limits: list[int] = []

    def _script(self, text: bytes) -> list[bytes]:
        message = json.loads(text)
        answer: list[object] | None = None
        if message[0] == "NEG-OPEN":
            answer = ["NOTICE", "unknown cmd NEG-OPEN"]
        elif message[0] == "REQ":
            self.limits.append(message[2].get("limit", 0))
            answer = self._answer(message[2])
        if answer is None:
            self._inner.received(text)
            return []
        return [json.dumps([message[1] if part == NAME else part for part in answer]).encode()]


def sync(world: World, peer: Paged, profile: PeerProfile = PeerProfile()) -> SyncRun:  # noqa: B008
    """A sync to its end, which must come within half a minute."""
    world.dialer.peers[THEIRS] = lambda: peer
    run = world.run_of(profile=profile)
    done = Deferred.fromCoroutine(run.run())
    for _ in range(30):
        settle(world.clock)
        world.clock.advance(1)
    assert done.called
    if not run.progress.complete:
        raise failure_of(done)
    return run


@pytest.mark.parametrize(
    ("refusal", "page"),
    [
        (["CLOSED", NAME, "invalid: limit too large (max 100)"], 100),
        (["CLOSED", NAME, "blocked: too many events requested"], 62),
        (["NOTICE", "ERROR: bad req: limit too large"], 62),
    ],
)
def test_a_peer_that_refuses_large_pages_is_asked_for_smaller_ones(
    refusal: list[object], page: int
) -> None:
    world = World()
    world.theirs.hold(events)
    peer = Paged(world, lambda wanted: refusal if wanted["limit"] > 100 else None)
    assert sync(world, peer).progress.fetched == 300
    assert world.ours.held() == ids
    assert set(peer.limits[-3:]) == {page}


@pytest.mark.parametrize(("stated", "page"), [(100, 100), (10_000, 500), (1, 500)])
def test_a_page_is_no_larger_than_the_peer_says(stated: int, page: int) -> None:
    world = World()
    world.theirs.hold(events)
    peer = Paged(world)
    sync(world, peer, PeerProfile(document=RelayDocument(max_limit=stated)))
    assert world.ours.held() == ids
    assert set(peer.limits) == {page}


def test_a_page_is_held_in_memory_up_to_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(paging, "_LARGEST", 50_000)
    world = World()
    large = [alice.sign(created_at=1100 + n, content="x" * 20_000) for n in range(9)]
    world.theirs.hold([*large, *events])
    peer = Paged(world)
    sync(world, peer)
    assert world.ours.held() == world.theirs.held()
    assert len(world.ours.held()) == 309
    assert min(peer.limits) < 5
    assert peer.limits[-1] > 50  # smaller events are asked for in larger numbers again


def test_a_peer_that_takes_no_notice_of_times_is_not_taken_to_be_equal() -> None:
    world = World()
    world.theirs.hold(events)

    class Heedless(Paged):
        def _script(self, text: bytes) -> list[bytes]:
            message = json.loads(text)
            if message[0] == "REQ":
                message[2].pop("until", None)
                message[2]["limit"] = 50
            return super()._script(json.dumps(message).encode())

    with pytest.raises(Exception, match="shows events of other times than those asked for"):
        sync(world, Heedless(world))
    assert len(world.ours.held()) == 50


@pytest.mark.parametrize(("authors", "kinds"), [(9, 3), (1, 1)])
def test_a_second_that_is_larger_than_an_answer_is_seen_through_as_far_as_can_be(
    authors: int, kinds: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(paging, "_LARGEST", 50_000)
    world = World()
    crowd = [
        Signer(bytes([1 + n % authors]) * 32).sign(
            created_at=500, kind=(1, 6, 7)[n % kinds], content="x" * 400 + str(n)
        )
        for n in range(180)
    ]
    world.theirs.hold([*events, *crowd])
    progress = sync(world, Paged(world)).progress
    held = len(world.ours.held())
    assert held == 480 if authors > 1 else 330 < held < 480
    assert any(text.startswith("of second 500 the peer shows") for text in progress.reasons)
