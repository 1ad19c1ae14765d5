"""The LMDB storage: the promises of all storages, and those of its files, threads and limits."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from random import Random
from signal import SIGKILL
from tempfile import TemporaryDirectory
from threading import Event as Flag
from threading import Thread
from typing import Any

import lmdb
import pytest
from twisted.internet.defer import Deferred, gatherResults

from negd.errors import ConfigError, DamagedStore, StorageError
from negd.interfaces import LedgerEntry, Outcome, PeerState, Residue, Verdict
from negd.nostr.event import Event
from negd.nostr.filter import EVERYTHING, Filter
from negd.nostr.packed import pack
from negd.settings import StoreSettings
from negd.storage.lmdb import reader, store, writer
from negd.storage.lmdb.environment import Environment, Transaction
from negd.storage.lmdb.postings import posting, serial_key
from negd.storage.lmdb.rewrite import rewrite
from negd.storage.lmdb.shelf import LmdbShelf, number_key
from negd.storage.lmdb.store import LmdbStorage, open_lmdb
from negd.storage.lmdb.turns import Turns
from negd.testing.events import sample_events
from negd.testing.model import NaiveRelay
from negd.testing.threads import ThreadedClock
from tests.storage.contract import (
    ALICE,
    LIMIT,
    NOW,
    AnswersContract,
    Stand,
    StorageContract,
    assert_answers,
    in_order,
    note,
)

ROOT = Path(__file__).parents[2]


@contextmanager
def opened(
    folder: str | Path,
    read_only: bool = False,
    first_map: int = 1 << 30,
    settings: StoreSettings = StoreSettings(),
) -> Iterator[Stand]:
    clock = ThreadedClock(NOW)
    storage = clock.wait(
        LmdbStorage.open(
            str(folder), clock, read_only, settings, first_map=first_map, max_entries=LIMIT
        )
    )
    try:
        yield Stand(clock, storage)
    finally:
        clock.wait(storage.close())


def run_python(script: str, *arguments: str | Path) -> subprocess.Popen[str]:
    """A process of its own in which ``script`` runs, with pipes to and from it."""
    return subprocess.Popen(
        [sys.executable, "-c", script, *map(str, arguments)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


class InAFolder:
    @contextmanager
    def opened(self) -> Iterator[Stand]:
        with TemporaryDirectory() as folder, opened(folder) as stand:
            yield stand


class TestLmdb(InAFolder, StorageContract):
    pass


class TestLmdbWalkingLists(InAFolder, AnswersContract):
    """The same answers come from long lists, which are walked over from their newest records."""

    @pytest.fixture(autouse=True)
    def all_lists_are_long(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(reader, "_WHOLE", 2)
        monkeypatch.setattr(reader, "_SEEKS", 0)
        monkeypatch.setattr(reader, "_PATIENCE", 3)
        monkeypatch.setattr(reader, "_STEPS", 1)


class TestLmdbWalkingThroughEverything(TestLmdbWalkingLists):
    """And so do those for all or a span of time, where no record set is kept of them."""

    @pytest.fixture(autouse=True)
    def no_set_is_kept(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(store, "find", lambda sets, wanted: None)


class TestLmdbIntersectingLists(InAFolder, AnswersContract):
    """The same answers come from lists alone, without a look at the events."""

    @pytest.fixture(autouse=True)
    def looking_is_dear(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(reader, "_CHECKS", 1e9)
        monkeypatch.setattr(reader, "_STEPS", 1e9)


class TestLmdbLookingAtEvents(InAFolder, AnswersContract):
    """The same answers come from the shortest list and a look at its events."""

    @pytest.fixture(autouse=True)
    def looking_is_cheap(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(reader, "_CHECKS", -1)


# --- files --------------------------------------------------------------------------------------


def test_all_is_there_after_reopening(tmp_path: Path) -> None:
    events = list(sample_events(300, until=NOW))
    entry = LedgerEntry(Residue.OURS_REJECTED, "invalid", 1, 2.0)
    with opened(tmp_path / "store") as stand:
        stand.ingest(*events)
        stand.wait(stand.book.put("wss://a.example", PeerState(last_sync=7)))
        stand.wait(stand.book.write_ledger("wss://a.example", {bytes(32): entry}, []))
        kept = list(stand.wait(stand.events.snapshot(EVERYTHING)))
    for read_only in (False, True):
        with opened(tmp_path / "store", read_only) as stand:
            assert list(stand.wait(stand.events.snapshot(EVERYTHING))) == kept
            assert stand.listing(EVERYTHING, 77) == stand.listing(
                Filter.build(kinds=range(65536)), 300
            )
            assert stand.wait(stand.events.count(EVERYTHING)) == len(kept)
            assert stand.wait(stand.book.peers()) == {"wss://a.example": PeerState(last_sync=7)}
            assert stand.wait(stand.book.ledger("wss://a.example", [bytes(32)])) == {
                bytes(32): entry
            }
            stand.assert_sound()


@pytest.mark.parametrize("whole", [1, reader._WHOLE])
def test_what_expired_and_is_not_swept_is_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, whole: int
) -> None:
    """A reader cannot sweep; the writer that comes after it does."""
    monkeypatch.setattr(reader, "_WHOLE", whole)
    gone = note(tags=[["expiration", str(NOW + 5)], ["t", "x"]])
    stays = note(NOW - 1, tags=[["t", "x"]])
    with opened(tmp_path) as stand:
        stand.ingest(gone, stays)
    clock = ThreadedClock(NOW + 5)
    for read_only in (True, False):
        stand = Stand(clock, clock.wait(LmdbStorage.open(str(tmp_path), clock, read_only)))
        for wanted in (
            EVERYTHING,
            Filter.build(kinds=[1]),
            Filter.build(kinds=[1], limit=1),
            Filter.build(tags={"t": ["x"]}, authors=[bytes.fromhex(ALICE.pubkey)]),
            Filter.build(ids=[gone.id_bytes, stays.id_bytes]),
        ):
            assert_answers(stand, [stays], wanted, page=1)
        assert stand.wait(stand.events.known([gone.id_bytes, stays.id_bytes])) == {stays.id_bytes}
        assert stand.wait(stand.events.statistics()).events == 1
        clock.wait(stand.storage.close())


def test_expired_events_that_cannot_be_removed_are_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone, stays = note(tags=[["expiration", str(NOW + 5)]]), note(content="stays")

    def no_room(*_: object) -> float:
        raise StorageError("no room")

    with opened(tmp_path) as stand:
        stand.ingest(gone, stays)
        with monkeypatch.context() as patch:
            patch.setattr(LmdbShelf, "sweep", no_room)
            stand.clock.advance(5)
            generation = stand.events.generation
            assert_answers(stand, [stays], EVERYTHING)
            assert_answers(stand, [stays], Filter.build(kinds=[1]))
            assert stand.events.generation == generation
        stand.clock.advance(1)
        assert_answers(stand, [stays], EVERYTHING)
    with opened(tmp_path) as stand:
        assert len(stand.ids()) == 1, "the sweep was tried again"


@pytest.mark.parametrize("kinds", [3, 300])
def test_a_page_of_everything_takes_no_look_at_all_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kinds: int
) -> None:
    """Where there are no record sets: an export would look at all events for every page."""
    events = [note(NOW - n // 2, kind=1000 + n % kinds, content=str(n)) for n in range(900)]
    with opened(tmp_path) as stand:
        stand.ingest(*events)
    monkeypatch.setattr(reader, "_WHOLE", 100)
    monkeypatch.setattr(reader, "_SEEKS", 2)
    monkeypatch.delattr(reader._View, "snapshot")
    with opened(tmp_path, read_only=True) as stand:
        for wanted in (EVERYTHING, Filter(since=NOW - 300, until=NOW - 7)):
            expected = in_order(event for event in events if wanted.matches(event))
            assert stand.listing(wanted, 100) == expected


def test_read_only_takes_nothing(tmp_path: Path) -> None:
    with opened(tmp_path) as stand:
        stand.ingest(note())
    with opened(tmp_path, read_only=True) as stand:
        with pytest.raises(StorageError, match="open for reading"):
            stand.ingest(note(content="new"))
        with pytest.raises(StorageError, match="open for reading"):
            stand.wait(stand.book.put("wss://a.example", PeerState()))
        assert len(stand.ids()) == 1


def test_read_only_of_nothing_says_so(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="there is no store in"), opened(tmp_path / "x", True):
        pass
    assert not (tmp_path / "x").exists()


def test_second_writer_is_refused_and_told_who_has_it(tmp_path: Path) -> None:
    script = """
