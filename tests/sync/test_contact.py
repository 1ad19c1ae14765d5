"""Who we are to a peer that asks (NIP-42)."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from twisted.internet.defer import Deferred

from negd.nostr.signing import Signer
from negd.sync.contact import Contact, get_in_touch
from negd.testing.links import PeerEnd, ScriptedPeer, drive, settle
from negd.testing.nodes import THEIRS, InFront, World, failure_of

alice = Signer(b"\x01" * 32)


def contact_of(world: World, peer: ScriptedPeer) -> Contact:
    world.dialer.peers[THEIRS] = lambda: peer
    return drive(world.clock, get_in_touch(replace(world.ours.parts, signer=alice), THEIRS))


def answers(peer: ScriptedPeer) -> int:
    return sum(json.loads(text)[0] == "AUTH" for text in peer.heard)


def challenge(world: World, peer: ScriptedPeer, challenge: str) -> None:
    peer.end.send(json.dumps(["AUTH", challenge]).encode())
    settle(world.clock)


def test_an_answer_that_gets_no_ok_is_worth_another_try_and_waited_for_once() -> None:
    world, peer = World(), ScriptedPeer()
    contact = contact_of(world, peer)
    challenge(world, peer, "a")
    first = Deferred.fromCoroutine(contact.admitted_after("auth-required: who?"))
    settle(world.clock)
    assert not first.called
    world.clock.advance(30)
    told: list[bool] = []
    first.addCallback(told.append)
    assert told == [True]
    assert drive(world.clock, contact.admitted_after("auth-required: who?"))
    assert answers(peer) == 1
    challenge(world, peer, "b")
    assert drive(world.clock, contact.admitted_after("auth-required: who?"))
    assert answers(peer) == 2


@pytest.mark.parametrize("accepted", [True, False])
def test_an_answer_that_gets_an_ok_is_as_it_says(accepted: bool) -> None:
    def script(text: bytes) -> list[bytes]:
        return [json.dumps(["OK", json.loads(text)[1]["id"], accepted, ""]).encode()]

    world, peer = World(), ScriptedPeer(script)
    contact = contact_of(world, peer)
    challenge(world, peer, "a")
    assert drive(world.clock, contact.admitted_after("auth-required: who?")) is accepted
    assert not drive(world.clock, contact.admitted_after("blocked: no"))


class Unsaying(InFront):
    """A relay that lets in whoever answers its challenge, and says no OK to the answer.

    :ivar lets_in: whether it does.
    """

    def __init__(self, world: World, lets_in: bool) -> None:
        super().__init__(world.theirs)
        self._is_open = False
        self._lets_in = lets_in

    def connected(self, end: PeerEnd) -> None:
        super().connected(end)
        end.send(b'["AUTH","who are you?"]')

    def _script(self, text: bytes) -> list[bytes]:
        label, name = json.loads(text)[:2]
        if label == "AUTH":
            self._is_open = self._lets_in
        elif self._is_open:
            self._inner.received(text)
        elif label in ("REQ", "NEG-OPEN"):
            return [json.dumps(["CLOSED", name, "auth-required: who?"]).encode()]
        return []


@pytest.mark.parametrize("lets_in", [True, False])
def test_a_sync_with_a_peer_that_says_no_ok_to_the_answer(lets_in: bool) -> None:
    world = World()
    world.theirs.hold([alice.sign(created_at=1000)])
    world.ours.parts = replace(world.ours.parts, signer=alice)
    world.dialer.peers[THEIRS] = lambda: Unsaying(world, lets_in)
    run = world.run_of()
    done = Deferred.fromCoroutine(run.run())
    for _ in range(40):
        world.clock.advance(1)
        settle(world.clock)
    assert run.progress.complete is lets_in
    opened = [text for text in world.dialer.links[-1].sent if text.startswith(b'["NEG-OPEN"')]
    assert len(opened) == (2 if lets_in else 3)
    assert len(world.ours.held()) == lets_in
    if not lets_in:
        assert "auth-required: who?" in str(failure_of(done))
