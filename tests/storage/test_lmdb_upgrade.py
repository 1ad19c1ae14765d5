"""Stores of the first layout: upgraded as they are opened for writing, or left as they were."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import lmdb
import pytest
from twisted.logger import capturedLogs, formatEvent

from negd.errors import StorageError
from negd.interfaces import LedgerEntry, Outcome, PeerState, Residue
from negd.nostr.event import Event
from negd.nostr.filter import Filter
from negd.nostr.packed import unpack
from negd.storage.lmdb import rewrite, store
from negd.storage.lmdb.environment import Environment
from negd.testing.events import sample_events
from tests.storage.contract import ALICE, NOW, Stand, assert_answers, note
from tests.storage.test_lmdb import opened, run_python

URL = "wss://a.example"
ENTRY = LedgerEntry(Residue.OURS_REJECTED, "invalid", 1, 2.0)
OLD_LISTS = ("kinds", "authors", "tags", "expiry")
COPIED = ("deleted_ids", "deleted_addresses", "peers", "residues", "ledger", "ledger_due")
DELETED = note(content="gone", author=ALICE)


def first_layout(folder: Path) -> list[Event]:
    """A store of schema 1 with some of everything in it; the events that it holds.

    Posting lists are left empty: an upgrade has no use for them.
    """
    events = list(sample_events(700, until=NOW))
    events.append(note(kind=5, tags=[["e", DELETED.id]]))
    with opened(folder.with_name("later")) as stand:
        stand.ingest(*events)
        stand.wait(stand.book.put(URL, PeerState(last_sync=7)))
        stand.wait(stand.book.write_ledger(URL, {bytes(32): ENTRY}, []))
        held = stand.ids()
    kept = [event for event in events if event.id_bytes in held]
    source = lmdb.open(str(folder.with_name("later")), max_dbs=20)
    folder.mkdir()
    target = lmdb.open(str(folder), max_dbs=20, map_size=1 << 28)
    stored = source.open_db(b"events")
    others = {name: source.open_db(name.encode()) for name in COPIED}
    with source.begin() as old, target.begin(write=True) as txn:
        for name in OLD_LISTS:
            target.open_db(name.encode(), txn, dupsort=True, dupfixed=True)
        for name in COPIED:
            database = target.open_db(name.encode(), txn)
            for key, value in old.cursor(others[name]):
                txn.put(key, value, db=database)
        put_events(target, txn, [value for _, value in old.cursor(stored)])
        txn.put(b"schema", b"1", db=target.open_db(b"meta", txn))
    target.close()
    source.close()
    return kept


def put_events(target: lmdb.Environment, txn: lmdb.Transaction[bytes], packed: list[bytes]) -> None:
    databases = {
        name: target.open_db(name.encode(), txn) for name in ("events", "ids", "addresses")
    }
    for number, value in enumerate(packed, 1):
        serial = (number * 3).to_bytes(8, "big")
        txn.put(serial, unpack(value), db=databases["events"])
        txn.put(value[:32], serial, db=databases["ids"])


def assert_all_there(stand: Stand, kept: list[Event]) -> None:
    assert stand.ids() == {event.id_bytes for event in kept}
    for wanted in (Filter.build(kinds=[1]), Filter.build(tags={"t": ["nostr"]})):
        assert_answers(stand, kept, wanted, page=100)
    assert stand.wait(stand.book.peers()) == {URL: PeerState(last_sync=7)}
    assert stand.wait(stand.book.ledger(URL, [bytes(32)])) == {bytes(32): ENTRY}
    assert stand.ingest(DELETED, kept[0]) == [Outcome.DELETED, Outcome.DUPLICATE]
    stand.assert_sound()


def test_all_is_there_after_an_upgrade(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = first_layout(tmp_path / "store")
    monkeypatch.setattr(rewrite, "_PIECE", 120)  # of serials, of which every third is there
    monkeypatch.setattr(rewrite, "_AT_ONCE", 0)
    monkeypatch.setattr(store, "_TOLD", 90)
    with capturedLogs() as told, opened(tmp_path / "store") as stand:
        assert_all_there(stand, kept)
    lines = [formatEvent(event) or "" for event in told]
    assert any("upgrading from schema 1 to 2" in line for line in lines)
    progress = [line for line in lines if f" of {len(kept)} events" in line]
    assert len(progress) == (len(kept) - 1) // 120
    with opened(tmp_path / "store", read_only=True) as stand:
        assert stand.ids() == {event.id_bytes for event in kept}


@pytest.mark.parametrize(("at_once", "transactions"), [(1 << 30, 1), (1 << 20, 10 // 3 + 1)])
def test_large_events_are_written_a_few_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at_once: int, transactions: int
) -> None:
    """Memory has to hold what is read, decoded and written together, and all of a transaction."""
    monkeypatch.setattr(rewrite, "_PIECE_BYTES", 500_000)
    monkeypatch.setattr(rewrite, "_AT_ONCE_BYTES", at_once)
    events = [note(NOW - n, content=f"{n} " + "x" * 200_000) for n in range(10)]
    read: list[int] = []
    pieces = rewrite._read

    def counted(*arguments: Any) -> list[tuple[bytes, bytes]]:
        found = pieces(*arguments)
        read.append(len(found))
        return found

    monkeypatch.setattr(rewrite, "_read", counted)
    with opened(tmp_path) as stand:
        stand.ingest(*events)
    environment = Environment(str(tmp_path), read_only=False)
    told: list[int] = []
    rewrite.rewrite(environment, lambda done, total: told.append(done))
    assert told == [3, 6, 9, 10]
    assert read == [3, 3, 3, 1, 0]
    assert environment.last_transaction == 1 + transactions, "the first makes the databases"
    environment.close()


def test_read_only_says_what_upgrades_it(tmp_path: Path) -> None:
    folder = tmp_path / "store"
    first_layout(folder)
    before = (folder / "data.mdb").read_bytes()
    with pytest.raises(StorageError) as raised, opened(folder, read_only=True):
        pass
    assert f"'negctl compact --store lmdb:{folder}' upgrades it" in raised.value.text
    assert (folder / "data.mdb").read_bytes() == before


_UPGRADING = """
import sys
from negd.storage.lmdb import rewrite, store
from negd.testing.threads import ThreadedClock