import sys
from negd.storage.lmdb.environment import Environment
environment = Environment(sys.argv[1], read_only=False)
print("open", flush=True)
sys.stdin.read()
"""
    with run_python(script, tmp_path) as first:
        assert first.stdout is not None and first.stdout.readline() == "open\n"
        with pytest.raises(StorageError, match=f"in use by process {first.pid}$"):
            Environment(str(tmp_path), read_only=False)
        first.communicate()
    with opened(tmp_path):
        pass


_OPENING_WITHOUT_ROOM = """
import resource, sys
from negd.errors import StorageError
from negd.storage.lmdb.environment import Environment

resource.setrlimit(resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))
try:
    Environment(sys.argv[1], read_only=False)
except StorageError as error:
    print(error.text)
"""


@pytest.mark.parametrize("left", ["", "1234567890\n"])
def test_a_disk_that_is_full_at_the_start_is_told_with_the_store(tmp_path: Path, left: str) -> None:
    """And what the process before it left stays for the next one to see."""
    with opened(tmp_path):
        pass
    lock = tmp_path / "negd.lock"
    lock.write_text(left)
    output, _ = run_python(_OPENING_WITHOUT_ROOM, tmp_path).communicate(timeout=60)
    assert output.startswith(f"store {tmp_path} cannot be opened: [Errno ")
    assert lock.read_text() == left
    environment = Environment(str(tmp_path), read_only=False)
    environment.close()
    assert environment.was_left == bool(left)


def test_the_same_process_cannot_open_it_twice(tmp_path: Path) -> None:
    refusal = pytest.raises(StorageError, match=f"in use by process {os.getpid()}")
    with opened(tmp_path), refusal, opened(tmp_path):
        pass


_COUNTING = """
import sys
from negd.nostr.filter import Filter
from negd.storage.lmdb.store import LmdbStorage
from negd.testing.threads import ThreadedClock
clock = ThreadedClock(1_700_000_000)
storage = clock.wait(LmdbStorage.open(sys.argv[1], clock, True, first_map=1 << 18))
for line in sys.stdin:
    print(clock.wait(storage.events.count(Filter.build(kinds=range(65536)))), flush=True)
