"""What root makes in a store that is somebody else's is that one's, who is to open it later."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from negd.nostr.signing import Signer
from negd.storage.lmdb.ownership import give_away

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")

OTHER = 65534
alice = Signer(b"\x01" * 32)


@pytest.fixture
def theirs(tmp_path: Path) -> Path:
    """A folder of somebody else's, and a file of events in it."""
    folder = tmp_path / "theirs"
    folder.mkdir()
    lines = [alice.sign(created_at=1000 + n).encode() for n in range(20)]
    (folder / "events.jsonl").write_bytes(b"\n".join(lines))
    os.chown(folder, OTHER, OTHER)
    return folder


def negctl(*arguments: str | Path) -> None:
    """Run as root, whose files these would be."""
    subprocess.run([sys.executable, "-m", "negd.cli", *map(str, arguments)], check=True)


def owners(folder: Path) -> set[int]:
    return {path.stat().st_uid for path in (folder, *folder.rglob("*"))}


def test_a_store_that_root_makes_repairs_and_compacts(theirs: Path) -> None:
    store = theirs / "var" / "store"
    negctl("import", theirs / "events.jsonl", "--store", f"lmdb:{store}")
    assert owners(theirs / "var") == {OTHER}
    (store / "data.mdb").chmod(0o600)
    for command in (["compact"], ["verify"], ["verify", "--repair"]):
        negctl(*command, "--store", f"lmdb:{store}")
        assert owners(theirs / "var") == {OTHER}
    assert (store / "data.mdb").stat().st_mode & 0o777 == 0o600
    damaged = bytearray((store / "data.mdb").read_bytes())
    damaged[2 * 4096 : 5 * 4096] = bytes(3 * 4096)
    (store / "data.mdb").write_bytes(damaged)
    negctl("verify", "--repair", "--store", f"lmdb:{store}")
    assert list(store.glob("damaged-*.mdb"))
    assert owners(theirs / "var") == {OTHER}


def test_what_lies_elsewhere_and_what_others_made_is_not_given_away(
    theirs: Path, tmp_path: Path
) -> None:
    secret = tmp_path / "secret"
    secret.write_text("")
    (theirs / "soft").symlink_to(secret)
    (theirs / "hard").hardlink_to(secret)
    own = theirs / "own"
    own.write_text("")
    os.chown(own, 1, 1)
    for path in (theirs / "soft", theirs / "hard", own, theirs / "missing", secret):
        give_away(str(path))
    assert (secret.stat().st_uid, (theirs / "soft").lstat().st_uid) == (0, 0)
    assert own.stat().st_uid == 1
