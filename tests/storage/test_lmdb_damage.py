"""A damaged store in LMDB: whatever is lost or added in its indexes, a repair mends it; and one
wrong byte within an event harms no other."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from random import Random

import lmdb
import pytest
from twisted.logger import LogEvent, LogLevel, capturedLogs, formatEvent

from negd.errors import StorageError
from negd.interfaces import Outcome
from negd.nostr.event import InvalidEvent
from negd.nostr.filter import EVERYTHING, Filter
from negd.storage.lmdb.shelf import LmdbShelf
from negd.testing.events import sample_events
from negd.testing.model import NaiveRelay
from tests.storage.contract import ALICE, NOW, assert_answers, in_order, note
from tests.storage.test_lmdb import opened

INDEXES = ("ids", "kinds", "authors", "tags", "expiry", "addresses")


def damage(folder: Path, random: Random, index: str, lost: int, added: int) -> None:
    """Take entries out of an index and put others in, with an LMDB that knows nothing of negd."""
    with lmdb.open(str(folder), max_dbs=30, map_size=1 << 30) as environment:
        database = environment.open_db(index.encode(), create=False)
        with environment.begin(write=True) as txn:
            entries = list(txn.cursor(database))
            for key, value in random.sample(entries, min(lost, len(entries))):
                txn.delete(key, value, db=database)
            for key, value in random.choices(entries, k=added):
                stray = random.choice([random.choice(entries)[1], random.randbytes(len(value))])
                txn.put(random.choice([key, random.randbytes(len(key))]), stray, db=database)


@pytest.mark.parametrize("seed", range(4))
def test_whatever_is_lost_or_added_in_the_indexes_is_mended(tmp_path: Path, seed: int) -> None:
    random, relay = Random(seed), NaiveRelay(NOW)
    events = list(sample_events(300, seed, until=NOW))
    events += [note(content=str(n), tags=[["expiration", str(NOW + 9**9)]]) for n in range(5)]
    with opened(tmp_path) as stand:
        stand.ingest(*events)
    for event in events:
        relay.offer(event)
    for index in random.sample(INDEXES, 3):
        damage(tmp_path, random, index, random.choice([0, 3, 10**6]), random.choice([0, 3]))
    kept = list(relay.kept().values())
    with opened(tmp_path, read_only=True) as stand:
        found = stand.verify()
    with opened(tmp_path) as stand:
        report = stand.repair()
        assert bool(report.problems) == bool(found.problems) == bool(report.repaired)
        stand.assert_sound()
        for wanted in (
            *(Filter.build(kinds=[kind]) for kind in {event.kind for event in events}),
            *(Filter.build(authors=[bytes.fromhex(event.pubkey)]) for event in events[::30]),
            *(Filter.build(tags={n: [v]}) for e in events[::10] for n, v in e.indexed_tags()),
        ):
            assert_answers(stand, kept, wanted, page=100)


# --- one wrong byte within an event: the pages pass every check ----------------------------------


def spoil(folder: Path, *contents: str) -> None:
    """Have events of those contents that are no UTF-8."""
    data = folder / "data.mdb"
    stored = data.read_bytes()
    for content in contents:
        assert content.encode() in stored
        stored = stored.replace(content.encode(), content[:-1].encode() + b"\xd1")
    data.write_bytes(stored)


@pytest.fixture
def told() -> Iterator[Sequence[LogEvent]]:
    """What is logged meanwhile."""
    with capturedLogs() as captured:
        yield captured


def errors(told: Sequence[LogEvent]) -> list[str]:
    return [str(formatEvent(event)) for event in told if event["log_level"] is LogLevel.error]


def test_a_damaged_event_that_expires_does_not_end_the_sweep(tmp_path: Path) -> None:
    spoilt, whole = (
        note(content=content, tags=[["expiration", str(NOW + 5)]])
        for content in ("spoilt-1", "whole")
    )
    stays = note(NOW - 1, content="stays")
    with opened(tmp_path) as stand:
        stand.ingest(spoilt, whole, stays)
    spoil(tmp_path, "spoilt-1")
    with opened(tmp_path) as stand:
        stand.clock.advance(5)
        assert stand.ids() == {spoilt.id_bytes, stays.id_bytes}
        assert stand.listing(EVERYTHING, 5) == [stays.id_bytes]
        assert stand.ingest(note(content="later")) == [Outcome.STORED]


def test_a_sweep_that_fails_in_any_way_keeps_nobody_waiting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> float:
        raise InvalidEvent("a test's")

    with opened(tmp_path) as stand:
        stand.ingest(note(tags=[["expiration", str(NOW + 5)]]))
        monkeypatch.setattr(LmdbShelf, "sweep", fail)
        stand.clock.advance(5)
        assert stand.ids() == set()


def test_no_event_is_refused_for_another_one_that_is_damaged(tmp_path: Path) -> None:
    profile, named = note(kind=0, content="profile-1"), note(content="named-1")
    with opened(tmp_path) as stand:
        stand.ingest(profile, named)
    spoil(tmp_path, "profile-1", "named-1")
    later = [
        note(content="innocent"),
        note(NOW + 1, kind=0, content="a newer profile"),
        note(NOW + 1, kind=5, tags=[["e", named.id]]),
    ]
    with opened(tmp_path) as stand:
        assert stand.ingest(*later) == [Outcome.STORED] * 3
        assert stand.listing(EVERYTHING, 3) == in_order(later)
        assert stand.repair().repaired
        assert stand.ids() == set(in_order(later))
        stand.assert_sound()


def test_what_a_write_raises_is_no_fault_of_the_event(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise InvalidEvent("not UTF-8")

    monkeypatch.setattr(LmdbShelf, "holder", fail)
    with opened(tmp_path) as stand, pytest.raises(StorageError) as refusal:
        stand.ingest(note(kind=0))
    assert refusal.value.answer.startswith("error: the write failed")


@pytest.mark.parametrize("read_only", [False, True])
def test_a_damaged_event_is_not_served_and_told_once(
    tmp_path: Path, told: Sequence[LogEvent], read_only: bool
) -> None:
    tags = [["t", "x"], ["p", "y"]]
    spoilt, other = note(content="spoilt-1", tags=tags), note(kind=0, content="spoilt-2")
    whole = note(NOW - 1, content="whole", tags=tags)
    with opened(tmp_path) as stand:
        stand.ingest(spoilt, whole, other)
    spoil(tmp_path, "spoilt-1", "spoilt-2")
    with opened(tmp_path, read_only) as stand:
        assert errors(told) == []
        author, ids = bytes.fromhex(ALICE.pubkey), [spoilt.id_bytes, whole.id_bytes]
        assert stand.wait(stand.events.fetch(ids)) == {whole.id_bytes: whole.encode()}
        for wanted in (
            EVERYTHING,
            Filter.build(kinds=[1]),
            Filter.build(tags={"t": ["x"], "p": ["y"]}),
            Filter.build(ids=ids),
            Filter.build(ids=ids, kinds=[1]),
        ):
            assert stand.listing(wanted, 1) == [whole.id_bytes]
        assert stand.listing(Filter.build(kinds=[0], authors=[author]), 5) == []
    (line,) = errors(told)
    fault = "event number 1 is not an event: not UTF-8"
    assert line.startswith(f"store {tmp_path} is damaged: {fault}")
    assert f"'negctl verify --repair --store lmdb:{tmp_path}'" in line


def test_an_event_under_the_id_of_another_one_is_not_served(
    tmp_path: Path, told: Sequence[LogEvent]
) -> None:
    event = note()
    with opened(tmp_path) as stand:
        stand.ingest(event)
    data = tmp_path / "data.mdb"
    head = event.id_bytes + bytes.fromhex(event.sig)
    data.write_bytes(data.read_bytes().replace(head, b"\0" + head[1:]))
    with opened(tmp_path) as stand:
        assert stand.wait(stand.events.fetch([event.id_bytes])) == {}
    assert "event number 1 is another event" in errors(told)[0]