"""


def count_of(other: subprocess.Popen[str]) -> int:
    """How many events a process sees that runs ``_COUNTING``."""
    assert other.stdin is not None and other.stdout is not None
    other.stdin.write("count\n")
    other.stdin.flush()
    return int(other.stdout.readline())


def test_readers_work_beside_the_writer(tmp_path: Path) -> None:
    """Another process reads, beyond the size of map that it opened the store with."""
    with opened(tmp_path, first_map=1 << 18) as stand, run_python(_COUNTING, tmp_path) as other:
        counts = []
        for seed in range(3):
            stand.ingest(*sample_events(400, seed, until=NOW))
            counts.append(count_of(other))
            assert counts[-1] == stand.wait(stand.events.statistics()).events
        other.communicate()
    assert counts == sorted(set(counts))


def test_map_grows_under_writers_and_readers(tmp_path: Path) -> None:
    events = list(sample_events(1500, until=NOW))
    with opened(tmp_path, first_map=1 << 16) as stand:
        writes = [stand.events.ingest(events[n : n + 50]) for n in range(0, len(events), 50)]
        reads = [stand.events.count(Filter.build(kinds=[1])) for _ in range(50)]
        work = [Deferred.fromCoroutine(coroutine) for coroutine in [*writes, *reads]]
        stand.wait(gatherResults(work))
        assert stand.wait(stand.events.statistics()).bytes > 1 << 20
        stand.assert_sound()


def test_folder_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "store").write_text("x")
    refusal = pytest.raises(
        StorageError, match=r"cannot be opened: .*/store is a file, not a folder"
    )
    with refusal, opened(tmp_path / "store"):
        pass


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        (b"", "is empty"),
        (b"not a database" * 1000, "does not begin as a database does"),
        (b"\0" * 8192, "does not begin as a database does"),
    ],
)
def test_file_that_is_no_database(tmp_path: Path, content: bytes, fault: str) -> None:
    (tmp_path / "data.mdb").write_bytes(content)
    for read_only in (False, True):
        with pytest.raises(DamagedStore, match=fault), opened(tmp_path, read_only):
            pass
    assert (tmp_path / "data.mdb").read_bytes() == content


def test_data_that_are_no_regular_file_are_refused(tmp_path: Path) -> None:
    """Nothing writes to such a pipe, and to read it would take for ever."""
    data = tmp_path / "data.mdb"
    os.mkfifo(data)
    for read_only in (False, True):
        with pytest.raises(StorageError) as refusal, opened(tmp_path, read_only):
            pass
        assert refusal.value.text == f"{data} is no regular file"
        assert not isinstance(refusal.value, DamagedStore), "there is nothing to salvage"


_BEGINNING = """
import os, sys
from signal import SIGKILL
from negd.storage.lmdb import environment

def killed(*arguments):
    os.kill(os.getpid(), SIGKILL)

