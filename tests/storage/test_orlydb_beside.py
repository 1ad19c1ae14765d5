"""A relay's database that is not ours alone: what others write, what is lost and comes back."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.defer import Deferred, gatherResults

from negd.errors import StorageError
from negd.interfaces import Outcome, PeerState, Verdict
from negd.nostr.event import Event, decode
from negd.nostr.filter import EVERYTHING, Filter
from negd.nostr.signing import Signer
from negd.storage import open_store
from negd.storage.orlydb import database as calls
from negd.storage.orlydb import following
from negd.storage.orlydb.address import DatabaseAddress
from negd.storage.orlydb.store import OrlydbStorage
from negd.storage.orlydb.upkeep import POLL, RELIST
from negd.testing.events import sample_events
from negd.testing.orlydb import FakeDatabase, message_of
from negd.testing.threads import ThreadedClock
from tests.storage.contract import ALICE, BOB, NOW, Stand, note
from tests.storage.test_orlydb import opened

PROFILES = Filter.build(kinds=[0])


@pytest.fixture
def database() -> Iterator[FakeDatabase]:
    with FakeDatabase() as database:
        yield database


@pytest.fixture
def stand(database: FakeDatabase) -> Iterator[Stand]:
    """Opened over an empty database, and past its first listing."""
    with opened(database) as stand:
        assert stand.ids() == set()
        yield stand


def told_of(stand: Stand, wanted: Filter = EVERYTHING) -> list[Event]:
    """What a watch is told, from now on."""
    told: list[Event] = []
    stand.events.watch(wanted, lambda event, json: told.append(event))
    return told


def eventually(stand: Stand, is_so: Callable[[], bool]) -> None:
    """Look until it is so: each look gives what runs in the background its turn."""
    for _ in range(200):
        stand.ids()
        if is_so():
            return
    pytest.fail("it did not come about")


# --- what others write --------------------------------------------------------------------------


def test_others_events_are_in_every_answer_at_once(database: FakeDatabase, stand: Stand) -> None:
    before = note(NOW, kind=1)
    database.write(before)
    assert stand.ids() == {before.id_bytes}
    generation = stand.events.generation
    late = note(5, BOB, kind=1)
    database.write(late)
    assert stand.ids() == {before.id_bytes, late.id_bytes}
    assert stand.events.generation > generation
    database.write(note(6, kind=7))
    assert stand.wait(stand.events.count(Filter.build(kinds=[1]))) == 2
    assert stand.wait(stand.events.count(EVERYTHING)) == 3
    assert len(stand.listing(EVERYTHING, page=2)) == 3
    assert stand.wait(stand.events.known([late.id_bytes])) == {late.id_bytes}
    assert stand.wait(stand.events.fetch([late.id_bytes])) == {late.id_bytes: late.encode()}


def test_watchers_are_told_of_others_events_in_time_and_once(
    database: FakeDatabase, stand: Stand
) -> None:
    told: list[Event] = []
    waiting: list[Deferred[None]] = [Deferred()]

    def callback(event: Event, json: bytes) -> None:
        told.append(event)
        waiting[0].callback(None)

    stand.events.watch(Filter.build(authors=[bytes.fromhex(BOB.pubkey)]), callback)
    for created_at in (NOW, 1):
        database.write(note(created_at, BOB), note(created_at, ALICE))
        waiting[0] = Deferred()
        stand.clock.advance(POLL)
        stand.wait(waiting[0])
    stand.ids()
    assert [event.created_at for event in told] == [NOW, 1]


def test_own_events_are_not_told_again_when_their_numbers_come_up(
    database: FakeDatabase, stand: Stand
) -> None:
    told = told_of(stand)
    ours = [note(content=str(n)) for n in range(100)]
    theirs = note(author=BOB)
    stand.ingest(*ours[:50])
    database.write(theirs)
    stand.ingest(*ours[50:])
    for _ in range(3):
        stand.ids()
    assert told == [*ours, theirs]


def test_of_own_events_so_many_are_remembered_until_their_numbers_come_up(
    database: FakeDatabase, stand: Stand, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(following, "_MOST_UNMET", 2)
    told = told_of(stand)
    ours = [note(content=str(n)) for n in range(3)]
    stand.ingest(*ours)
    for _ in range(3):
        stand.ids()
    assert told == [*ours, ours[0]]
    assert stand.ids() == {event.id_bytes for event in ours}


def test_an_own_event_that_is_seen_before_its_answer_comes_is_told_once(
    database: FakeDatabase, stand: Stand
) -> None:
    committed, answering = threading.Event(), threading.Event()

    def wait_to_answer() -> None:
        committed.set()
        answering.wait(10)

    database.on_saved = wait_to_answer
    told = told_of(stand)
    event = note()
    batch = Deferred.fromCoroutine(stand.events.ingest([event]))
    committed.wait(10)
    stand.ids()
    assert told == []
    answering.set()
    assert stand.wait(batch) == [Verdict(Outcome.STORED)]
    assert stand.ids() == {event.id_bytes}
    assert told == [event]


def test_thousands_of_others_events_are_told_in_the_order_of_storing(
    database: FakeDatabase, stand: Stand
) -> None:
    told = told_of(stand)
    events = [note(n, content=str(n)) for n in range(1500)]
    database.write(*events)
    stand.ids()
    assert told == events


def test_a_number_that_was_passed_over_is_asked_for_again(
    database: FakeDatabase, stand: Stand
) -> None:
    """Events get their numbers before they are committed, so a later one may be there first."""
    told = told_of(stand)
    slow, fast = note(content="slow"), note(content="fast")
    with database.committing(slow):
        database.write(fast)
        assert stand.ids() == {fast.id_bytes}
    assert stand.ids() == {fast.id_bytes, slow.id_bytes}
    assert told == [fast, slow]


def test_an_event_stored_while_the_first_listing_is_made_is_held(database: FakeDatabase) -> None:
    database.write(*(note(n) for n in range(10)))
    recent, old = note(NOW), note(3, BOB)

    def write_after_the_first_window(method: str, request: object) -> None:
        if database.calls["QueryForIds"] == 2 and not database.holds(recent):
            database.write(recent, old)  # of which only the old one is in a window to come

    database.on_call = write_after_the_first_window
    with opened(database) as stand:
        assert recent.id_bytes in stand.ids()
        assert len(stand.ids()) == 12


# --- versions, deletions, expiry ----------------------------------------------------------------


def test_versions_piled_up_before_the_start_do_not_count(database: FakeDatabase) -> None:
    def article(second: int, identifier: str, author: Signer = ALICE) -> Event:
        return note(second, author, kind=30023, tags=[["d", identifier]])

    latest = [note(9, kind=0), note(7, BOB, kind=0), note(3, kind=10002), article(8, "x")]
    latest += [article(2, "y"), article(5, "x", BOB), note(1, kind=1), note(2, kind=1)]
    old = [note(second, kind=0) for second in range(9)]
    old += [article(1, "y"), article(4, "x", BOB), *(article(second, "x") for second in range(8))]
    expired = note(9, kind=10002, tags=[["expiration", "10"]])
    by_second = sorted([*old, *latest, expired], key=lambda event: event.created_at)
    database.write(*by_second)
    with opened(database, read_only=True) as stand:
        assert stand.ids() == {event.id_bytes for event in latest}
    with opened(database) as stand:
        eventually(stand, lambda: stand.ids() == {event.id_bytes for event in latest})
        assert stand.ids(PROFILES) == {latest[0].id_bytes, latest[1].id_bytes}
        assert stand.wait(stand.events.fetch([old[0].id_bytes, expired.id_bytes])) == {}
        assert stand.ingest(old[0]) == [Outcome.SUPERSEDED]
        stand.assert_sound()


def test_of_versions_in_one_second_the_lower_id_counts_whoever_wrote_it(
    database: FakeDatabase, stand: Stand
) -> None:
    low, high = sorted((note(kind=0, content=c) for c in "ab"), key=lambda event: event.id)
    database.write(low, high)
    assert stand.ids() == stand.ids(PROFILES) == {low.id_bytes}


def test_of_many_versions_in_one_second_the_lowest_id_counts(
    database: FakeDatabase, stand: Stand
) -> None:
    versions = [note(kind=0, content=str(n)) for n in range(35)]
    database.write(*versions)
    lowest = min(versions, key=lambda event: event.id)
    assert stand.ids() == stand.ids(PROFILES) == {lowest.id_bytes}
    assert stand.ingest(versions[0], versions[1]) == [
        Outcome.DUPLICATE if event is lowest else Outcome.SUPERSEDED for event in versions[:2]
    ]


def test_a_version_counts_though_many_that_have_expired_lie_above_it(
    database: FakeDatabase, stand: Stand
) -> None:
    expiring = [["expiration", str(NOW)]]
    version = note(1, kind=0)
    database.write(version, *(note(n, kind=0, tags=expiring) for n in range(2, 40)))
    assert stand.ids(PROFILES) == {version.id_bytes}
    assert stand.ingest(version) == [Outcome.DUPLICATE]


def test_others_new_version_takes_the_place_of_the_old_one(
    database: FakeDatabase, stand: Stand
) -> None:
    old, new = note(NOW, kind=0), note(NOW + 1, kind=0)
    stand.ingest(old)
    told = told_of(stand)
    database.write(new)
    assert stand.ids() == stand.ids(PROFILES) == {new.id_bytes}
    assert stand.wait(stand.events.fetch([old.id_bytes, new.id_bytes])) == {
        new.id_bytes: new.encode()
    }
    assert told == [new]


def test_others_deletions_take_away_what_they_name(database: FakeDatabase, stand: Stand) -> None:
    named, by_address, kept = note(content="x"), note(kind=30023), note(author=BOB)
    stand.ingest(named, by_address, kept)
    address = f"30023:{ALICE.pubkey}:"
    deletion = note(
        NOW, kind=5, tags=[["e", named.id], ["e", kept.id], ["a", address]], content="others'"
    )
    told = told_of(stand)
    database.write(deletion)
    assert stand.ids() == {kept.id_bytes, deletion.id_bytes}
    assert stand.ingest(named, by_address) == [Outcome.DELETED, Outcome.DELETED]
    assert told == [deletion]


def test_others_expired_events_are_not_held(database: FakeDatabase, stand: Stand) -> None:
    told = told_of(stand)
    gone = note(tags=[["expiration", str(NOW)]])
    going = note(tags=[["expiration", str(NOW + 5)]])
    database.write(gone, going)
    assert stand.ids() == {going.id_bytes}
    assert told == [going]
    stand.clock.rightNow += 5
    assert stand.ids() == set()
    assert stand.wait(stand.events.known([gone.id_bytes, going.id_bytes])) == set()


def test_an_expired_event_from_before_the_start_is_not_served(database: FakeDatabase) -> None:
    """That it has expired is not in the listing: it is found when the event is read."""
    gone = note(tags=[["expiration", str(NOW)]])
    database.write(gone)
    with opened(database) as stand:
        assert stand.ids() == {gone.id_bytes}
        assert stand.wait(stand.events.query(EVERYTHING)).events == []
        assert stand.ids() == set()


def test_what_the_database_swept_is_noticed_at_the_next_listing(
    database: FakeDatabase, stand: Stand
) -> None:
    swept, kept = note(content="swept"), note(content="kept")
    database.write(swept, kept)
    assert len(stand.ids()) == 2
    database.sweep(swept)
    assert len(stand.ids()) == 2
    stand.clock.advance(RELIST)
    eventually(stand, lambda: stand.ids() == {kept.id_bytes})


# --- sizes --------------------------------------------------------------------------------------


def test_snapshots_are_whole_though_answers_are_small(database: FakeDatabase) -> None:
    events = [event for event in sample_events(1500, until=NOW) if event.kind != 20001]
    kept = [event for event in events if event.kind in (1, 7)]
    database.write(*kept)
    database.answer_bytes = 20_000
    with opened(database) as stand:
        assert stand.ids() == {event.id_bytes for event in kept}
        for wanted in (
            Filter.build(kinds=[1]),
            Filter.build(kinds=[7], since=NOW - 3000, until=NOW - 1000),
            Filter.build(kinds=[1], tags={"t": ["nostr", "bitcoin"]}),
        ):
            matching = {event.id_bytes for event in kept if wanted.matches(event)}
            assert stand.ids(wanted) == matching != set()
            assert set(stand.listing(wanted, page=100)) == matching


def test_a_second_that_no_answer_holds_is_told(database: FakeDatabase) -> None:
    database.write(*(note(content=str(n)) for n in range(100)))
    database.answer_bytes = 1000
    with opened(database) as stand:
        with pytest.raises(StorageError, match=f"larger than max .*, for the one second {NOW}"):
            stand.ids()
        database.answer_bytes = 1_000_000
        assert len(stand.ids()) == 100


def test_sixteen_saves_are_in_flight(database: FakeDatabase, stand: Stand) -> None:
    authors = [Signer(bytes([n]) * 32) for n in range(1, 61)]
    events = [note(author=author) for author in authors]
    database.freeze()
    batch = Deferred.fromCoroutine(stand.events.ingest(events))
    while database.calls["SaveEvent"] < 16:
        pass
    database.thaw()
    assert stand.wait(batch) == [Verdict(Outcome.STORED)] * 60
    assert database.most_saves == 16


# --- what the database refuses ------------------------------------------------------------------


def test_a_refusal_of_its_own_is_told_as_it_is(database: FakeDatabase, stand: Stand) -> None:
    database.refuses = lambda message: "must have a p tag" if message.kind == 3 else None
    verdicts = stand.wait(stand.events.ingest([note(kind=3), note()]))
    assert verdicts == [
        Verdict(Outcome.INVALID, "the database refuses it (blocked: must have a p tag)"),
        Verdict(Outcome.STORED),
    ]
    assert verdicts[0].text.startswith("invalid: the database refuses it")


def test_an_event_that_would_change_on_the_way_is_refused(stand: Stand) -> None:
    event = note(tags=[["e", "x" * 32 + "\0"]])
    [verdict] = stand.wait(stand.events.ingest([event]))
    assert verdict.outcome is Outcome.INVALID
    assert "would be taken for a hash" in verdict.text


def test_one_event_that_cannot_be_saved_fails_its_batch_and_keeps_out_no_other(
    database: FakeDatabase, stand: Stand
) -> None:
    events = [note(author=Signer(bytes([n]) * 32)) for n in range(1, 6)]
    told = told_of(stand)

    database.breaks = lambda message: (
        "no space left on device" if message.id == events[2].id_bytes else None
    )
    with pytest.raises(StorageError, match="no space left on device"):
        stand.ingest(*events)
    database.breaks = lambda message: None
    others = [event for event in events if event is not events[2]]
    assert stand.ids() == {event.id_bytes for event in others}
    assert stand.ingest(*events) == [
        Outcome.STORED if event is events[2] else Outcome.DUPLICATE for event in events
    ]
    stand.ids()
    assert told == [*others, events[2]]


def test_verify_names_what_is_listed_and_not_returned(database: FakeDatabase) -> None:
    damaged = message_of(note())
    damaged.content = b"\xff"
    database.write(note(kind=7), damaged)
    with opened(database) as stand:
        report = stand.wait(stand.events.verify(lambda read, total: None))
        assert report.events == 2
        assert report.problems == [f"event {damaged.id.hex()}: listed, but not returned"]
        assert len(stand.listing(EVERYTHING, page=1)) == 1


# --- the start, losses and returns --------------------------------------------------------------


class QuickClock(ThreadedClock):
    """Whatever is done in a thread takes half a second."""

    def callFromThread(self, callable: Callable[..., Any], *args: Any, **kwargs: Any) -> None:
        def call() -> None:
            callable(*args, **kwargs)
            self.advance(0.5)

        super().callFromThread(call)


def test_the_start_waits_until_the_database_is_ready(
    database: FakeDatabase, tmp_path: Path
) -> None:
    def be_ready_the_fifth_time(method: str, request: object) -> None:
        database.is_ready = database.calls["Ready"] >= 5

    database.on_call = be_ready_the_fifth_time
    clock = QuickClock(NOW)
    storage = clock.wait(OrlydbStorage.open(DatabaseAddress(database.server, str(tmp_path)), clock))
    assert database.calls["Ready"] == 5
    clock.wait(storage.close())


def test_the_start_gives_up_on_a_database_that_does_not_become_ready(
    database: FakeDatabase, tmp_path: Path
) -> None:
    address = DatabaseAddress(database.server, str(tmp_path))
    database.is_ready = False
    with pytest.raises(
        StorageError, match=f"database at {database.server} says that it is not ready, after 30 s"
    ):
        clock = QuickClock(NOW)
        clock.wait(OrlydbStorage.open(address, clock))
    database.stop()
    with pytest.raises(
        StorageError, match=rf"no database answers at {database.server} \(.*refused\), after 30 s"
    ):
        clock = QuickClock(NOW)
        clock.wait(OrlydbStorage.open(address, clock))
    assert not any(thread.name.startswith("negd-orlydb") for thread in threading.enumerate())


def test_while_the_database_is_away_all_fails_at_once(database: FakeDatabase, stand: Stand) -> None:
    event = note()
    stand.ingest(event)
    database.stop()
    for work in (
        lambda: stand.events.snapshot(EVERYTHING),
        lambda: stand.events.snapshot(PROFILES),
        lambda: stand.events.snapshot(Filter.build(ids=[event.id_bytes])),
        lambda: stand.events.query(EVERYTHING),
        lambda: stand.events.fetch([event.id_bytes]),
        lambda: stand.events.known([event.id_bytes]),
        lambda: stand.events.count(EVERYTHING),
        lambda: stand.events.ingest([note(content="new"), note(author=BOB)]),
        lambda: stand.events.verify(lambda read, total: None),
    ):
        with pytest.raises(StorageError, match=f"no database answers at {database.server}"):
            stand.wait(work())
    assert stand.wait(stand.events.statistics()).events == 1
    assert stand.ingest() == []


def test_a_database_that_comes_back_is_taken_up_where_it_is(
    database: FakeDatabase, stand: Stand
) -> None:
    before, swept = note(content="before"), note(content="swept")
    stand.ingest(before, swept)
    told = told_of(stand)
    stand.ids()
    database.stop()
    with pytest.raises(StorageError):
        stand.ids()
    meanwhile = [note(n, BOB) for n in range(300)]
    database.write(*meanwhile)
    database.sweep(swept)
    database.start()
    come_back(stand)
    kept = [before, *meanwhile]
    assert stand.ids() == {event.id_bytes for event in kept}
    assert told == meanwhile
    after = note(content="after")
    assert stand.ingest(after) == [Outcome.STORED]
    assert stand.ids() == {event.id_bytes for event in [*kept, after]}
    assert told == [*meanwhile, after]


def come_back(stand: Stand) -> None:
    """Wait until the database is reached again."""
    given_up = time.monotonic() + 10
    while time.monotonic() < given_up:
        try:
            stand.ids()
            return
        except StorageError:
            time.sleep(0.05)
    pytest.fail("the database was not reached again")


def test_a_killed_database_goes_on_with_other_numbers(database: FakeDatabase, stand: Stand) -> None:
    stand.ingest(note())
    stand.ids()
    database.stop()
    with pytest.raises(StorageError):
        stand.ids()
    database.skip_numbers(5000)
    first = note(content="first")
    database.write(first)
    database.start()
    come_back(stand)
    assert first.id_bytes in stand.ids()
    told = told_of(stand)
    second = note(content="second")
    database.write(second)
    assert len(stand.ids()) == 3
    assert told == [second]


def test_another_database_at_the_address_is_taken_for_what_it_is(
    database: FakeDatabase, stand: Stand
) -> None:
    stand.ingest(*(note(n) for n in range(600)))
    assert len(stand.ids()) == 600
    database.stop()
    with pytest.raises(StorageError):
        stand.ids()
    database.reset()
    there = note(content="there")
    database.write(there)
    database.start()
    come_back(stand)
    assert stand.ids() == {there.id_bytes}
    told = told_of(stand)
    new = note(content="new")
    database.write(new)
    assert stand.ids() == {there.id_bytes, new.id_bytes}
    assert told == [new]


def test_an_event_that_was_saved_too_late_to_be_told_of_is_taken_in(
    database: FakeDatabase, stand: Stand, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = told_of(stand)
    event = note()
    monkeypatch.setattr(calls, "SAVE_WITHIN", 0.2)
    database.freeze()
    with pytest.raises(StorageError, match="did not answer in time"):
        stand.ingest(event)
    database.thaw()
    eventually(stand, lambda: database.holds(event))
    assert stand.ids() == {event.id_bytes}
    assert told == [event]
    assert stand.ingest(event) == [Outcome.DUPLICATE]


def test_closing_finishes_what_was_accepted_and_ends_the_threads(
    database: FakeDatabase, tmp_path: Path
) -> None:
    clock = ThreadedClock(NOW)
    address = DatabaseAddress(database.server, str(tmp_path))
    storage = clock.wait(OrlydbStorage.open(address, clock))
    batches = [
        Deferred.fromCoroutine(storage.events.ingest([note(content=f"{n} {m}") for m in range(20)]))
        for n in range(5)
    ]
    closing = Deferred.fromCoroutine(storage.close())
    verdicts = clock.wait(gatherResults(batches))
    clock.wait(closing)
    assert verdicts == [[Verdict(Outcome.STORED)] * 20] * 5
    with pytest.raises(StorageError, match="the store is closed"):
        clock.wait(storage.events.ingest([note()]))
    with pytest.raises(StorageError, match="the store is closed"):
        clock.wait(storage.events.snapshot(EVERYTHING))
    assert not any(thread.name.startswith("negd-orlydb") for thread in threading.enumerate())
    clock.advance(10 * POLL)
    assert database.calls["SaveEvent"] == 100


# --- the store string, and what is beside the events --------------------------------------------


def test_a_store_string_opens_it(database: FakeDatabase, tmp_path: Path) -> None:
    book = tmp_path / "peers"
    clock = ThreadedClock(NOW)
    storage = clock.wait(open_store(f"orlydb:{database.server}:book={book}", clock))
    clock.wait(storage.events.ingest([note()]))
    assert not book.exists(), "the book is opened when it is needed"
    clock.wait(storage.book.put("wss://a.example", PeerState(last_sync=7)))
    other = clock.wait(open_store(f"orlydb:{database.server}:book={book}", clock))
    assert len(clock.wait(other.events.snapshot(EVERYTHING))) == 1
    with pytest.raises(StorageError, match="in use by"):
        clock.wait(other.book.peers())
    clock.wait(other.close())
    clock.wait(storage.close())
    again = clock.wait(open_store(f"orlydb:{database.server}:book={book}", clock))
    assert clock.wait(again.book.peers()) == {"wss://a.example": PeerState(last_sync=7)}
    clock.wait(again.close())


def test_read_only_takes_nothing(database: FakeDatabase) -> None:
    database.write(note())
    with opened(database, read_only=True) as stand:
        with pytest.raises(StorageError, match="open for reading"):
            stand.ingest(note(content="new"))
        assert len(stand.ids()) == 1
        page = stand.wait(stand.events.query(Filter.build(kinds=[1])))
        assert [decode(event) for event in page.events] == [note()]
