"""A store whose pages are damaged: negd says so, LMDB ends no process, what is whole is saved."""

from __future__ import annotations

import os
import shutil
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from random import Random

import lmdb
import pytest
from twisted.logger import capturedLogs, formatEvent

from negd.errors import DamagedStore, StorageError
from negd.interfaces import LedgerEntry, Outcome, PeerState, Residue
from negd.nostr.event import Event
from negd.nostr.packed import pack
from negd.settings import StoreSettings
from negd.storage.lmdb import pace
from negd.storage.lmdb.environment import Environment
from negd.storage.lmdb.store import LmdbStorage, salvage_lmdb
from negd.testing.events import sample_events
from negd.testing.threads import ThreadedClock
from tests.storage.contract import ALICE, NOW, Stand, note
from tests.storage.test_lmdb import opened, run_python
from tests.storage.test_lmdb_upgrade import first_layout

NEGCTL = [sys.executable, "-m", "negd.cli"]
PAGE = 4096
URL = "wss://a.example"
ENTRIES = {bytes([n]) * 32: LedgerEntry(Residue.OURS_REJECTED, "invalid", 1, 2.0) for n in range(9)}
EVENTS = 1500
LARGE = [note(NOW - n, content=f"{n}" * 20_000, tags=[["t", '[","']]) for n in range(4)]
DELETED = note(content="gone", author=ALICE)
DELETION = note(kind=5, tags=[["e", DELETED.id]])

Damage = Callable[[bytearray, Random], set[int]]
"""Does something to a file; returns the numbers of the pages it was done to."""


