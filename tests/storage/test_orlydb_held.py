"""What the store over ORLY's database holds, through changes and listings that cross each other."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVar

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from negd.errors import StorageError
from negd.nostr.event import Event
from negd.nostr.signing import Signer
from negd.reconcile import RecordSet
from negd.storage.orlydb import held as held_module
from negd.storage.orlydb.held import Held
from negd.storage.postings import EMPTY, KEY
from negd.sync.offload import inline
from negd.testing.threads import ThreadedClock

T = TypeVar("T")

ALICE = Signer(b"\1" * 32)
EVENTS = [ALICE.sign(created_at=n) for n in range(6)]


def wait(awaitable: Awaitable[T]) -> T:
    return ThreadedClock().wait(awaitable)


def record_set(*events: Event) -> RecordSet:
    return RecordSet.from_records(b"".join(event.record for event in events))


def listing(*events: Event) -> Callable[[], Awaitable[RecordSet]]:
    async def listed() -> RecordSet:
        return record_set(*events)

    return listed


def loaded(*events: Event) -> Held:
    held = Held(Clock(), inline)
    wait(held.replace(listing(*events)))
    return held


def test_a_listing_is_held() -> None:
    held = Held(Clock(), inline)
    assert not held.is_loaded
    wait(held.replace(listing(*EVENTS[:3])))
    assert held.is_loaded
    assert held.records == record_set(*EVENTS[:3])
    assert held.generation == 1


def test_the_same_listing_again_changes_nothing() -> None:
    held = loaded(*EVENTS)
    before = held.records
    wait(held.replace(listing(*EVENTS)))
    assert held.records is before
    assert held.generation == 1


def test_what_is_left_out_stays_out_though_it_is_listed() -> None:
    held = loaded(*EVENTS[:3])
    held.leave_out(EVENTS[1].record)
    assert held.is_left_out(EVENTS[1].id_bytes)
    for _ in range(2):
        wait(held.flush())
        assert held.records == record_set(EVENTS[0], EVENTS[2])
        listed = np.frombuffer(b"".join(event.record for event in EVENTS[:3]), KEY)
        assert wait(held.without_left_out([listed])) == held.records
        wait(held.replace(listing(*EVENTS[:3])))
    held.add(EVENTS[1])
    wait(held.flush())
    assert not held.is_left_out(EVENTS[1].id_bytes)
    assert held.records == record_set(*EVENTS[:3])


def test_what_the_database_has_forgotten_is_not_remembered() -> None:
    held = loaded(*EVENTS[:3])
    held.leave_out(EVENTS[1].record)
    wait(held.flush())
    wait(held.replace(listing(EVENTS[0], EVENTS[2])))
    assert not held.is_left_out(EVENTS[1].id_bytes)
    wait(held.replace(listing(*EVENTS[:3])))
    assert held.records == record_set(*EVENTS[:3])


def test_no_parts_are_the_empty_set() -> None:
    assert wait(loaded(*EVENTS).without_left_out([])) == RecordSet.EMPTY
    assert wait(loaded(*EVENTS).without_left_out([EMPTY, EMPTY])) == RecordSet.EMPTY


def test_records_are_found_by_their_ids_just_added_or_not() -> None:
    held = loaded(*EVENTS[:3])
    held.add(EVENTS[4])
    held.leave_out(EVENTS[0].record)
    ids = {EVENTS[n].id_bytes for n in (0, 2, 4, 5)}
    assert set(wait(held.records_of(ids))) == {EVENTS[2].record, EVENTS[4].record}
    assert wait(held.records_of(set())) == []


def test_expired_events_are_left_out_from_their_second_on() -> None:
    clock = Clock()
    held = Held(clock, inline)
    wait(held.replace(listing()))
    events = [ALICE.sign(created_at=n, tags=[["expiration", str(n)]]) for n in (10, 20)]
    for event in events:
        held.add(event)
    wait(held.flush())
    generation = held.generation
    clock.advance(9.9)
    held.sweep()
    assert held.generation == generation
    clock.advance(0.1)
    held.sweep()
    assert held.generation > generation
    wait(held.flush())
    assert held.records == record_set(events[1])


def mortal(expiration: int) -> Event:
    return ALICE.sign(created_at=10, tags=[["expiration", str(expiration)]])


def test_an_event_that_comes_again_expires_once() -> None:
    clock = Clock()
    held = Held(clock, inline)
    for _ in range(3):
        held.add(mortal(20))
    clock.advance(20)
    held.sweep()
    assert held.generation == 1


def test_of_too_many_events_those_that_expire_first_are_awaited(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(held_module, "_MOST_MORTALS", 2)
    clock = Clock()
    held = Held(clock, inline)
    events = {second: mortal(second) for second in (30, 40, 20)}
    for event in events.values():
        held.add(event)
    clock.advance(50)
    held.sweep()
    wait(held.flush())
    assert held.records == record_set(events[40])


def test_a_listing_that_too_much_crossed_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(held_module, "_MOST_CHANGES", 2)
    held = loaded(EVENTS[0])

    async def crossed() -> RecordSet:
        for event in EVENTS[1:4]:
            held.add(event)
            await held.flush()
        return record_set(*EVENTS[4:])

    with pytest.raises(StorageError, match="too much has changed"):
        wait(held.replace(crossed))
    assert held.records == record_set(*EVENTS[:4])
    wait(held.replace(listing(*EVENTS[4:])))
    assert held.records == record_set(*EVENTS[4:])


def test_what_is_left_out_while_a_listing_is_taken_over_stays_out() -> None:
    """It had been left out before, too, and the listing knows nothing of it."""
    taking_over: list[Deferred[None]] = []

    def slowly(work: Callable[..., T], /, *args: object) -> Deferred[T]:
        result: Deferred[T] = inline(work, *args)
        if is_slow:
            taking_over.append(Deferred())
            return taking_over[-1].addCallback(lambda _: result)
        return result

    is_slow = False
    held = Held(Clock(), slowly)
    wait(held.replace(listing(*EVENTS[:3])))
    held.leave_out(EVENTS[1].record)
    wait(held.flush())
    is_slow = True
    replaced = Deferred.fromCoroutine(held.replace(listing(EVENTS[0])))
    is_slow = False
    held.leave_out(EVENTS[1].record)
    taking_over.pop().callback(None)
    wait(replaced)
    assert held.is_left_out(EVENTS[1].id_bytes)
    wait(held.flush())
    assert held.is_left_out(EVENTS[1].id_bytes)


def test_a_listing_that_fails_changes_nothing() -> None:
    held = loaded(*EVENTS[:3])

    async def failing() -> RecordSet:
        held.leave_out(EVENTS[0].record)
        raise RuntimeError("a test's")

    outcome: list[object] = []
    Deferred.fromCoroutine(held.replace(failing)).addErrback(outcome.append)
    assert len(outcome) == 1
    wait(held.flush())
    assert held.records == record_set(*EVENTS[1:3])


@given(
    before=st.lists(st.tuples(st.sampled_from(EVENTS), st.booleans()), max_size=8),
    during=st.lists(st.tuples(st.sampled_from(EVENTS), st.booleans(), st.booleans()), max_size=8),
    listed=st.sets(st.sampled_from(EVENTS)),
)
def test_a_listing_gives_way_to_what_happened_while_it_was_made(
    before: list[tuple[Event, bool]],
    during: list[tuple[Event, bool, bool]],
    listed: set[Event],
) -> None:
    held = loaded(*EVENTS[:2])
    left_out: set[Event] = set()

    def change(event: Event, is_held: bool) -> None:
        held.add(event) if is_held else held.leave_out(event.record)
        (left_out.discard if is_held else left_out.add)(event)

    for event, is_held in before:
        change(event, is_held)
    wait(held.flush())
    changed: dict[Event, bool] = {}

    async def crossed() -> RecordSet:
        for event, is_held, flushes in during:
            change(event, is_held)
            changed[event] = is_held
            if flushes:
                await held.flush()
        return record_set(*listed)

    wait(held.replace(crossed))
    expected = {event for event in listed - left_out if changed.get(event, True)}
    expected |= {event for event, is_held in changed.items() if is_held}
    assert held.records == record_set(*expected)
