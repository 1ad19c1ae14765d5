"""A sync keeps to what the peer says of its limits, from its first message on."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import CancelledError, Deferred

from negd.interfaces import PeerProfile
from negd.nostr.document import RelayDocument
from negd.nostr.signing import Signer
from negd.settings import SyncSettings
from negd.sync.hints import suited
from negd.sync.run import SyncRun
from negd.testing.links import ConversationPeer, drive, settle
from negd.testing.nodes import THEIRS, World, failure_of

alice = Signer(b"\x01" * 32)
events = [alice.sign(created_at=1000 + n, content=str(n)) for n in range(2000)]
OURS = SyncSettings()


def run_of(world: World, document: RelayDocument) -> SyncRun:
    profile = PeerProfile(document=document)
    return world.run_of(profile=profile)


def test_no_word_and_an_empty_word_change_nothing() -> None:
    assert suited(OURS, None) == suited(OURS, RelayDocument()) == OURS


def test_limits_beyond_ours_change_nothing() -> None:
    generous = RelayDocument(max_message_length=10**9, max_subscriptions=10**9, max_limit=10**9)
    assert suited(OURS, generous) == OURS


limits = st.none() | st.integers(1, 10**6)


@given(limits, limits, limits, st.sampled_from(["", "negd", "strfry"]))
def test_whatever_is_stated_makes_settings_that_work(
    length: int | None, subscriptions: int | None, limit: int | None, software: str
) -> None:
    said = RelayDocument(software, "", (), length, subscriptions, limit)
    made = suited(OURS, said)
    assert 1 <= made.fetch_batch <= OURS.fetch_batch
    ours = (16, 4000) if software == "negd" else (OURS.fetch_in_flight, OURS.upload_window)
    assert 1 <= made.fetch_in_flight <= ours[0]
    assert 4096 <= made.frame_limit <= OURS.frame_limit
    assert made.upload_window == ours[1]


@pytest.mark.parametrize("most", [1, 2, 5])
def test_stated_limits_are_kept_from_the_start(most: int) -> None:
    world = World()
    world.ours.hold(events[:1000])
    world.theirs.hold(events[1000:])
    said = RelayDocument(max_subscriptions=most, max_limit=50, max_message_length=10_000)
    assert drive(world.clock, run_of(world, said).run()).complete
    assert len(world.ours.held()) == len(world.theirs.held()) == 2000
    asked, open_now, most_open = 0, set(), 0
    for text in world.dialer.links[-1].sent:
        assert len(text) <= 10_000
        label, name, *rest = json.loads(text)
        if label == "REQ":
            assert 1 <= len(rest[0]["ids"]) <= 50
            asked += 1
            open_now.add(name)
            most_open = max(most_open, len(open_now))
        elif label == "CLOSE":
            open_now.discard(name)
    assert asked >= 20
    assert most_open == max(1, most - 1)


@pytest.mark.parametrize("length", [1, 100, 4095])
def test_a_length_that_no_event_fits_in_is_not_believed(length: int) -> None:
    said = RelayDocument(max_message_length=length)
    assert suited(OURS, said) == OURS
    world = World()
    world.ours.hold(events[:5])
    world.theirs.hold(events[5:10])
    progress = drive(world.clock, run_of(world, said).run())
    assert (progress.sent, progress.rejected, progress.fetched) == (5, 0, 5)


def test_the_shortest_length_that_is_believed_is_kept_to() -> None:
    world = World()
    world.ours.hold([*events[:3], alice.sign(created_at=9, content="x" * 4096)])
    progress = drive(world.clock, run_of(world, RelayDocument(max_message_length=4096)).run())
    assert (progress.sent, progress.rejected) == (3, 1)
    assert dict(progress.reasons) == {"longer than the 4096 bytes the peer reads": 1}


class NeverOk(ConversationPeer):
    """Their node, which leaves events unanswered.

    :ivar unanswered: how many.
    """

    unanswered = 0

    def received(self, text: bytes) -> None:
        if text.startswith(b'["EVENT"'):
            self.unanswered += 1
        else:
            super().received(text)


@pytest.mark.parametrize(("software", "unanswered"), [("negd", 1000), ("strfry", 64), ("", 64)])
def test_negd_is_sent_more_events_at_a_time(
    software: str, unanswered: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("negd.sync.hints._NEGD_WINDOW", 1000)
    world = World()
    world.ours.hold(events)
    peer = NeverOk(world.theirs.backend)
    world.dialer.peers[THEIRS] = lambda: peer
    running = Deferred.fromCoroutine(run_of(world, RelayDocument(software=software)).run())
    settle(world.clock)
    assert peer.unanswered == unanswered
    running.cancel()
    assert isinstance(failure_of(running), CancelledError)
