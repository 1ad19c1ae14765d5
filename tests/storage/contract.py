"""What every storage promises. A test class for one storage says how to open it and inherits this.

Expected results come from :class:`negd.testing.model.NaiveRelay` and ``Filter.matches``.
"""

from __future__ import annotations

import json
import string
from collections.abc import Awaitable, Iterable, Sequence, Set
from contextlib import AbstractContextManager
from enum import Enum
from functools import partial
from random import Random
from typing import TypeVar

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from twisted.internet.defer import Deferred
from zope.interface.verify import verifyObject

from negd.errors import StorageError
from negd.interfaces import (
    IEventStore,
    IPeerBook,
    IStorage,
    LedgerEntry,
    Outcome,
    PeerState,
    PeerStatus,
    Residue,
    Verdict,
    VerifyReport,
)
from negd.nostr.event import MAX_TIMESTAMP, Event, check, decode
from negd.nostr.filter import EVERYTHING, Filter
from negd.nostr.kinds import is_addressable
from negd.nostr.lifecycle import address_of, expiration_of
from negd.nostr.signing import Signer
from negd.testing import strategies
from negd.testing.events import sample_events
from negd.testing.model import NaiveRelay
from negd.testing.threads import ThreadedClock

T = TypeVar("T")

NOW = 1_700_000_000
ALICE, BOB = Signer(b"\1" * 32), Signer(b"\2" * 32)
LIMIT = 50
"""Ledger entries that the storages under test keep of one peer."""

_FEW_MEGABYTES = 4_000_000
"""Bytes of events that a page does not reach."""

many_stores = settings(max_examples=25, suppress_health_check=list(HealthCheck))


class Stand:
    """An opened storage, its clock, and the way to wait for it."""

    def __init__(self, clock: ThreadedClock, storage: IStorage) -> None:
        self.clock = clock
        self.storage = storage
        self.events: IEventStore = storage.events
        self.book: IPeerBook = storage.book

    def wait(self, awaitable: Awaitable[T]) -> T:
        return self.clock.wait(awaitable)

    def ingest(self, *events: Event) -> list[Outcome]:
        return [verdict.outcome for verdict in self.wait(self.events.ingest(events))]

    def ids(self, wanted: Filter = EVERYTHING) -> set[bytes]:
        return {record[8:] for record in self.wait(self.events.snapshot(wanted))}

    def listing(self, wanted: Filter, page: int) -> list[bytes]:
        """The ids of all pages, in order."""
        found: list[bytes] = []
        after = None
        while True:
            answer = self.wait(self.events.query(wanted, after, page))
            assert len(answer.events) <= page
            found += [decode(event).id_bytes for event in answer.events]
            assert answer.last is None or answer.last != after
            after = answer.last
            if after is None:
                return found

    def verify(self) -> VerifyReport:
        return self.wait(self.events.verify(lambda read, total: None))

    def repair(self) -> VerifyReport:
        return self.wait(self.events.verify(lambda read, total: None, True))

    def assert_sound(self) -> None:
        assert self.verify().problems == []


def note(created_at: int = NOW, author: Signer = ALICE, **fields: object) -> Event:
    return author.sign(created_at=created_at, **fields)  # type: ignore[arg-type]


def in_order(events: Iterable[Event]) -> list[bytes]:
    """The ids, newest first, ties by the lower id."""
    return [e.id_bytes for e in sorted(events, key=lambda e: (-e.created_at, e.id))]


def assert_answers(stand: Stand, kept: Sequence[Event], wanted: Filter, page: int = 3) -> None:
    """Every way of reading agrees with the naive matcher."""
    expected = in_order(event for event in kept if wanted.matches(event))
    assert stand.listing(wanted, page) == expected
    limited = expected if wanted.limit is None else expected[: wanted.limit]
    assert stand.ids(wanted) == set(limited)
    assert stand.wait(stand.events.count(wanted)) == len(limited)


class Difference(Enum):
    """What a storage over somebody else's database cannot help, as that database has its ways."""

    DELETIONS_CAN_BE_DELETED = "a deletion named by a later one of its author is undone"
    EXPIRED_VERSIONS_HOLD_THEIR_PLACE = "an older version than an expired one is not taken"
    ADDRESSES_ARE_TAKEN_LITERALLY = "an address that says too much keeps no version out"
    IS_REPAIRED_ELSEWHERE = "repair is not offered"


def says_too_much(address: str) -> bool:
    """Whether it names a version by ``d`` where one author has one version only."""
    kind, _, named = address.partition(":")
    addressable = kind.isdecimal() and is_addressable(int(kind))
    return not addressable and not named.endswith(":")


def comparable(history: Sequence[Event], differences: Set[Difference]) -> list[Event]:
    """The events less those with which a storage would part from the naive relay."""
    deletions = {event.id for event in history if event.kind == 5}

    def about(event: Event) -> set[Difference]:
        found = set()
        if address_of(event) is not None and expiration_of(event) is not None:
            found.add(Difference.EXPIRED_VERSIONS_HOLD_THEIR_PLACE)
        for name, value in event.indexed_tags() if event.kind == 5 else ():
            if name == "e" and value in deletions:
                found.add(Difference.DELETIONS_CAN_BE_DELETED)
            if name == "a" and says_too_much(value):
                found.add(Difference.ADDRESSES_ARE_TAKEN_LITERALLY)
        return found

    return [event for event in history if differences.isdisjoint(about(event))]