setattr(*eval(sys.argv[2]), killed)
environment.Environment(sys.argv[1], read_only=False)
"""


@pytest.mark.parametrize("moment", ["environment, '_sync_path'", "os, 'rename'"])
def test_a_store_whose_making_was_killed_needs_no_hand(tmp_path: Path, moment: str) -> None:
    """Also where LMDB had made the file, and nothing was in it yet."""
    process = run_python(_BEGINNING, tmp_path, moment)
    process.communicate(timeout=60)
    assert process.returncode == -SIGKILL
    for unfinished in tmp_path.glob("new/data.mdb"):
        os.truncate(unfinished, 0)
    with opened(tmp_path) as stand:
        assert stand.ingest(note()) == [Outcome.STORED]
    assert sorted(os.listdir(tmp_path)) == ["data.mdb", "lock.mdb", "negd.lock"]


def test_file_that_was_cut_short(tmp_path: Path) -> None:
    """Reading on would kill the process."""
    with opened(tmp_path) as stand:
        stand.ingest(*sample_events(1500, until=NOW))
    data = tmp_path / "data.mdb"
    os.truncate(data, data.stat().st_size // 2)
    for read_only in (False, True):
        with pytest.raises(StorageError, match="is cut short"), opened(tmp_path, read_only):
            pass


def test_damaged_pages_are_reported_and_what_lies_on_others_is_saved(tmp_path: Path) -> None:
    with opened(tmp_path) as stand:
        stand.ingest(*sample_events(2000, until=NOW))
    data = tmp_path / "data.mdb"
    content = bytearray(data.read_bytes())
    pages = [at for at in range(0, len(content), 4096) if b'"content":"' in content[at : at + 4096]]
    for at in pages[100:110]:
        content[at : at + 4096] = bytes(4096)
    data.write_bytes(content)
    with opened(tmp_path) as stand:
        report = stand.wait(stand.events.verify(lambda read, total: None, repair=True))
        assert all("does not bear its number" in problem for problem in report.problems)
        stand.assert_sound()
        assert len(stand.ids()) > 1700


def test_database_of_another_program(tmp_path: Path) -> None:
    with lmdb.open(str(tmp_path)) as environment, environment.begin(write=True) as txn:
        txn.put(b"theirs", b"1")
    for read_only in (False, True):
        with pytest.raises(StorageError, match="not negd's"), opened(tmp_path, read_only):
            pass


def test_newer_schema_is_refused(tmp_path: Path) -> None:
    with opened(tmp_path):
        pass
    with lmdb.open(str(tmp_path), max_dbs=20) as environment:
        meta = environment.open_db(b"meta")
        with environment.begin(write=True) as txn:
            txn.put(b"schema", b"3", db=meta)
    refusal = pytest.raises(StorageError, match="is of schema 3; this negd reads schema 2")
    with refusal, opened(tmp_path):
        pass


def test_store_string_without_a_folder() -> None:
    with pytest.raises(ConfigError, match="expected lmdb:PATH"):
        ThreadedClock().wait(open_lmdb("", ThreadedClock()))


def test_closed_store_says_so(tmp_path: Path) -> None:
    with opened(tmp_path) as stand:
        pass
    with pytest.raises(StorageError, match="closed"):
        stand.ingest(note())
    with pytest.raises(StorageError, match="closed"):
        stand.ids(Filter.build(kinds=[1]))


# --- transactions -------------------------------------------------------------------------------


def test_close_finishes_what_was_handed_in(tmp_path: Path) -> None:
    events = [note(content=str(n)) for n in range(50)]
    with opened(tmp_path) as stand:
        work = [Deferred.fromCoroutine(stand.events.ingest([event])) for event in events]
    verdicts = ThreadedClock().wait(gatherResults(work))
    assert verdicts == [[Verdict(Outcome.STORED)]] * 50
    with opened(tmp_path) as stand:
        assert len(stand.ids()) == 50


def test_single_events_share_commits(tmp_path: Path) -> None:
    events = [note(content=str(n)) for n in range(500)]
    with opened(tmp_path) as stand:
        before = stand.events.generation
        work = [Deferred.fromCoroutine(stand.events.ingest([event])) for event in events]
        stand.wait(gatherResults(work))
        assert stand.events.generation - before < 100


def test_snapshots_have_all_that_was_acknowledged_while_more_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer, "_FULL", 1)
    missing: list[Event] = []

    async def write(stand: Stand, event: Event) -> None:
        await stand.events.ingest([event])
        if event.record not in await stand.events.snapshot(EVERYTHING):
            missing.append(event)

    with opened(tmp_path) as stand:
        events = [note(content=str(n)) for n in range(30)]
        stand.wait(gatherResults([Deferred.fromCoroutine(write(stand, e)) for e in events]))
    assert missing == []


def test_one_failing_write_takes_no_other_with_it(tmp_path: Path) -> None:
    with opened(tmp_path) as stand:
        good = [Deferred.fromCoroutine(stand.events.ingest([note(content=str(n))])) for n in "ab"]
        bad = stand.storage.events.write(lambda txn, changes: 1 / 0)
        more = [Deferred.fromCoroutine(stand.events.ingest([note(content=str(n))])) for n in "cd"]
        with pytest.raises(StorageError, match="the write failed"):
            stand.wait(bad)
        stand.wait(gatherResults(good + more))
        assert len(stand.ids()) == 4
        stand.assert_sound()


def test_what_waits_for_no_transaction_is_done_also_where_the_map_was_full(tmp_path: Path) -> None:
    """The transaction that met it in line is begun again with a larger map."""
    environment, clock = Environment(str(tmp_path), False, first_map=1 << 18), ThreadedClock()
    line, submitted = writer.Writer(environment, Turns(clock), lambda changes: []), Flag()

    def large(txn: Transaction, shelf: LmdbShelf) -> str:
        submitted.wait()
        shelf.ingest([note(NOW - n, content="x" * 3000) for n in range(300)], NOW)
        return "large"

    def then(txn: Transaction, shelf: LmdbShelf) -> str:
        return "after"

    results = [line.submit(large), line.submit_alone(lambda: "alone")]
    results += [line.submit_alone(lambda: "alone too"), line.submit(then)]
    stopped = Deferred.fromCoroutine(line.stop())
    submitted.set()
    clock.wait(stopped)
    environment.close()
    assert [done.result for done in results] == ["large", "alone", "alone too", "after"]


def test_others_have_their_turn_while_events_of_many_tags_are_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer, "_FULL", 50)
    tags = [["t", str(n)] for n in range(500)]
    events = [note(NOW - n, content=str(n), tags=tags) for n in range(9)]
    events += [events[0], note(NOW - 9, content="y" * 2_000_000), note(kind=0)]
    done: list[str] = []

    def note_down(result: object, name: str) -> object:
        done.append(name)
        return result

    with opened(tmp_path) as stand:
        ingested: Deferred[Any] = Deferred.fromCoroutine(stand.events.ingest(events))
        put = stand.book.put("wss://a.example", PeerState())
        listed: Deferred[Any] = Deferred.fromCoroutine(put)
        for work, name in ((ingested, "ingested"), (listed, "listed")):
            work.addCallback(note_down, name)
        verdicts: list[Verdict] = stand.wait(gatherResults([ingested, listed]))[0]
        assert done == ["listed", "ingested"]
        expected = [Outcome.STORED] * 9 + [Outcome.DUPLICATE] + [Outcome.STORED] * 2
        assert [verdict.outcome for verdict in verdicts] == expected
        stand.assert_sound()


def test_expired_events_of_many_tags_are_removed_a_few_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "_SWEEP", 50)
    tags = [["expiration", str(NOW + 5)], *(["t", str(n)] for n in range(500))]
    removed: list[int] = []
    sweep = LmdbShelf.sweep

    def counted(shelf: LmdbShelf, now: float, most: int) -> float:
        following = sweep(shelf, now, most)
        removed.append(len(shelf.changes.left))
        return following

    monkeypatch.setattr(LmdbShelf, "sweep", counted)
    with opened(tmp_path) as stand:
        stand.ingest(*(note(content=str(n), tags=tags) for n in range(5)))
        stand.clock.advance(5)
        assert stand.ids() == set()
        assert removed == [2, 2, 1]


def renew(environment: Environment) -> None:
    rewrite(environment, lambda done, total: None)


@pytest.mark.parametrize("change", [Environment.grow, renew])
def test_a_look_at_all_pages_keeps_nobody_waiting(
    change: Callable[[Environment], None], tmp_path: Path
) -> None:
    with opened(tmp_path) as stand:
        stand.ingest(*(note(NOW - n, content="x" * 3000) for n in range(100)))
    environment = Environment(str(tmp_path), False)
    changing = Thread(target=change, args=(environment,))
    paused: list[bool] = []

    def pause() -> None:
        if not paused:
            changing.start()
        changing.join(0.05)
        paused.append(changing.is_alive())

    assert environment.look(pause=pause).events == 100
    assert not paused[-1], "the change had to wait for the look's end"
    environment.close()


_ROOMLESS = """
import resource, sys
from negd.errors import StorageError
from negd.nostr.filter import EVERYTHING, Filter
from negd.nostr.packed import pack
from negd.storage.lmdb.store import LmdbStorage
from negd.testing.events import sample_events
from negd.testing.threads import ThreadedClock

