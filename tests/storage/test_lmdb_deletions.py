"""What is noted as deleted: verified by the deletions, and noted again where it is missing."""

from __future__ import annotations

from pathlib import Path

import pytest

from negd.interfaces import Outcome
from negd.nostr.event import Event
from negd.storage.lmdb.environment import Environment
from tests.storage.contract import ALICE, BOB, NOW, note
from tests.storage.test_lmdb import opened

GONE = note(content="gone")
ARTICLE = note(kind=30023, tags=[["d", "x"]])
ADDRESS = f"30023:{ALICE.pubkey}:x"
DELETION = note(NOW + 1, kind=5, tags=[["e", GONE.id], ["a", ADDRESS]])


def forget(folder: Path, *names: str) -> list[tuple[str, bytes, bytes]]:
    """Empty databases; what was in them."""
    environment = Environment(str(folder), read_only=False)
    found = []
    with environment.write() as txn:
        for name in names:
            database = getattr(environment.databases, name)
            found += [(name, key, value) for key, value in txn.cursor(database)]
            txn.drop(database, delete=False)
    environment.close()
    return found


def restore(folder: Path, entries: list[tuple[str, bytes, bytes]]) -> None:
    environment = Environment(str(folder), read_only=False)
    with environment.write() as txn:
        for name, key, value in entries:
            txn.put(key, value, db=getattr(environment.databases, name))
    environment.close()


def fill(folder: Path, *events: Event) -> None:
    with opened(folder) as stand:
        stand.ingest(*events)
        stand.assert_sound()


@pytest.mark.parametrize(
    "forgotten, missing",
    [
        ("deleted_ids", GONE.id_bytes),
        ("deleted_addresses", (30023).to_bytes(2, "big") + bytes.fromhex(ALICE.pubkey) + b"x"),
    ],
    ids=["id", "address"],
)
@pytest.mark.parametrize("came_back", [False, True])
def test_forgotten_deletions_are_found_and_noted_again(
    tmp_path: Path, forgotten: str, missing: bytes, came_back: bool
) -> None:
    fill(tmp_path, GONE, ARTICLE, DELETION)
    forget(tmp_path, forgotten)
    with opened(tmp_path) as stand:
        if came_back:
            assert Outcome.STORED in stand.ingest(GONE, ARTICLE)
        problem = f"event {DELETION.id}: {missing.hex()} is not in {forgotten}"
        assert stand.verify().problems == [problem]
        assert stand.repair().repaired == 1
        stand.assert_sound()
        assert stand.ingest(GONE, ARTICLE) == [Outcome.DELETED] * 2
        assert stand.ids() == {DELETION.id_bytes}


def test_what_is_deleted_and_held_is_found_and_removed(tmp_path: Path) -> None:
    fill(tmp_path, GONE, ARTICLE, DELETION)
    noted = forget(tmp_path, "deleted_ids", "deleted_addresses")
    with opened(tmp_path) as stand:
        stand.ingest(GONE, ARTICLE)
    restore(tmp_path, noted)
    with opened(tmp_path) as stand:
        problems = stand.verify().problems
        assert sorted(problems) == sorted(f"event {e.id}: is deleted" for e in (GONE, ARTICLE))
        stand.repair()
        stand.assert_sound()
        assert stand.ids() == {DELETION.id_bytes}


def test_deletions_of_what_is_not_theirs_are_sound(tmp_path: Path) -> None:
    """Older stores note none of these."""
    theirs, earlier = note(author=BOB), note(kind=5)
    vain = note(NOW + 1, kind=5, tags=[["e", theirs.id], ["e", earlier.id]])
    fill(tmp_path, theirs, earlier, vain)
    forget(tmp_path, "deleted_ids")
    with opened(tmp_path) as stand:
        stand.assert_sound()


def test_deletions_of_what_others_delete_later_are_sound(tmp_path: Path) -> None:
    theirs = note(author=BOB)
    vain = note(NOW + 1, kind=5, tags=[["e", theirs.id]])
    fill(tmp_path, theirs, vain, note(NOW + 2, kind=5, author=BOB, tags=[["e", theirs.id]]))