def events_of(seed: int) -> list[Event]:
    return [*sample_events(EVENTS, seed, until=NOW), *LARGE, DELETED, DELETION]


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with some of everything in it, written a little at a time."""
    folder = tmp_path_factory.mktemp("sound") / "store"
    events = events_of(1)
    with opened(folder) as stand:
        stand.wait(stand.book.put(URL, PeerState(last_sync=7)))
        stand.wait(stand.book.write_ledger(URL, ENTRIES, []))
        for begin in range(0, len(events), 50):
            stand.ingest(*events[begin : begin + 50])
    return folder


@pytest.fixture
def folder(sound: Path, tmp_path: Path) -> Path:
    shutil.copytree(sound, tmp_path / "store")
    return tmp_path / "store"


def flags_of(content: bytearray, page: int) -> int:
    flags: int = struct.unpack_from("=10xH", content, page * PAGE)[0]
    return flags


def overwrite(content: bytearray, pages: list[int], random: Random) -> set[int]:
    for page in pages:
        data = random.choice([bytes(PAGE), random.randbytes(PAGE)])
        content[page * PAGE : (page + 1) * PAGE] = data
    return set(pages)


def some_pages(content: bytearray, random: Random) -> set[int]:
    return overwrite(content, random.sample(range(len(content) // PAGE), 5), random)


def a_meta_page(content: bytearray, random: Random) -> set[int]:
    return overwrite(content, [random.randrange(2)], random) | some_pages(content, random)


def both_meta_pages(content: bytearray, random: Random) -> set[int]:
    return overwrite(content, [0, 1], random) | some_pages(content, random)


def branch_pages(content: bytearray, random: Random) -> set[int]:
    branches = [n for n in range(2, len(content) // PAGE) if flags_of(content, n) == 1]
    return overwrite(content, random.sample(branches, len(branches) // 2), random)


def all_but_the_heads(content: bytearray, random: Random) -> set[int]:
    pages = random.sample(range(2, len(content) // PAGE), 20)
    for page in pages:
        content[page * PAGE + 16 : (page + 1) * PAGE] = random.randbytes(PAGE - 16)
    return set(pages)


def single_bytes(content: bytearray, random: Random) -> set[int]:
    places = [random.randrange(len(content)) for _ in range(200)]
    for place in places:
        content[place] = random.randrange(256)
    return {place // PAGE for place in places}


def the_end(content: bytearray, random: Random) -> set[int]:
    cut, last = random.randrange(len(content)), len(content) // PAGE
    del content[cut:]
    return set(range(cut // PAGE, last))


def damage(folder: Path, how: Damage, seed: int) -> bytes:
    """Do it to a store; what is left of its file, with damaged pages blank."""
    path, random = folder / "data.mdb", Random(seed)
    content = bytearray(path.read_bytes())
    damaged = how(content, random)
    path.write_bytes(content)
    for page in damaged:
        content[page * PAGE : (page + 1) * PAGE] = bytes(len(content[page * PAGE :][:PAGE]))
    return bytes(content)


def salvaged(folder: Path) -> list[str]:
    clock = ThreadedClock(NOW)
    return clock.wait(salvage_lmdb(str(folder), clock, lambda done, total: None))


def look(folder: Path) -> bool:
    """Whether a look at a store, for reading only, finds it damaged."""
    try:
        with opened(folder, read_only=True) as stand:
            return bool(stand.verify().problems)
    except DamagedStore as error:
        assert f"'negctl verify --repair --store lmdb:{folder}' saves what is left" in error.text
        return True


def repair(folder: Path) -> list[str]:
    """As ``negctl verify --repair`` does it; what is told of it."""
    try:
        with opened(folder) as stand:
            return stand.repair().notes
    except DamagedStore:
        return salvaged(folder)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    "how",
    [
        some_pages,
        a_meta_page,
        both_meta_pages,
        branch_pages,
        all_but_the_heads,
        single_bytes,
        the_end,
    ],
)
def test_what_lies_whole_on_some_page_is_saved(folder: Path, how: Damage, seed: int) -> None:
    events = events_of(1)
    with opened(folder, read_only=True) as stand:
        held = stand.ids()
    left = damage(folder, how, seed)
    expected = {e.id_bytes for e in events if e.id_bytes in held and pack(e) in left}
    found_damaged = look(folder)
    repair(folder)
    with opened(folder) as stand:
        stand.assert_sound()
        saved = stand.ids()
        assert expected <= saved <= {event.id_bytes for event in events}
        assert found_damaged or saved == held
        if DELETION.id_bytes in saved:
            assert DELETED.id_bytes not in saved
            assert stand.ingest(DELETED) == [Outcome.DELETED]
        late = note(NOW, content="after the repair")
        assert stand.ingest(late) == [Outcome.STORED]
    assert not look(folder)


def test_what_is_lost_is_told_and_the_damaged_file_is_kept(folder: Path) -> None:
    left = damage(folder, lambda content, random: overwrite(content, [0, 1], random), 0)
    saved, *lost, kept = salvaged(folder)
    with opened(folder, read_only=True) as stand:
        assert saved == f"saved {len(stand.ids()):,} events"
        assert stand.wait(stand.book.peers()) == {}
    assert [line.split(" ")[0] for line in lost] == ["some", "0", "the"]
    assert kept == f"the damaged file is kept as {folder / 'damaged-1.mdb'}"
    assert (folder / "damaged-1.mdb").read_bytes()[2 * PAGE :] == left[2 * PAGE :]
    damage(folder, lambda content, random: overwrite(content, [0, 1], random), 0)
    assert salvaged(folder)[-1].endswith("damaged-2.mdb")


def test_peers_and_ledgers_are_saved_where_a_tree_leads_to_them(folder: Path) -> None:
    damage(folder, lambda content, random: overwrite(content, [random.randrange(2)], random), 0)
    saved, *lost, _ = salvaged(folder)
    assert saved.startswith("saved 1,")
    assert lost == []
    with opened(folder) as stand:
        assert stand.wait(stand.book.peers()) == {URL: PeerState(last_sync=7)}
        assert stand.wait(stand.book.ledger(URL, list(ENTRIES))) == ENTRIES
        assert stand.wait(stand.book.residues(URL)) == {Residue.OURS_REJECTED: len(ENTRIES)}


def test_deletions_are_kept_where_nothing_leads_to_them(tmp_path: Path) -> None:
    """Not even the event that asked for one is needed, nor its order."""
    profile = note(kind=30_000, tags=[["d", "x"]])
    asked = note(NOW + 1, kind=5, tags=[["a", f"30000:{profile.pubkey}:x"], ["e", DELETED.id]])
    with opened(tmp_path) as stand:
        stand.ingest(*sample_events(300, until=NOW), DELETED, profile, asked)

    def without_it(content: bytearray, random: Random) -> set[int]:
        place = content.index(pack(asked)[:96])
        while place >= 0:
            content[place : place + 96] = bytes(96)
            place = content.find(pack(asked)[:96])
        return overwrite(content, [0, 1], random)

    damage(tmp_path, without_it, 0)
    salvaged(tmp_path)
    with opened(tmp_path) as stand:
        assert asked.id_bytes not in stand.ids()
        assert stand.ingest(DELETED, profile) == [Outcome.DELETED, Outcome.DELETED]


def test_a_store_of_the_first_layout_is_salvaged_too(tmp_path: Path) -> None:
    kept = first_layout(tmp_path / "store")
    damage(tmp_path / "store", branch_pages, 0)
    damage(tmp_path / "store", both_meta_pages, 0)
    with pytest.raises(DamagedStore), opened(tmp_path / "store"):
        pass
    salvaged(tmp_path / "store")
    with opened(tmp_path / "store") as stand:
        stand.assert_sound()
        assert len(stand.ids() & {event.id_bytes for event in kept}) > 0.9 * len(kept)


def test_an_upgrade_does_not_read_damaged_pages(tmp_path: Path) -> None:
    first_layout(tmp_path / "store")

    def events_leaf(content: bytearray, random: Random) -> set[int]:
        pages = range(2, len(content) // PAGE)
        leaf = next(n for n in pages if b'"content":' in content[n * PAGE : (n + 1) * PAGE])
        return overwrite(content, [leaf], random)

    damage(tmp_path / "store", events_leaf, 0)
    refusal = pytest.raises(DamagedStore, match="of events")
    with refusal, opened(tmp_path / "store"):
        pass


@pytest.mark.parametrize("content", [b"", b"not a database" * 1000, bytes(8 * PAGE)])
def test_nothing_takes_the_place_of_what_is_not_ours(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "data.mdb"
    path.write_bytes(content)
    with pytest.raises(StorageError, match=f"or remove {tmp_path} to begin anew"):
        salvaged(tmp_path)
    assert path.read_bytes() == content
    assert not (tmp_path / "new").exists()


def test_a_newer_schema_is_not_salvaged(folder: Path) -> None:
    with lmdb.open(str(folder), max_dbs=20) as environment:
        meta = environment.open_db(b"meta")
        with environment.begin(write=True) as txn:
            txn.put(b"schema", b"3", db=meta)
    with pytest.raises(StorageError, match="of schema 3; this negd reads schema 2"):
        salvaged(folder)


def test_salvage_without_room_leaves_all_as_it_is(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    damage(folder, both_meta_pages, 0)
    before = (folder / "data.mdb").read_bytes()
    usage = shutil.disk_usage(folder)._replace(free=PAGE)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage)
    with pytest.raises(StorageError, match="and 4096 are free"):
        salvaged(folder)
    assert (folder / "data.mdb").read_bytes() == before
    assert sorted(os.listdir(folder)) == ["data.mdb", "lock.mdb", "negd.lock"]


def test_compaction_does_not_read_damaged_pages(folder: Path) -> None:
    damage(folder, all_but_the_heads, 5)
    before = (folder / "data.mdb").read_bytes()
    with pytest.raises(DamagedStore), opened(folder) as stand:
        stand.wait(stand.events.compact(lambda done, total: None))
    assert (folder / "data.mdb").read_bytes() == before


def test_sound_files_have_no_faults_however_they_were_written(tmp_path: Path) -> None:
    with opened(tmp_path) as stand:
        for seed in range(6):
            events = list(sample_events(200, seed, until=NOW))
            stand.ingest(*events)
            for event in events[::3]:
                stand.ingest(note(kind=5, tags=[["e", event.id]]))
            stand.ingest(*LARGE)
    environment = Environment(str(tmp_path), read_only=True)
    try:
        state = environment.look()
    finally:
        environment.close()
    assert state.faults == []
    assert state.events == state.trees["events"].entries > 0


_VERIFYING = """
import sys
from negd.storage.lmdb.store import LmdbStorage
from negd.testing.threads import ThreadedClock