class AnswersContract:
    """The promises about filters, for storages that find answers in more than one way."""

    differences: frozenset[Difference] = frozenset()
    """Where this storage is known to differ; each is tested for what it does instead."""

    def opened(self) -> AbstractContextManager[Stand]:
        """An empty storage at ``NOW``, closed at the end of the context."""
        raise NotImplementedError

    @pytest.fixture
    def stand(self) -> Iterable[Stand]:
        with self.opened() as stand:
            yield stand

    @many_stores
    @given(data=st.data())
    def test_histories_end_as_the_naive_relay_says(self, data: st.DataObject) -> None:
        expirations = (NOW, NOW + 5, NOW + 10)
        history = comparable(data.draw(strategies.histories(expirations)), self.differences)
        relay = NaiveRelay(NOW)
        with self.opened() as stand:
            while history:
                size = data.draw(st.integers(1, len(history)))
                batch, history = history[:size], history[size:]
                assert stand.ingest(*batch) == [relay.offer(event) for event in batch]
                stand.clock.rightNow += data.draw(st.sampled_from((0, 0, 5)))
                relay.now = stand.clock.rightNow
                assert stand.ids() == set(relay.kept())
            kept = list(relay.kept().values())
            for _ in range(6):
                wanted = data.draw(strategies.filters(kept))
                assert_answers(stand, kept, wanted, data.draw(st.integers(1, 4)))
            stand.assert_sound()

    def test_any_filter_over_one_store(self, stand: Stand) -> None:
        relay = NaiveRelay(NOW)

        @settings(max_examples=25, suppress_health_check=list(HealthCheck))
        @given(drawn=strategies.histories(most=20))
        def fill(drawn: list[Event]) -> None:
            history = comparable(drawn, self.differences)
            for event in history:
                relay.offer(event)
            stand.ingest(*history)

        fill()
        kept = list(relay.kept().values())
        assert stand.ids() == set(relay.kept())

        @settings(max_examples=60, suppress_health_check=list(HealthCheck))
        @given(wanted=strategies.filters(kept[:10]), page=st.integers(1, 40))
        def ask(wanted: Filter, page: int) -> None:
            assert_answers(stand, kept, wanted, page)

        ask()
        stand.assert_sound()

    def test_realistic_events(self, stand: Stand) -> None:
        events = list(sample_events(1500, authors=12, until=NOW))
        relay = NaiveRelay(NOW)
        for start in range(0, len(events), 400):
            batch = events[start : start + 400]
            assert stand.ingest(*batch) == [relay.offer(event) for event in batch]
        kept = list(relay.kept().values())
        author, other = (bytes.fromhex(event.pubkey) for event in events[:2])
        for wanted in (
            EVERYTHING,
            Filter.build(limit=7),
            Filter.build(since=NOW - 3000, until=NOW - 900),
            Filter.build(kinds=[1]),
            Filter.build(kinds=[1, 7], until=NOW - 900, limit=20),
            Filter.build(kinds=range(100)),
            Filter.build(authors=[author, other]),
            Filter.build(authors=[author], kinds=[7, 1, 5]),
            Filter.build(authors=[author], kinds=range(50)),
            Filter.build(tags={"t": ["nostr", "art"]}),
            Filter.build(tags={"t": ["nostr"], "p": [author.hex()]}),
            Filter.build(tags={"t": ["nostr"]}, kinds=[1], since=NOW - 3000),
            Filter.build(ids=[event.id_bytes for event in events[::100]]),
            Filter.build(ids=[event.id_bytes for event in events[::100]], kinds=[1]),
            Filter.build(
                ids=[*list(relay.kept())[:400], *(n.to_bytes(32, "big") for n in range(99))]
            ),
            Filter.build(authors=[bytes.fromhex(event.pubkey) for event in events], kinds=[1, 7]),
            Filter.build(tags={"p": [event.pubkey for event in events]}, until=NOW - 900),
        ):
            assert_answers(stand, kept, wanted, page=100)
        stand.assert_sound()

    def test_real_events(self, stand: Stand, real_events: list[Event]) -> None:
        relay = NaiveRelay(NOW)
        for start in range(0, len(real_events), 100):
            batch = real_events[start : start + 100]
            assert stand.ingest(*batch) == [relay.offer(event) for event in batch]
        kept = relay.kept()
        assert len(kept) > 300
        assert stand.wait(stand.events.fetch(list(kept))) == {
            event_id: event.encode() for event_id, event in kept.items()
        }
        for kind in {event.kind for event in real_events}:
            assert_answers(stand, list(kept.values()), Filter.build(kinds=[kind]), page=50)
        assert_answers(stand, list(kept.values()), EVERYTHING, page=50)
        stand.assert_sound()

    def test_limit_keeps_the_newest(self, stand: Stand) -> None:
        events = [note(NOW + n // 3, content=str(n)) for n in range(30)]
        stand.ingest(*events)
        for limit in (0, 1, 2, 10, 30, 31):
            for kinds in (None, [1]):
                wanted = Filter.build(kinds=kinds, limit=limit)
                assert stand.ids(wanted) == set(in_order(events)[:limit])

    def test_pages_go_on_after_a_record_that_is_gone(self, stand: Stand) -> None:
        events = [note(NOW + n // 3, content=str(n)) for n in range(12)]
        stand.ingest(*events)
        for wanted in (EVERYTHING, Filter.build(kinds=[1])):
            first = stand.wait(stand.events.query(wanted, None, 5))
            assert first.last is not None
            missing = first.last[:-1] + bytes([first.last[-1] ^ 1])
            rest = stand.wait(stand.events.query(wanted, missing, 50))
            found = [decode(event) for event in first.events + rest.events]
            assert set(in_order(found)) == set(in_order(events))
            assert rest.last is None

    def test_pages_of_large_events_end_by_their_bytes(self, stand: Stand) -> None:
        events = [
            note(NOW - n // 2, kind=1, content=f"{n} " + "x" * 600_000, tags=[["t", "x"]])
            for n in range(9)
        ]
        events.append(note(NOW + 1, kind=1, content="small", tags=[["t", "x"]]))
        stand.ingest(*events)
        for wanted in (
            EVERYTHING,
            Filter.build(kinds=[1]),
            Filter.build(tags={"t": ["x"]}, authors=[bytes.fromhex(ALICE.pubkey)]),
            Filter.build(ids=[event.id_bytes for event in events]),
            Filter.build(ids=[event.id_bytes for event in events], kinds=[1]),
        ):
            page = stand.wait(stand.events.query(wanted))
            assert 0 < sum(map(len, page.events)) < _FEW_MEGABYTES
            assert page.last is not None
            assert stand.listing(wanted, 500) == in_order(events)

    def test_every_single_letter_tag_can_be_asked_for(self, stand: Stand) -> None:
        letters = string.ascii_letters
        events = [
            note(NOW - n, tags=[[letter, f"v{n % 3}"], [letter * 2, "long"], ["1", "digit"]])
            for n, letter in enumerate(letters)
        ]
        assert stand.ingest(*events) == [Outcome.STORED] * len(letters)
        for event, letter in zip(events, letters, strict=True):
            values = ["v0", "v1", "v2", "long", "digit"]
            assert stand.ids(Filter.build(tags={letter: values})) == {event.id_bytes}
        stand.assert_sound()

    def test_extreme_timestamps(self, stand: Stand) -> None:
        zero, last = note(0, content="first"), note(MAX_TIMESTAMP, content="last")
        stand.ingest(zero, last)
        for wanted in (
            EVERYTHING,
            Filter.build(since=0, until=0),
            Filter.build(since=1),
            Filter.build(since=MAX_TIMESTAMP, until=2**64 - 1),
            Filter.build(since=MAX_TIMESTAMP + 1),
            Filter.build(since=2**64 - 1, until=2**64 - 1, kinds=[1]),
            Filter.build(kinds=[1], until=MAX_TIMESTAMP - 1),
            Filter.build(kinds=[1], since=5, until=4),
        ):
            assert_answers(stand, [zero, last], wanted, page=1)


class StorageContract(AnswersContract):
    """All promises."""

    def test_provides_its_interfaces(self, stand: Stand) -> None:
        assert verifyObject(IStorage, stand.storage)
        assert verifyObject(IEventStore, stand.events)
        assert verifyObject(IPeerBook, stand.book)

    # --- outcomes -------------------------------------------------------------------------------

    def test_new_event_is_stored_and_served_as_it_is(self, stand: Stand) -> None:
        event = note(kind=1, content="hello", tags=[["t", "x"]])
        assert stand.wait(stand.events.ingest([event])) == [Verdict(Outcome.STORED)]
        assert stand.wait(stand.events.fetch([event.id_bytes])) == {event.id_bytes: event.encode()}

    def test_nothing_is_an_empty_batch(self, stand: Stand) -> None:
        assert stand.ingest() == []

    def test_second_time_is_a_duplicate(self, stand: Stand) -> None:
        event = note()
        assert stand.ingest(event, event) == [Outcome.STORED, Outcome.DUPLICATE]
        assert stand.ingest(event) == [Outcome.DUPLICATE]

    def test_replaceable_again_is_a_duplicate(self, stand: Stand) -> None:
        profile = note(kind=0)
        assert stand.ingest(profile, profile) == [Outcome.STORED, Outcome.DUPLICATE]

    def test_ephemeral_is_passed_on_and_not_stored(self, stand: Stand) -> None:
        event = note(kind=20001)
        told: list[Event] = []
        stand.events.watch(EVERYTHING, lambda event, json: told.append(event))
        assert stand.ingest(event, event) == [Outcome.EPHEMERAL, Outcome.EPHEMERAL]
        assert told == [event, event]
        assert stand.ids() == set()

    # --- replacement ----------------------------------------------------------------------------

    @pytest.mark.parametrize("kind", [0, 3, 10002, 30023])
    def test_newer_version_replaces_in_any_order(self, stand: Stand, kind: int) -> None:
        old, new = note(NOW, kind=kind), note(NOW + 1, kind=kind)
        assert stand.ingest(old, new, old) == [
            Outcome.STORED,
            Outcome.STORED,
            Outcome.SUPERSEDED,
        ]
        assert stand.ids() == {new.id_bytes}
        newest = note(NOW + 2, kind=kind)
        assert stand.ingest(newest) == [Outcome.STORED]
        assert stand.ids() == {newest.id_bytes}
        stand.assert_sound()

    @pytest.mark.parametrize("kind", [0, 30023])
    def test_lower_id_wins_a_tie(self, stand: Stand, kind: int) -> None:
        low, high = sorted((note(kind=kind, content=c) for c in "ab"), key=lambda e: e.id)
        assert stand.ingest(high, low, high) == [
            Outcome.STORED,
            Outcome.STORED,
            Outcome.SUPERSEDED,
        ]
        assert stand.ids() == {low.id_bytes}

    def test_addresses_are_apart(self, stand: Stand) -> None:
        events = [
            note(kind=30023, tags=[["d", "one"]]),
            note(kind=30023, tags=[["d", "two"]]),
            note(kind=30023, tags=[["d", "x" * 900]]),
            note(kind=30023, tags=[["d", "x" * 900 + "y"]]),
            note(kind=30023),
            note(kind=30024),
            note(kind=0),
            note(author=BOB, kind=0),
            note(author=BOB, kind=30023, tags=[["d", "one"]]),
        ]
        assert stand.ingest(*events) == [Outcome.STORED] * len(events)
        assert len(stand.ids()) == len(events)

    def test_many_versions_in_one_batch_leave_one(self, stand: Stand) -> None:
        versions = [note(NOW + n, kind=10002, content=str(n)) for n in range(20)]
        Random(1).shuffle(versions)
        stand.ingest(*versions)
        assert stand.ids() == {max(versions, key=lambda e: e.created_at).id_bytes}
        stand.assert_sound()

    def test_racing_versions_leave_the_one_that_wins(self, stand: Stand) -> None:
        """Batches that are under way together, some versions in several of them, many in ties."""
        random = Random(7)
        versions = [
            note(NOW + n % 4, kind=kind, content=str(n), tags=[["d", "x"]])
            for kind in (0, 30023)
            for n in range(40)
        ]
        batches = [random.sample(versions, 12) for _ in range(25)]
        taken = [version for batch in batches for version in batch]

        async def race() -> list[list[Verdict]]:
            under_way = [Deferred.fromCoroutine(stand.events.ingest(batch)) for batch in batches]
            return [await verdicts for verdicts in under_way]

        outcomes = {verdict.outcome for verdicts in stand.wait(race()) for verdict in verdicts}
        assert outcomes <= {Outcome.STORED, Outcome.SUPERSEDED, Outcome.DUPLICATE}
        winners = {
            min((v for v in taken if v.kind == kind), key=lambda v: (-v.created_at, v.id)).id_bytes
            for kind in (0, 30023)
        }
        assert stand.ids() == stand.ids(Filter.build(kinds=[0, 30023])) == winners
        stand.assert_sound()

    @pytest.mark.parametrize("kind", [0, 30023])
    def test_versions_of_the_first_and_the_last_second(self, stand: Stand, kind: int) -> None:
        zero, last = note(0, kind=kind), note(MAX_TIMESTAMP, kind=kind)
        assert stand.ingest(zero, last, zero) == [
            Outcome.STORED,
            Outcome.STORED,
            Outcome.SUPERSEDED,
        ]
        deletion = note(MAX_TIMESTAMP, kind=5, tags=[["a", f"{kind}:{ALICE.pubkey}:"]])
        assert stand.ingest(deletion, zero, last) == [
            Outcome.STORED,
            Outcome.DELETED,
            Outcome.DELETED,
        ]
        assert stand.ids() == {deletion.id_bytes}
        stand.assert_sound()

    # --- deletion -------------------------------------------------------------------------------

    def test_deletion_removes_and_keeps_out(self, stand: Stand) -> None:
        event = note()
        deletion = note(kind=5, tags=[["e", event.id]])
        assert stand.ingest(event) == [Outcome.STORED]
        assert stand.ingest(deletion, event) == [Outcome.STORED, Outcome.DELETED]
        assert stand.ids() == {deletion.id_bytes}
        stand.assert_sound()

    def test_deletion_before_the_event(self, stand: Stand) -> None:
        event = note()
        stand.ingest(note(kind=5, tags=[["e", event.id]]))
        assert stand.ingest(event) == [Outcome.DELETED]

    def test_deletion_within_the_batch(self, stand: Stand) -> None:
        event = note()
        deletion = note(kind=5, tags=[["e", event.id]])
        assert stand.ingest(event, deletion, event) == [
            Outcome.STORED,
            Outcome.STORED,
            Outcome.DELETED,
        ]
        assert stand.ids() == {deletion.id_bytes}

    def test_others_cannot_delete(self, stand: Stand) -> None:
        early, late = note(content="early"), note(content="late")
        deletion = note(author=BOB, kind=5, tags=[["e", early.id], ["e", late.id]])
        assert stand.ingest(early, deletion, late) == [Outcome.STORED] * 3
        assert len(stand.ids()) == 3

    def test_deletion_of_a_deletion_does_nothing(self, stand: Stand) -> None:
        event = note()
        deletion = note(kind=5, tags=[["e", event.id]])
        against = note(NOW + 1, kind=5, tags=[["e", deletion.id]])
        undone = Difference.DELETIONS_CAN_BE_DELETED in self.differences
        assert stand.ingest(event, deletion, against, event) == [
            Outcome.STORED,
            Outcome.STORED,
            Outcome.STORED,
            Outcome.STORED if undone else Outcome.DELETED,
        ]
        assert stand.ids() == {against.id_bytes, (event if undone else deletion).id_bytes}

    def test_deletion_of_a_deletion_to_come_does_nothing(self, stand: Stand) -> None:
        event = note()
        deletion = note(kind=5, tags=[["e", event.id]])
        stand.ingest(note(kind=5, content="first", tags=[["e", deletion.id]]))
        undone = Difference.DELETIONS_CAN_BE_DELETED in self.differences
        assert stand.ingest(deletion) == [Outcome.DELETED if undone else Outcome.STORED]

    @pytest.mark.parametrize("kind, identifier", [(30023, "post"), (30023, ""), (0, "")])
    def test_deletion_by_address_covers_versions_up_to_it(
        self, stand: Stand, kind: int, identifier: str
    ) -> None:
        tags = [["d", identifier]]
        first, second, third = (note(NOW + n, kind=kind, tags=tags) for n in (0, 1, 2))
        coordinate = f"{kind}:{ALICE.pubkey}:{identifier}"
        deletion = note(NOW + 1, kind=5, tags=[["a", coordinate]])
        assert stand.ingest(first, second, deletion) == [Outcome.STORED] * 3
        assert stand.ids() == {deletion.id_bytes}
        assert stand.ingest(first, second, third) == [
            Outcome.DELETED,
            Outcome.DELETED,
            Outcome.STORED,
        ]
        assert stand.ids() == {deletion.id_bytes, third.id_bytes}
        stand.assert_sound()

    def test_deletion_by_an_address_that_says_too_much(self, stand: Stand) -> None:
        profile = note(kind=0)
        deletion = note(NOW + 1, kind=5, tags=[["a", f"0:{ALICE.pubkey}:profile"]])
        late = note(NOW - 1, kind=0)
        literally = Difference.ADDRESSES_ARE_TAKEN_LITERALLY in self.differences
        assert stand.ingest(profile, deletion, late) == [
            Outcome.STORED,
            Outcome.STORED,
            Outcome.STORED if literally else Outcome.DELETED,
        ]
        assert profile.id_bytes not in stand.ids()

    def test_earlier_deletion_by_address_does_not_shrink_a_later_one(self, stand: Stand) -> None:
        coordinate = f"30023:{ALICE.pubkey}:x"
        for second in (NOW + 5, NOW):
            stand.ingest(note(second, kind=5, tags=[["a", coordinate]]))
        version = note(NOW + 3, kind=30023, tags=[["d", "x"]])
        assert stand.ingest(version) == [Outcome.DELETED]

    def test_deletion_by_anothers_address_does_nothing(self, stand: Stand) -> None:
        article = note(kind=30023, tags=[["d", "x"]])
        deletion = note(NOW + 1, BOB, kind=5, tags=[["a", f"30023:{ALICE.pubkey}:x"]])
        assert stand.ingest(article, deletion, article) == [
            Outcome.STORED,
            Outcome.STORED,
            Outcome.DUPLICATE,
        ]

    def test_version_returns_when_its_successor_is_deleted_by_id(self, stand: Stand) -> None:
        old, new = note(NOW, kind=0), note(NOW + 1, kind=0)
        deletion = note(NOW + 2, kind=5, tags=[["e", new.id]])
        assert stand.ingest(old, new, deletion, old) == [Outcome.STORED] * 4
        assert stand.ids() == {old.id_bytes, deletion.id_bytes}
        stand.assert_sound()

    # --- expiry ---------------------------------------------------------------------------------

    def test_expired_is_not_accepted_from_its_second_on(self, stand: Stand) -> None:
        gone = note(tags=[["expiration", str(NOW)]])
        there = note(tags=[["expiration", str(NOW + 1)]])
        assert stand.ingest(gone, there) == [Outcome.EXPIRED, Outcome.STORED]

    def test_odd_expirations(self, stand: Stand) -> None:
        """The last second that can be kept is one; what is no number of a second is none."""
        odd = ["9" * 19, "9" * 20, "-1", "1e3", "\u0661", "", " 5", "0"]
        events = [note(content=text, tags=[["expiration", text]]) for text in odd]
        assert stand.ingest(*events) == [Outcome.STORED] * 7 + [Outcome.EXPIRED]
        stand.clock.advance(10_000)
        assert_answers(stand, events[:7], EVERYTHING)
        stand.assert_sound()

    def test_expired_is_not_served_nor_counted_from_its_second_on(self, stand: Stand) -> None:
        """No timer runs here: only the time is another."""
        event = note(kind=1, tags=[["expiration", str(NOW + 10)], ["t", "x"]])
        other = note(kind=1, content="stays")
        stand.ingest(event, other)
        stand.clock.rightNow = NOW + 9.9
        assert len(stand.ids()) == 2
        before = stand.events.generation
        stand.clock.rightNow = NOW + 10
        assert stand.events.generation > before
        for wanted in (EVERYTHING, Filter.build(kinds=[1]), Filter.build(tags={"t": ["x"]})):
            assert_answers(stand, [other], wanted)
        assert_answers(stand, [], Filter.build(ids=[event.id_bytes]))
        assert stand.wait(stand.events.fetch([event.id_bytes])) == {}
        assert stand.wait(stand.events.known([event.id_bytes])) == set()
        assert stand.wait(stand.events.statistics()).events == 1
        assert stand.ingest(event) == [Outcome.EXPIRED]
        stand.assert_sound()

    def test_expired_holder_makes_room_for_an_older_version(self, stand: Stand) -> None:
        new = note(NOW, kind=0, tags=[["expiration", str(NOW + 1)]])
        old = note(NOW - 5, kind=0)
        assert stand.ingest(new, old) == [Outcome.STORED, Outcome.SUPERSEDED]
        stand.clock.rightNow = NOW + 1
        if Difference.EXPIRED_VERSIONS_HOLD_THEIR_PLACE in self.differences:
            assert stand.ingest(old) == [Outcome.SUPERSEDED]
            assert stand.ids() == set()
        else:
            assert stand.ingest(old) == [Outcome.STORED]
            assert stand.ids() == {old.id_bytes}
        stand.assert_sound()

    def test_many_expire_together(self, stand: Stand) -> None:
        expiring = [
            note(content=str(n), tags=[["expiration", str(NOW + 1 + n % 2)]]) for n in range(60)
        ]
        staying = [note(content=f"stays {n}") for n in range(5)]
        stand.ingest(*expiring, *staying)
        stand.clock.advance(3)
        assert_answers(stand, staying, EVERYTHING)
        assert_answers(stand, staying, Filter.build(kinds=[1]))
        stand.assert_sound()

    # --- sizes and odd text ---------------------------------------------------------------------

    def test_big_event(self, stand: Stand) -> None:
        event = note(content="\u2028" + "x" * 65_536)
        assert stand.ingest(event) == [Outcome.STORED]
        assert stand.wait(stand.events.fetch([event.id_bytes])) == {event.id_bytes: event.encode()}

    def test_two_thousand_tags(self, stand: Stand) -> None:
        tags = [["p", f"{n:064x}"] for n in range(1990)] + [["t", "v" * n] for n in range(490, 500)]
        event = note(tags=tags)
        assert stand.ingest(event) == [Outcome.STORED]
        for name, value in (tags[0], tags[1989], tags[-1], tags[-2]):
            assert_answers(stand, [event], Filter.build(tags={name: [value]}))
        assert_answers(stand, [event], Filter.build(tags={"t": ["v" * 489]}))
        stand.assert_sound()
        assert stand.ingest(note(kind=5, tags=[["e", event.id]])) == [Outcome.STORED]
        assert stand.ids(Filter.build(tags={"p": [tags[5][1]]})) == set()
        stand.assert_sound()

    def test_odd_text_comes_back_as_it_was_signed(self, stand: Stand) -> None:
        controls = "".join(map(chr, range(0x20))) + "\x7f\u2028\u2029\ufeff\ufffd"
        odd = [controls, '"\\/', "\\u0041", "👩‍👩‍👧‍👦", "e\u0301", "\U0010ffff", " "]
        events = [note(content=text, tags=[["t", text], [text, text], []]) for text in odd]
        told: list[bytes] = []
        stand.events.watch(EVERYTHING, lambda event, json: told.append(json))
        assert stand.ingest(*events) == [Outcome.STORED] * len(events)
        assert told == [event.encode() for event in events]
        assert set(stand.wait(stand.events.query(EVERYTHING)).events) == set(told)
        for event, text in zip(events, odd, strict=True):
            assert_answers(stand, events, Filter.build(tags={"t": [text]}))
            stored = stand.wait(stand.events.fetch([event.id_bytes]))[event.id_bytes]
            assert decode(stored) == event
            assert check(decode(stored)) is None
            assert json.loads(stored)["content"] == text

    # --- ids ------------------------------------------------------------------------------------

    def test_fetch_and_known_find_what_is_held(self, stand: Stand) -> None:
        events = [note(content=str(n)) for n in range(5)]
        stand.ingest(*events)
        held = [event.id_bytes for event in events]
        asked = [bytes(32), *held, b"\xff" * 32, held[0]]
        assert stand.wait(stand.events.known(asked)) == set(held)
        assert stand.wait(stand.events.fetch(asked)) == {
            event.id_bytes: event.encode() for event in events
        }
        assert stand.wait(stand.events.known([])) == set()
        assert stand.wait(stand.events.fetch([])) == {}

    def test_snapshot_stays_as_it_was_taken(self, stand: Stand) -> None:
        event = note()
        stand.ingest(event)
        taken = stand.wait(stand.events.snapshot(EVERYTHING))
        stand.ingest(note(content="later"), note(kind=5, tags=[["e", event.id]]))
        assert list(taken) == [event.record]

    def test_generation_grows_when_snapshots_change(self, stand: Stand) -> None:
        seen = [stand.events.generation]
        event = note()
        for batch in ([event], [note(kind=5, tags=[["e", event.id]])], [note(kind=0)]):
            stand.ingest(*batch)
            seen.append(stand.events.generation)
        assert seen == sorted(set(seen))

    def test_statistics_count_events(self, stand: Stand) -> None:
        assert stand.wait(stand.events.statistics()).events == 0
        stand.ingest(note(), note(kind=0), note(kind=20001))
        assert stand.wait(stand.events.statistics()).events == 2

    # --- several at once ------------------------------------------------------------------------

    def test_batches_handed_in_together_are_taken_in_order(self, stand: Stand) -> None:
        history = [note(NOW + n, kind=0, content=str(n)) for n in range(30)]
        batches = [stand.events.ingest([event, event]) for event in history]

        async def all_of_them() -> list[list[Verdict]]:
            return [await batch for batch in batches]

        outcomes = [[v.outcome for v in verdicts] for verdicts in stand.wait(all_of_them())]
        assert outcomes == [[Outcome.STORED, Outcome.DUPLICATE]] * 30
        assert stand.ids() == {history[-1].id_bytes}

    # --- watch ----------------------------------------------------------------------------------

    def test_watch_tells_new_matching_events_in_order(self, stand: Stand) -> None:
        told: list[tuple[Event, bytes]] = []
        stand.events.watch(
            Filter.build(kinds=[1], limit=1), lambda event, json: told.append((event, json))
        )
        notes = [note(NOW - n, kind=1, content=str(n)) for n in range(5)]
        stand.ingest(notes[0], note(kind=7), notes[1])
        stand.ingest(notes[1], *notes[2:])
        assert told == [(event, event.encode()) for event in notes]

    def test_watch_is_not_told_of_what_is_not_taken(self, stand: Stand) -> None:
        event, old, new = note(content="gone"), note(NOW - 1, kind=0), note(NOW, kind=0)
        deletion = note(kind=5, tags=[["e", event.id]])
        stand.ingest(deletion, new)
        told: list[Event] = []
        stand.events.watch(EVERYTHING, lambda event, json: told.append(event))
        assert stand.ingest(event, old, new, note(tags=[["expiration", str(NOW)]])) == [
            Outcome.DELETED,
            Outcome.SUPERSEDED,
            Outcome.DUPLICATE,
            Outcome.EXPIRED,
        ]
        last = note(content="last")
        stand.ingest(last)
        assert told == [last]

    def test_watch_by_each_condition(self, stand: Stand) -> None:
        event = note(kind=1, tags=[["t", "x"], ["p", "y"]])
        other = note(author=BOB, kind=7)
        hits: list[int] = []
        filters = [
            EVERYTHING,
            Filter.build(ids=[event.id_bytes, bytes(32)]),
            Filter.build(authors=[bytes.fromhex(ALICE.pubkey)]),
            Filter.build(kinds=[1, 2]),
            Filter.build(tags={"t": ["x", "z"], "p": ["y"]}),
            Filter.build(since=NOW, until=NOW, authors=[bytes.fromhex(ALICE.pubkey)], kinds=[1]),
        ]
        misses = [
            Filter.build(ids=[]),
            Filter.build(tags={"t": ["x"], "p": ["z"]}),
            Filter.build(kinds=[1], since=NOW + 1),
            Filter.build(authors=[bytes.fromhex(ALICE.pubkey)], kinds=[2]),
        ]

        def hit(number: int, event: Event, json: bytes) -> None:
            hits.append(number)

        for number, wanted in enumerate(filters + misses):
            stand.events.watch(wanted, partial(hit, number))
        stand.ingest(event)
        assert sorted(hits) == list(range(len(filters)))
        hits.clear()
        stand.ingest(other)
        assert hits == [0]

    def test_stopped_watch_is_not_told(self, stand: Stand) -> None:
        told: list[Event] = []
        watch = stand.events.watch(EVERYTHING, lambda event, json: told.append(event))
        first = note()
        stand.ingest(first)
        watch.stop()
        watch.stop()
        stand.ingest(note(content="later"))
        assert told == [first]

    def test_watch_may_stop_itself_and_others(self, stand: Stand) -> None:
        told: list[int] = []

        def callback(number: int, event: Event, json: bytes) -> None:
            told.append(number)
            for watch in watches:
                watch.stop()

        watches = [stand.events.watch(EVERYTHING, partial(callback, n)) for n in range(3)]
        stand.ingest(note())
        assert len(told) == 1

    def test_failing_watch_ends_nothing(self, stand: Stand) -> None:
        told: list[Event] = []

        def fail(event: Event, json: bytes) -> None:
            raise RuntimeError("a test's")

        stand.events.watch(EVERYTHING, fail)
        stand.events.watch(EVERYTHING, lambda event, json: told.append(event))
        events = [note(content=str(n)) for n in range(3)]
        assert stand.ingest(*events) == [Outcome.STORED] * 3
        assert told == events

    # --- verify ---------------------------------------------------------------------------------

    def test_verify_reads_everything_and_says_how_far_it_is(self, stand: Stand) -> None:
        stand.ingest(*sample_events(40, until=NOW))
        count = stand.wait(stand.events.statistics()).events
        progress: list[tuple[int, int]] = []
        report = stand.wait(stand.events.verify(lambda *far: progress.append(far)))
        assert (report.events, report.problems) == (count, [])
        assert progress[-1] == (count, count)

    def test_verify_finds_a_wrong_signature(self, stand: Stand) -> None:
        event = note()
        forged = decode(event.encode().replace(event.sig.encode(), b"0" * 128))
        stand.ingest(forged, note(kind=7))
        report = stand.wait(stand.events.verify(lambda read, total: None))
        assert report.events == 2
        assert report.problems == [f"event {event.id}: signature does not match"]

    def test_repair_removes_what_is_no_valid_event(self, stand: Stand) -> None:
        event, whole = note(content="forged"), note(kind=7)
        forged = decode(event.encode().replace(event.sig.encode(), b"0" * 128))
        stand.ingest(forged, whole)
        if Difference.IS_REPAIRED_ELSEWHERE in self.differences:
            with pytest.raises(StorageError, match="not ours to repair"):
                stand.repair()
            return
        report = stand.repair()
        assert report.problems == [f"event {event.id}: signature does not match"]
        assert report.repaired > 0
        stand.assert_sound()
        assert_answers(stand, [whole], EVERYTHING)
        assert_answers(stand, [], Filter.build(kinds=[1]))
        assert stand.ingest(event) == [Outcome.STORED]
        assert stand.wait(stand.events.fetch([event.id_bytes])) == {event.id_bytes: event.encode()}

    def test_repair_leaves_a_sound_store_as_it_is(self, stand: Stand) -> None:
        if Difference.IS_REPAIRED_ELSEWHERE in self.differences:
            pytest.skip("see above")
        stand.ingest(*sample_events(40, until=NOW))
        before = stand.listing(EVERYTHING, 50)
        report = stand.repair()
        assert (report.problems, report.repaired) == ([], 0)
        assert stand.listing(EVERYTHING, 50) == before

    def test_compact_keeps_everything_and_goes_on(self, stand: Stand) -> None:
        events = list(sample_events(40, until=NOW))
        stand.ingest(*events)
        before = stand.listing(EVERYTHING, 50)
        told: list[tuple[int, int]] = []
        report = stand.wait(stand.events.compact(lambda *far: told.append(far)))
        assert 0 <= report.after <= report.before
        assert told == sorted(told)
        assert all(done == total == len(before) for done, total in told[-1:])
        assert stand.listing(EVERYTHING, 50) == before
        later = note(NOW + 1, content="later")
        assert stand.ingest(later) == [Outcome.STORED]
        assert stand.listing(EVERYTHING, 50) == [later.id_bytes, *before]
        stand.assert_sound()

    # --- peers ----------------------------------------------------------------------------------

    def test_peers_are_kept_with_their_state(self, stand: Stand) -> None:
        failed = PeerState(5, 7, PeerStatus.ERROR, "gone: \u2028", 2, 12.5, configured=True)
        stand.wait(stand.book.put("wss://a.example", PeerState()))
        stand.wait(stand.book.put("wss://b.example/" + "x" * 900, PeerState(last_sync=3)))
        stand.wait(stand.book.put("wss://a.example", failed))
        assert stand.wait(stand.book.peers()) == {
            "wss://a.example": failed,
            "wss://b.example/" + "x" * 900: PeerState(last_sync=3),
        }

    def test_state_is_updated_only_of_a_listed_peer(self, stand: Stand) -> None:
        stand.wait(stand.book.put("wss://a.example", PeerState()))
        for url in ("wss://a.example", "wss://b.example"):
            stand.wait(stand.book.update(url, PeerState(last_sync=3)))
        assert stand.wait(stand.book.peers()) == {"wss://a.example": PeerState(last_sync=3)}

    def test_removed_peer_is_forgotten_with_its_ledger(self, stand: Stand) -> None:
        entry = LedgerEntry(Residue.UNFETCHABLE, "", 1, 1.0)
        for url in ("wss://a.example", "wss://b.example"):
            stand.wait(stand.book.put(url, PeerState()))
            stand.wait(stand.book.write_ledger(url, {bytes(32): entry}, []))
        stand.wait(stand.book.remove("wss://a.example"))
        stand.wait(stand.book.remove("wss://unknown.example"))
        assert list(stand.wait(stand.book.peers())) == ["wss://b.example"]
        assert stand.wait(stand.book.ledger("wss://a.example", [bytes(32)])) == {}
        assert stand.wait(stand.book.residues("wss://a.example")) == {}
        assert stand.wait(stand.book.residues("wss://b.example")) == {Residue.UNFETCHABLE: 1}

    def test_ledger_entries_are_added_replaced_and_settled(self, stand: Stand) -> None:
        url, other = "wss://a.example", "wss://b.example"
        ids = [bytes([n]) * 32 for n in range(4)]
        rejected = LedgerEntry(Residue.THEIRS_REJECTED, "blocked: no \u2028", 2, 17.25)
        missing = LedgerEntry(Residue.UNFETCHABLE, "", 1, 0.0)
        stand.wait(stand.book.write_ledger(url, dict.fromkeys(ids[:3], missing), []))
        stand.wait(stand.book.write_ledger(other, {ids[3]: missing}, []))
        stand.wait(stand.book.write_ledger(url, {ids[0]: rejected}, [ids[1], ids[3]]))
        assert stand.wait(stand.book.ledger(url, ids)) == {ids[0]: rejected, ids[2]: missing}
        assert stand.wait(stand.book.residues(url)) == {
            Residue.THEIRS_REJECTED: 1,
            Residue.UNFETCHABLE: 1,
        }
        assert stand.wait(stand.book.residues(other)) == {Residue.UNFETCHABLE: 1}
        assert stand.wait(stand.book.peers()) == {}

    def test_entries_of_one_reason_come_in_the_order_in_which_they_are_due(
        self, stand: Stand
    ) -> None:
        url, other = "wss://a.example", "wss://b.example"
        due = [7.5, 0.0, 3e9, 1e9, 2e9, 1.7e9]
        entries = {
            bytes([n]) * 32: LedgerEntry(list(Residue)[n % 2], f"no \u2028 {n}", n + 1, second)
            for n, second in enumerate(due)
        }
        ids = list(entries)
        stand.wait(stand.book.write_ledger(url, entries, []))
        stand.wait(stand.book.write_ledger(other, dict.fromkeys(ids[:1], entries[ids[1]]), []))
        first, second, third = list(Residue)[:3]
        for residue, expected in ((first, [0, 4, 2]), (second, [1, 3, 5]), (third, [])):
            for most in (0, 1, 2, 3, 100):
                found = stand.wait(stand.book.entries(url, residue, most))
                chosen = [ids[n] for n in expected[:most]]
                assert list(found.items()) == [(one, entries[one]) for one in chosen]
        stand.wait(stand.book.write_ledger(url, {}, [ids[0]]))
        assert list(stand.wait(stand.book.entries(url, first, 1))) == [ids[4]]
        assert stand.wait(stand.book.entries("wss://unknown.example", first, 5)) == {}

    def test_cleared_ledger_is_empty_and_the_peer_stays(self, stand: Stand) -> None:
        url, other = "wss://a.example", "wss://b.example"
        entry = LedgerEntry(Residue.UNFETCHABLE, "", 1, 1.0)
        for peer in (url, other):
            stand.wait(stand.book.put(peer, PeerState(last_sync=3)))
            stand.wait(stand.book.write_ledger(peer, {bytes(32): entry}, []))
        stand.wait(stand.book.clear_ledger(url))
        stand.wait(stand.book.clear_ledger("wss://unknown.example"))
        assert stand.wait(stand.book.ledger(url, [bytes(32)])) == {}
        assert stand.wait(stand.book.residues(url)) == {}
        assert stand.wait(stand.book.entries(url, Residue.UNFETCHABLE, 5)) == {}
        assert stand.wait(stand.book.residues(other)) == {Residue.UNFETCHABLE: 1}
        assert stand.wait(stand.book.peers()) == dict.fromkeys((url, other), PeerState(last_sync=3))
        stand.wait(stand.book.write_ledger(url, {bytes(32): entry}, []))
        assert stand.wait(stand.book.residues(url)) == {Residue.UNFETCHABLE: 1}

    def test_full_ledger_drops_what_is_next_to_be_retried(self, stand: Stand) -> None:
        url = "wss://a.example"
        entries = {
            n.to_bytes(32, "big"): LedgerEntry(Residue.UNFETCHABLE, "", 1, float(1000 - n))
            for n in range(LIMIT + 10)
        }
        keys = list(entries)
        stand.wait(stand.book.write_ledger(url, {key: entries[key] for key in keys[:30]}, []))
        stand.wait(stand.book.write_ledger(url, {key: entries[key] for key in keys[30:]}, []))
        assert set(stand.wait(stand.book.ledger(url, keys))) == set(keys[:LIMIT])
        assert stand.wait(stand.book.residues(url)) == {Residue.UNFETCHABLE: LIMIT}
