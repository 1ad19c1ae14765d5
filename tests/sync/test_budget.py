"""Syncs that may move only so many events: they stop there, and the next one goes on."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from negd.errors import PeerError
from negd.interfaces import Direction, LedgerEntry, PeerProfile, Residue, SyncProgress
from negd.nostr.signing import Signer
from negd.settings import SyncSettings
from negd.storage.memory import MemoryBook
from negd.sync.budget import Allowance, Budget, BudgetSpent
from negd.sync.hints import paced
from negd.testing.links import drive
from negd.testing.nodes import THEIRS, World

alice = Signer(b"\x01" * 32)
events = [alice.sign(created_at=1000 + n, content=str(n)) for n in range(600)]
ids = [event.id_bytes for event in events]
UNABLE = PeerProfile(nip77=False, found_at=1_700_000_000)


def sync(
    world: World,
    most: int,
    direction: Direction = Direction.BOTH,
    book: MemoryBook | None = None,
    profile: PeerProfile = PeerProfile(),  # noqa: B008
) -> SyncProgress:
    """One sync; its last progress says whether it was complete."""
    run = world.run_of(direction=direction, book=book, profile=profile, budget=Budget(0, most))
    try:
        return drive(world.clock, run.run())
    except BudgetSpent as spent:
        assert spent.text.startswith(f"budget spent: {most} events moved")
        assert not run.progress.complete
        return run.progress


def test_an_allowance_grants_no_more_than_it_has() -> None:
    allowance = Allowance(10)
    assert [allowance.grant(4), allowance.grant(4), allowance.grant(4)] == [4, 4, 2]
    assert allowance.is_spent
    allowance.give_back(3)
    assert allowance.grant(5) == 3
    assert Allowance().grant(10**9) == 10**9


@pytest.mark.parametrize("direction", list(Direction))
def test_syncs_in_pieces_lead_to_the_same_end(direction: Direction) -> None:
    world = World(SyncSettings(fetch_batch=30, upload_window=30))
    world.ours.hold(events[:400])
    world.theirs.hold(events[200:])
    total = 400 if direction is Direction.BOTH else 200
    for _ in range(total // 80):
        done = sync(world, 80, direction)
        assert done.fetched + done.sent == 80
        assert done.complete == (total == 80)
        total -= 80
    assert sync(world, 80, direction).complete
    expected = set(ids)
    assert world.ours.held() == (expected if direction is not Direction.UP else set(ids[:400]))
    assert world.theirs.held() == (expected if direction is not Direction.DOWN else set(ids[200:]))


def test_a_budget_that_just_suffices_is_not_spent() -> None:
    world = World()
    world.ours.hold(events[:100])
    world.theirs.hold(events[100:200])
    assert sync(world, 200).complete
    assert sync(world, 1).complete


def test_a_sync_that_is_cut_short_closes_its_negotiation() -> None:
    world = World(SyncSettings(frame_limit=4096))
    world.theirs.hold(events)
    assert sync(world, 50).fetched == 50
    labels = [json.loads(text)[0] for text in world.dialer.links[-1].sent]
    assert labels.count("NEG-OPEN") == labels.count("NEG-CLOSE") == 1
    assert labels.count("REQ") == labels.count("CLOSE")


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.sampled_from("otb"), min_size=100, max_size=300),
    st.integers(1, 60),
    st.integers(1, 40),
    st.booleans(),
)
def test_no_sync_moves_more_and_all_of_them_move_all(
    places: list[str], most: int, batch: int, small_frames: bool
) -> None:
    frame = 4096 if small_frames else 60_000
    world = World(SyncSettings(fetch_batch=batch, upload_window=batch, frame_limit=frame))
    held = list(zip(places, events, strict=False))
    world.ours.hold([event for place, event in held if place in "ob"])
    world.theirs.hold([event for place, event in held if place in "tb"])
    left = sum(place != "b" for place in places)
    while True:
        done = sync(world, most)
        moved = done.fetched + done.sent
        assert moved == min(most, left)
        left -= moved
        if done.complete:
            break
    assert left == 0
    assert world.ours.held() == world.theirs.held() == set(ids[: len(places)])


def test_what_the_ledger_explains_costs_nothing() -> None:
    for profile in (PeerProfile(), UNABLE):
        world = World(SyncSettings(fetch_batch=20, upload_window=20))
        world.ours.hold(events[:100])
        world.theirs.hold(events[100:])
        book = MemoryBook()
        entry = LedgerEntry(Residue.THEIRS_REJECTED, "no", 1, world.clock.seconds() + 9999)
        explained = [*ids[:80], *ids[-300:]]
        drive(world.clock, book.write_ledger(THEIRS, dict.fromkeys(explained, entry), []))
        for _ in range(30):
            if sync(world, 40, book=book, profile=profile).complete:
                break
        assert world.ours.held() == set(ids[:-300])
        assert world.theirs.held() == set(ids[80:])


def test_pages_are_paid_for_too() -> None:
    events = [alice.sign(created_at=1000 + n, content=str(n)) for n in range(1700)]
    world = World()
    world.theirs.hold(events)
    moved: list[int] = []
    while len(moved) < 10:
        done = sync(world, 600, profile=UNABLE)
        moved.append(done.fetched)
        if done.complete:
            break
    assert len(moved) == 2
    assert all(600 <= count <= 600 + 500 for count in moved)
    assert len(world.ours.held()) == 1700


def test_a_failure_is_no_spent_budget() -> None:
    world = World()
    world.dialer.peers[THEIRS] = PeerError("gone")
    with pytest.raises(PeerError, match="gone"):
        sync(world, 10)


@given(st.integers(10_000, 10**8))
def test_a_slow_link_has_less_under_way(rate: int) -> None:
    ours = SyncSettings(upload_window=1000)
    made = paced(ours, rate)
    assert 1 <= made.fetch_batch * made.fetch_in_flight * 1000 <= rate * 10
    assert 1 <= made.upload_window * 1000 <= rate * 10
    assert 4096 <= made.frame_limit * 2 <= max(8192, rate * 10)
    assert paced(ours, 0) == paced(ours, 10**9) == ours


def test_turns_of_one_sync_share_its_budget() -> None:
    world = World()
    world.theirs.hold(events[:100])
    earlier = SyncProgress(THEIRS, fetched=30, sent=10, refused=5, reasons={"no": 5})
    run = world.run_of(direction=Direction.DOWN, budget=Budget(events=60), so_far=earlier)
    with pytest.raises(BudgetSpent):
        drive(world.clock, run.run())
    assert (run.moved, run.progress.fetched, run.progress.reasons) == (15, 45, {"no": 5})