clock = ThreadedClock(1_700_000_000)
store = clock.wait(LmdbStorage.open(sys.argv[1], clock, read_only=True)).events
for line in sys.stdin:
    print(clock.wait(store.verify(lambda read, total: None)).problems, flush=True)
"""


def test_who_reads_on_in_a_file_that_was_replaced_finds_no_damage(folder: Path) -> None:
    with run_python(_VERIFYING, folder) as other:
        assert other.stdin is not None
        assert other.stdout is not None
        for compacted in (False, True):
            if compacted:
                with opened(folder) as stand:
                    report = stand.wait(stand.events.compact(lambda done, total: None))
                    assert report.after < report.before
            other.stdin.write("verify\n")
            other.stdin.flush()
            assert other.stdout.readline() == "[]\n"
        other.communicate()


# --- negctl -------------------------------------------------------------------------------------


def negctl(*argv: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*NEGCTL, *argv], capture_output=True, timeout=120, text=True)


@pytest.mark.parametrize("how", [all_but_the_heads, both_meta_pages])
def test_negctl_says_that_a_store_is_damaged_and_mends_it(folder: Path, how: Damage) -> None:
    store = f"lmdb:{folder}"
    damage(folder, how, 1)
    found = negctl("verify", "--store", store)
    assert found.returncode == 1
    assert found.stderr.startswith("negctl: ")
    mended = negctl("verify", "--repair", "--store", store)
    assert (mended.returncode, mended.stderr) == (0, "")
    assert "\nsaved 1," in mended.stdout
    assert f"\nthe damaged file is kept as {folder / 'damaged-1.mdb'}\n" in mended.stdout
    assert mended.stdout.endswith(" events: sound\n")
    assert negctl("verify", "--store", store).returncode == 0


@pytest.mark.parametrize("command", ["export", "compact", "verify"])
def test_what_cannot_be_opened_is_one_line(folder: Path, command: str) -> None:
    damage(folder, branch_pages, 0)
    done = negctl(command, "--store", f"lmdb:{folder}")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(f"negctl: store {folder} is damaged: page ")
    assert done.stderr.endswith(
        f"; 'negctl verify --repair --store lmdb:{folder}' saves what is left\n"
    )
    assert done.stderr.count("\n") == 1


# --- a daemon -----------------------------------------------------------------------------------


def lists_of_authors(content: bytearray, random: Random) -> set[int]:
    """Leaf pages with public keys as keys: nothing that opening a store has to read."""
    pages = range(2, len(content) // PAGE)
    leaves = [n for n in pages if flags_of(content, n) == 2 and key_size(content, n) == 32]
    return overwrite(content, leaves, random)


def key_size(content: bytearray, page: int) -> int:
    (begin,) = struct.unpack_from("=16xH", content, page * PAGE)
    size: int = struct.unpack_from("=6xH", content, page * PAGE + begin)[0]
    return size


def wait_for_look_through(stand: Stand) -> None:
    assert isinstance(stand.storage, LmdbStorage)
    stand.clock.wait(stand.storage.looked_through)


def test_after_a_crash_all_pages_are_looked_at_and_damage_is_logged(folder: Path) -> None:
    damage(folder, lists_of_authors, 0)
    for left, expected in ((b"", 0), (b"4711\n", 1)):
        (folder / "negd.lock").write_bytes(left)
        with capturedLogs() as told, opened(folder) as stand:
            wait_for_look_through(stand)
        lines = [formatEvent(event) or "" for event in told]
        assert [f"store {folder} is damaged: page " in line for line in lines] == [True] * expected
        assert (folder / "negd.lock").read_bytes().strip() == b""


def test_a_look_through_that_a_stop_cuts_short_is_made_at_the_next_start(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    damage(folder, lists_of_authors, 0)
    (folder / "negd.lock").write_bytes(b"4711\n")
    monkeypatch.setattr(pace, "_WORK", 0)
    monkeypatch.setattr(pace, "_REST", 60)
    with capturedLogs() as told, opened(folder):
        pass
    assert told == []
    monkeypatch.undo()
    with capturedLogs() as told, opened(folder) as stand:
        wait_for_look_through(stand)
    assert [" is damaged: page " in (formatEvent(event) or "") for event in told] == [True]


def test_standing_filters_are_not_read_from_damaged_pages(folder: Path) -> None:
    damage(folder, lists_of_authors, 0)
    settings = StoreSettings(standing=({"authors": ["ab" * 32]},))
    with pytest.raises(DamagedStore, match="of authors"), opened(folder, settings=settings):
        pass


def test_what_is_noted_of_peers_and_cannot_be_read_is_found_and_left_out(folder: Path) -> None:
    with lmdb.open(str(folder), max_dbs=20) as environment:
        for name in ("peers", "residues", "ledger"):
            database = environment.open_db(name.encode(), create=False)
            with environment.begin(write=True) as txn:
                txn.put(b"k" * (48 if name == "ledger" else 16), b'{"url":\xff', db=database)
    with opened(folder) as stand:
        assert [problem.split(":")[0] for problem in stand.repair().problems] == [
            "peers",
            "residues",
            "ledger",
        ]
        stand.assert_sound()
        assert stand.wait(stand.book.peers()) == {URL: PeerState(last_sync=7)}
        assert stand.wait(stand.book.ledger(URL, list(ENTRIES))) == ENTRIES