def tell(done, total):
    print(done, flush=True)
    if done >= int(sys.argv[2]):
        sys.stdin.read()

rewrite._PIECE = 100
rewrite._AT_ONCE = 0
store._upgrade_log = lambda name: tell
clock = ThreadedClock(1_700_000_000)
clock.wait(store.LmdbStorage.open(sys.argv[1], clock))
"""


@pytest.mark.parametrize("done", [1, 600])
def test_killed_upgrade_harms_nothing_and_is_done_by_the_next(tmp_path: Path, done: int) -> None:
    kept = first_layout(tmp_path / "store")
    with run_python(_UPGRADING, tmp_path / "store", str(done)) as upgrading:
        assert upgrading.stdout is not None
        while int(upgrading.stdout.readline()) < done:
            pass
        upgrading.kill()
    with opened(tmp_path / "store") as stand:
        assert_all_there(stand, kept)
    assert not (tmp_path / "store" / "new").exists()


def test_upgrade_that_fails_at_the_last_leaves_the_old_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rename = os.rename

    def fail(old: str, new: str) -> None:
        if Path(new).parent == tmp_path / "store":
            raise OSError(5, "Input/output error")
        rename(old, new)

    kept = first_layout(tmp_path / "store")
    with monkeypatch.context() as patch:
        patch.setattr(os, "rename", fail)
        refusal = pytest.raises(StorageError, match=r"cannot be made anew: .*Input/output")
        with refusal, opened(tmp_path / "store"):
            pass
    with opened(tmp_path / "store") as stand:
        assert_all_there(stand, kept)


def test_upgrade_without_room_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = first_layout(tmp_path / "store")
    usage = shutil.disk_usage(tmp_path)._replace(free=4096)
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda folder: usage)
        refusal = pytest.raises(StorageError, match="and 4096 are free")
        with refusal, opened(tmp_path / "store"):
            pass
    with opened(tmp_path / "store") as stand:
        assert_all_there(stand, kept)