clock = ThreadedClock(1_700_000_000)
storage = clock.wait(LmdbStorage.open(sys.argv[1], clock))
store, events = storage.events, list(sample_events(3000, until=1_700_000_000))
unlimited = resource.getrlimit(resource.RLIMIT_FSIZE)
resource.setrlimit(resource.RLIMIT_FSIZE, (2_000_000, unlimited[1]))
stored = 0
try:
    for start in range(0, 3000, 100):
        clock.wait(store.ingest(events[start : start + 100]))
        stored = clock.wait(store.count(EVERYTHING))
except StorageError as error:
    print("refused", error.text)
assert 0 < stored == clock.wait(store.count(EVERYTHING)), "reads go on"
assert stored == clock.wait(store.count(Filter.build(kinds=range(65536)))), "nothing is lost"
assert not clock.wait(store.verify(lambda read, total: None)).problems
resource.setrlimit(resource.RLIMIT_FSIZE, unlimited)
clock.wait(store.ingest(events))
assert clock.wait(store.count(EVERYTHING)) > stored, "writes go on when there is room"
assert not clock.wait(store.verify(lambda read, total: None)).problems
clock.wait(storage.close())
print("done")
"""


def test_full_disk_refuses_writes_and_loses_nothing(tmp_path: Path) -> None:
    """The file may not grow beyond 2 MB for a while: writing it fails as on a full disk."""
    output, _ = run_python(_ROOMLESS, tmp_path).communicate(timeout=60)
    assert "refused store" in output
    assert output.endswith("done\n"), output
    with opened(tmp_path) as stand:
        stand.assert_sound()


# --- crashes ------------------------------------------------------------------------------------

_WRITING = """
import sys
from negd.storage.lmdb.store import LmdbStorage
from negd.testing.events import sample_events
from negd.testing.threads import ThreadedClock
from twisted.internet.defer import Deferred

clock = ThreadedClock(1_700_000_000)
store = clock.wait(LmdbStorage.open(sys.argv[1], clock, first_map=1 << 20)).events

async def write(batch):
    verdicts = await store.ingest(batch)
    for event, verdict in zip(batch, verdicts):
        sys.stdout.write(f"{event.id} {verdict.outcome.value}\\n")
    sys.stdout.flush()

events = list(sample_events(4000, int(sys.argv[2]), until=1_700_000_000))
writes = [Deferred.fromCoroutine(write(events[n : n + 7])) for n in range(0, len(events), 7)]
print("started", flush=True)
for written in writes:
    clock.wait(written)
"""


@pytest.mark.parametrize("seed", range(2))
def test_killed_writer_loses_nothing_it_acknowledged(tmp_path: Path, seed: int) -> None:
    """Killed without warning while the map grows; integration/test_kill.py does it more often."""
    events = {event.id: event for event in sample_events(4000, seed, until=NOW)}
    with run_python(_WRITING, tmp_path, str(seed)) as writer:
        assert writer.stdout is not None and writer.stdout.readline() == "started\n"
        lines = [writer.stdout.readline() for _ in range(1 + 300 * seed)]
        writer.kill()
        lines += writer.stdout.readlines()
    acknowledged = [line.split() for line in lines if line.endswith("\n")]
    stored = {event_id for event_id, outcome in acknowledged if outcome == "stored"}
    assert stored
    with opened(tmp_path) as stand:
        found = {event_id.hex() for event_id in stand.ids()}
        for event_id in stored - found:  # it may only have made room for another
            assert stand.ingest(events[event_id])[0] in (Outcome.DELETED, Outcome.SUPERSEDED)
        stand.assert_sound()


def test_what_is_not_stored_does_not_get_into_the_file(tmp_path: Path) -> None:
    dice = Random(3)
    passing = [
        note(kind=20001, content=dice.randbytes(dice.randrange(300, 1500)).hex())
        for _ in range(1200)
    ]
    stored = list(sample_events(1500, 1, until=NOW))
    with opened(tmp_path) as stand:
        for turn in range(30):
            stand.ingest(*passing[40 * turn :][:40])
            stand.ingest(*stored[50 * turn :][:50])
    data = (tmp_path / "data.mdb").read_bytes()
    assert stored[-1].content.encode()[:100] in data
    assert not [event.content for event in passing if event.content[:200].encode() in data]


# --- verify -------------------------------------------------------------------------------------


def damaged(folder: Path) -> tuple[Event, Event, Event, list[str]]:
    """A store of three events in which everything is wrong in some way, and what that is."""
    profile, article = note(kind=0), note(kind=30023, tags=[["d", "x"], ["t", "y"]])
    text = note(kind=1, tags=[["expiration", str(NOW + 5)]])
    with opened(folder) as stand:
        stand.ingest(profile, article, text)
    environment = Environment(str(folder), read_only=False)
    databases, second = environment.databases, serial_key(2)
    with environment.write() as txn:
        txn.delete(b"\0\0", posting(profile.record, serial_key(1)), db=databases.kinds)
        txn.put(b"\0\7", posting(article.record, second), db=databases.kinds)
        txn.put(b"\0\1", posting(text.record, serial_key(8)), db=databases.kinds)
        later = number_key(NOW + 1)
        txn.put(b"\0\1", posting(later, serial_key(1)), db=databases.kinds)
        txn.delete(serial_key(3), db=databases.events)
        txn.put(bytes(66), second, db=databases.addresses)
        broken = pack(article).replace(b'"content":""', b'"content":"!"')
        txn.put(second, broken.replace(b'"content":"', b'"content":"!'), db=databases.events)
        txn.put(serial_key(9), b"{}", db=databases.events)
    environment.close()
    return (
        profile,
        article,
        text,
        [
            f"event {profile.id}: not in kinds under 0000",
            f"event {article.id}: id does not match the event",
            f"kinds: lists {article.id} wrongly under 0007",
            f"kinds: lists {profile.id} wrongly under 0001",
            "kinds: lists number 3 wrongly under 0001",
            "kinds: lists number 8 wrongly under 0001",
            f"ids: {text.id} is listed and not stored",
            "addresses: number 2 holds what it has no right to",
        ],
    )


def test_verify_finds_damage_both_ways(tmp_path: Path) -> None:
    _, _, text, expected = damaged(tmp_path)
    with opened(tmp_path) as stand:
        problems = stand.wait(stand.events.verify(lambda read, total: None)).problems
    assert set(expected) < set(problems)
    assert sum(text.id in problem or "number 3 " in problem for problem in problems) == 4
    assert any(problem.startswith("events: number 9 is not an event") for problem in problems)


def test_repair_leaves_a_sound_store_of_all_valid_events(tmp_path: Path) -> None:
    profile, _, _, expected = damaged(tmp_path)
    more = list(sample_events(300, until=NOW))
    with opened(tmp_path) as stand:
        stand.ingest(*more)
        stand.wait(stand.book.put("wss://a.example", PeerState(last_sync=7)))
        report = stand.wait(stand.events.verify(lambda read, total: None, repair=True))
        assert set(expected) < set(report.problems)
        assert report.repaired == len(report.problems)
        stand.assert_sound()
        kept = stand.ids()
        assert {profile.id_bytes} < kept
        assert kept == stand.ids(Filter.build(kinds=range(65536)))
        assert stand.wait(stand.book.peers()) == {"wss://a.example": PeerState(last_sync=7)}
        late = note(NOW + 1, content="after the repair")
        assert stand.ingest(late, profile) == [Outcome.STORED, Outcome.DUPLICATE]
        stand.assert_sound()
    with opened(tmp_path) as stand:
        assert stand.ids() == {*kept, late.id_bytes}
        report = stand.wait(stand.events.verify(lambda read, total: None, repair=True))
        assert (report.problems, report.repaired) == ([], 0)


def test_answers_are_right_while_a_repair_runs(tmp_path: Path) -> None:
    """Though serials change."""
    with opened(tmp_path) as stand:
        stand.ingest(*sample_events(2000, until=NOW))
    environment = Environment(str(tmp_path), read_only=False)
    with environment.write() as txn:
        txn.put(bytes(66), serial_key(2), db=environment.databases.addresses)
    environment.close()
    with opened(tmp_path) as stand:
        wanted = Filter.build(kinds=[1])
        expected = stand.ids(wanted)
        mending = Deferred.fromCoroutine(stand.events.verify(lambda read, total: None, repair=True))
        while not mending.called:
            assert stand.ids(wanted) == expected
        assert stand.wait(mending).repaired == 1
        assert stand.ids(wanted) == expected
        stand.assert_sound()


def test_read_only_repairs_nothing(tmp_path: Path) -> None:
    damaged(tmp_path)
    refusal = pytest.raises(StorageError, match="open for reading")
    with opened(tmp_path, read_only=True) as stand, refusal:
        stand.wait(stand.events.verify(lambda read, total: None, repair=True))


def test_sweep_gets_past_entries_that_are_wrong(tmp_path: Path) -> None:
    event = note()
    with opened(tmp_path) as stand:
        stand.ingest(event)
    environment = Environment(str(tmp_path), read_only=False)
    with environment.write() as txn:
        for serial in (serial_key(1), serial_key(7)):
            txn.put(
                number_key(NOW + 1), posting(event.record, serial), db=environment.databases.expiry
            )
    environment.close()
    with opened(tmp_path) as stand:
        stand.clock.advance(2)
        assert stand.ids() == {event.id_bytes}
        stand.assert_sound()


# --- compaction ---------------------------------------------------------------------------------


def test_compaction_gives_room_back(tmp_path: Path) -> None:
    events = list(sample_events(1500, until=NOW))
    with opened(tmp_path) as stand:
        for start in range(0, len(events), 50):
            stand.ingest(*events[start : start + 50])
        kept = stand.ids()
        report = stand.wait(stand.events.compact(lambda done, total: None))
        assert report.after < 0.8 * report.before
        assert report.after == (tmp_path / "data.mdb").stat().st_size
        late = note(content="after the compaction")
        assert stand.ingest(late) == [Outcome.STORED]
        assert stand.ids() == {*kept, late.id_bytes}
        stand.assert_sound()
    with opened(tmp_path) as stand:
        assert stand.ids() == {*kept, late.id_bytes}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data.mdb", "lock.mdb", "negd.lock"]


def test_compaction_beside_another_reader_harms_neither(tmp_path: Path) -> None:
    """The reader keeps the file that it opened; what is written later is in the new one."""
    events = list(sample_events(600, until=NOW))
    with opened(tmp_path) as stand, run_python(_COUNTING, tmp_path) as other:
        for start in range(0, 300, 25):
            stand.ingest(*events[start : start + 25])
        before = len(stand.ids())
        assert count_of(other) == before
        stand.wait(stand.events.compact(lambda done, total: None))
        for start in range(300, 600, 50):
            stand.ingest(*events[start : start + 50])
        assert count_of(other) == before
        with run_python(_COUNTING, tmp_path) as later:
            assert count_of(later) == len(stand.ids()) > before
            later.communicate()
        other.communicate()
        stand.assert_sound()


def test_compaction_without_room_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with opened(tmp_path) as stand:
        stand.ingest(note())
        usage = shutil.disk_usage(tmp_path)._replace(free=4096)
        monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage)
        with pytest.raises(StorageError, match=r"that may take \d+ bytes, and 4096 are free"):
            stand.wait(stand.events.compact(lambda done, total: None))
        assert stand.ingest(note(content="more")) == [Outcome.STORED]
        stand.assert_sound()


def test_read_only_compacts_nothing(tmp_path: Path) -> None:
    with opened(tmp_path):
        pass
    refusal = pytest.raises(StorageError, match="open for reading")
    with opened(tmp_path, read_only=True) as stand, refusal:
        stand.wait(stand.events.compact(lambda done, total: None))


# --- settings -----------------------------------------------------------------------------------


def test_standing_filters_are_answered_from_memory(tmp_path: Path) -> None:
    events = list(sample_events(900, authors=12, until=NOW))
    author = bytes.fromhex(events[0].pubkey)
    standing = [Filter.build(kinds=[1, 7]), Filter.build(authors=[author], tags={"t": ["nostr"]})]
    settings = StoreSettings(standing=tuple(wanted.to_json() for wanted in standing))
    relay = NaiveRelay(NOW)
    with opened(tmp_path) as stand:
        stand.ingest(*events[:500])
    with opened(tmp_path, settings=settings) as stand:
        for start in range(500, 900, 50):
            stand.ingest(*events[start : start + 50])
        for event in events:
            relay.offer(event)
        kept = list(relay.kept().values())
        for wanted in standing:
            assert stand.wait(stand.events.snapshot(wanted)) is stand.wait(
                stand.events.snapshot(wanted)
            )
            assert_answers(stand, kept, wanted, page=50)
            assert_answers(stand, kept, replace(wanted, since=NOW - 900, limit=7))
            assert_answers(stand, kept, replace(wanted, kinds=(1,)))


def test_standing_filters_forget_what_expires(tmp_path: Path) -> None:
    settings = StoreSettings(standing=({"kinds": [1]},))
    stays, goes = note(), note(tags=[["expiration", str(NOW + 5)]])
    with opened(tmp_path, settings=settings) as stand:
        stand.ingest(stays, goes, note(kind=7))
        wanted = Filter.build(kinds=[1])
        assert stand.ids(wanted) == {stays.id_bytes, goes.id_bytes}
        stand.clock.advance(5)
        assert_answers(stand, [stays], wanted)


def test_batched_commits_are_on_the_disk_a_second_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[str] = []
    monkeypatch.setattr(Environment, "sync", lambda environment: synced.append(environment.folder))
    settings = StoreSettings(durability="batched")
    with opened(tmp_path, settings=settings) as stand:
        stand.ingest(note())
        stand.ingest(note(content="more"))
        assert synced == []
        stand.clock.advance(1)
        stand.wait(stand.events.statistics())
        assert synced == [str(tmp_path)]
        stand.ingest(note(content="last"))
    assert synced == [str(tmp_path)] * 2
    with opened(tmp_path) as stand:
        assert len(stand.ids()) == 3
