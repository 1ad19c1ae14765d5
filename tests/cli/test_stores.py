"""The commands that open a store, as processes: output, exit statuses, interrupts."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from negd.nostr.signing import Signer
from negd.testing.events import sample_events
from tests.storage.test_lmdb_upgrade import first_layout

NEGCTL = [sys.executable, "-m", "negd.cli"]

UNSOUND = """
import sys
from negd.cli import stores
from negd.cli.main import main
from negd.interfaces import VerifyReport
from negd.storage import open_store

problems = [f"problem {n}" for n in range(150)]
mends = "mended" in sys.argv

async def unsound(store, reactor, read_only):
    storage = await open_store(store, reactor)
    async def verify(progress, repair):
        found = list(problems)
        if repair and not read_only and mends:
            problems.clear()
        return VerifyReport(7, found, len(found) - len(problems))
    storage.events.verify = verify
    return storage

stores.open_store = unsound
sys.exit(main(["verify", "--store", "memory:", *sys.argv[2:]]))
"""


def negctl(*argv: str, stdin: bytes | None = None) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run([*NEGCTL, *argv], input=stdin, capture_output=True, timeout=120)


@pytest.fixture
def store(tmp_path: Path) -> str:
    return f"lmdb:{tmp_path / 'store'}"


@pytest.fixture(scope="module")
def jsonl() -> bytes:
    return b"".join(event.encode() + b"\n" for event in sample_events(300))


def test_what_goes_in_comes_out(store: str, jsonl: bytes, tmp_path: Path) -> None:
    path = tmp_path / "in.jsonl"
    path.write_bytes(jsonl)
    first = negctl("import", str(path), "--store", store)
    assert (first.returncode, first.stderr) == (0, b"")
    assert first.stdout.startswith(f"imported {path}: 300 lines in ".encode())

    exported = negctl("export", "--store", store)
    assert exported.returncode == 0
    events = exported.stdout.splitlines()
    assert exported.stderr == f"exported {len(events)} events\n".encode()
    assert set(events) <= set(jsonl.splitlines())
    assert len(events) > 250

    some = negctl("export", "--store", store, "--filter", '{"kinds":[1],"limit":5}')
    assert some.stdout.splitlines() == [e for e in events if b'"kind":1,' in e][:5]

    again = negctl("import", "-", "--store", store, stdin=exported.stdout)
    assert again.returncode == 0
    assert f"duplicate   {len(events)}\n".encode() in again.stdout

    sound = negctl("verify", "--store", store)
    assert (sound.returncode, sound.stderr) == (0, b"")
    assert sound.stdout == f"verified {len(events)} events: sound\n".encode()


def test_bad_lines_are_a_failure_after_the_rest_is_stored(
    store: str, jsonl: bytes, tmp_path: Path
) -> None:
    rejects = tmp_path / "rejects"
    done = negctl(
        "import", "-", "--store", store, "--rejects", str(rejects), stdin=b"nonsense\n" + jsonl
    )
    assert done.returncode == 1
    assert done.stderr.startswith(b"negctl: line 1: not an event: ")
    assert done.stdout.startswith(b"imported standard input: 301 lines in ")
    held = len(negctl("export", "--store", store).stdout.splitlines())
    assert done.stdout.endswith(f"  invalid       1\n{store} holds {held} events now\n".encode())
    assert rejects.read_bytes().startswith(b"line 1: not an event: ")
    assert b"sound" in negctl("verify", "--store", store).stdout


def test_an_import_says_what_the_store_holds_once_lines_were_replaced(store: str) -> None:
    signer = Signer(b"\x01" * 32)
    profiles = [signer.sign(created_at=1000 + n, kind=0).encode() for n in range(3)]
    done = negctl("import", "-", "--store", store, stdin=b"\n\n".join(profiles))
    lines = done.stdout.decode().splitlines()
    assert lines[0].startswith("imported standard input: 5 lines in ")
    assert (lines[1], lines[-2]) == ("  stored      3", "  blank       2")
    assert lines[-1] == f"{store} holds 1 event now"
    assert negctl("verify", "--store", store).stdout == b"verified 1 event: sound\n"


def bad_lines(folder: Path, jsonl: bytes) -> str:
    """A file with more bad lines than buffers hold, after good ones."""
    path = folder / "bad.jsonl"
    path.write_bytes(jsonl + b"nonsense\n" * 2000)
    return str(path)


@pytest.mark.parametrize("by", ["name", "link", "stdin"])
def test_rejects_do_not_take_the_place_of_what_is_imported(
    by: str, store: str, jsonl: bytes, tmp_path: Path
) -> None:
    path, other = tmp_path / "in.jsonl", tmp_path / "link.jsonl"
    path.write_bytes(jsonl)
    os.link(path, other)
    rejects = str(other if by == "link" else path)
    source = "-" if by == "stdin" else str(path)
    argv = ["import", source, "--store", store, "--rejects", rejects]
    with path.open("rb") as file:
        done = subprocess.run([*NEGCTL, *argv], stdin=file, capture_output=True, timeout=60)
    assert (done.returncode, done.stdout) == (2, b"")
    refusal = f"negctl: --rejects {rejects} is the file that is to be imported\n"
    assert done.stderr.decode() == refusal
    assert path.read_bytes() == jsonl
    assert not (tmp_path / "store").exists()


def test_rejects_of_before_stay_where_the_store_cannot_be_opened(tmp_path: Path) -> None:
    rejects, no_store = tmp_path / "rejects", tmp_path / "file"
    rejects.write_bytes(b"of before")
    no_store.write_bytes(b"")
    argv = ("--store", f"lmdb:{no_store}", "--rejects", str(rejects))
    assert negctl("import", "-", *argv, stdin=b"nonsense\n").returncode == 1
    assert rejects.read_bytes() == b"of before"


def test_rejects_that_cannot_be_written_end_the_import(
    store: str, jsonl: bytes, tmp_path: Path
) -> None:
    path = bad_lines(tmp_path, jsonl)
    done = negctl("import", path, "--store", store, "--rejects", "/dev/full")
    assert done.returncode == 1
    assert done.stderr.endswith(b"\nnegctl: /dev/full: No space left on device\n")
    assert b"  invalid     2,000\n" in done.stdout
    assert negctl("verify", "--store", store).stdout.endswith(b" events: sound\n")


@pytest.mark.parametrize("stderr", ["/dev/full", "a closed pipe"])
def test_a_stderr_that_cannot_be_written_ends_the_import(
    stderr: str, store: str, jsonl: bytes, tmp_path: Path
) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with open(writing if stderr == "a closed pipe" else stderr, "wb") as closed:
        done = subprocess.run(
            [*NEGCTL, "import", bad_lines(tmp_path, jsonl), "--store", store],
            stdout=subprocess.PIPE,
            stderr=closed,
            timeout=60,
        )
    assert done.returncode == 1
    assert b"  invalid     2,000\n" in done.stdout
    assert negctl("verify", "--store", store).stdout.endswith(b" events: sound\n")


def test_a_file_that_is_missing_is_named_and_no_store_is_made(store: str, tmp_path: Path) -> None:
    done = negctl("import", "none.jsonl", "--store", store)
    assert (done.returncode, done.stdout) == (1, b"")
    assert done.stderr == b"negctl: none.jsonl: No such file or directory\n"
    assert not (tmp_path / "store").exists()


def test_a_store_of_an_older_layout_is_upgraded_and_says_so(store: str, tmp_path: Path) -> None:
    kept = first_layout(tmp_path / "store")
    refused = negctl("verify", "--store", store)
    assert refused.returncode == 1
    assert f"'negctl compact --store {store}' upgrades it".encode() in refused.stderr
    done = negctl("compact", "--store", store)
    assert done.returncode == 0
    first, *_, last = done.stderr.decode().splitlines()
    assert first == f"negctl: store {tmp_path / 'store'}: upgrading from schema 1 to 2"
    assert last == f"negctl: store {tmp_path / 'store'}: upgraded"
    assert (
        negctl("verify", "--store", store).stdout
        == f"verified {len(kept)} events: sound\n".encode()
    )


@pytest.mark.parametrize("command", ["export", "verify", "verify --repair", "compact"])
def test_a_store_that_is_missing_is_named_and_not_made(
    command: str, store: str, tmp_path: Path
) -> None:
    done = negctl(*command.split(), "--store", store)
    assert (done.returncode, done.stdout) == (1, b"")
    assert done.stderr.startswith(b"negctl: ")
    assert done.stderr.count(b"\n") == 1
    assert not (tmp_path / "store").exists()


@pytest.mark.parametrize(
    ("store", "said"),
    [
        ("floppy:a", b"store 'floppy:a' is none of the known kinds: "),
        ("lmdb:", b"store 'lmdb:' names no folder: "),
    ],
)
def test_a_store_string_that_cannot_be_meant_is_misuse(store: str, said: bytes) -> None:
    done = negctl("verify", "--store", store)
    assert done.returncode == 2
    assert done.stderr.startswith(b"negctl: " + said)
    assert done.stderr.count(b"\n") == 1


def unsound(*argv: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run([sys.executable, "-c", UNSOUND, *argv], capture_output=True, timeout=60)


def test_a_store_that_is_not_sound_is_a_failure() -> None:
    done = unsound("mended")
    assert done.returncode == 1
    assert done.stdout.splitlines() == [f"problem {n}".encode() for n in range(100)]
    assert done.stderr == b"negctl: 150 problems in 7 events of memory:\n"


def test_a_store_that_is_repaired_is_looked_at_once_more() -> None:
    done = unsound("mended", "--repair")
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.splitlines()[99:] == [
        b"problem 99",
        b"found 150 problems, repaired 150",
        b"verified 7 events: sound",
    ]


def test_a_store_that_stays_unsound_is_a_failure() -> None:
    done = unsound("left", "--repair")
    assert done.returncode == 1
    assert done.stdout.endswith(b"\nfound 150 problems, repaired 0\n")
    assert done.stderr == b"negctl: 150 problems in 7 events of memory:\n"


def test_repair_and_compact_leave_a_sound_store_as_it_is(store: str, jsonl: bytes) -> None:
    negctl("import", "-", "--store", store, stdin=jsonl)
    before = negctl("export", "--store", store).stdout
    sound = negctl("verify", "--repair", "--store", store)
    assert (sound.returncode, sound.stderr) == (0, b"")
    assert sound.stdout == negctl("verify", "--store", store).stdout
    assert negctl("compact", "--store", store).returncode == 0
    again = negctl("compact", "--store", store)
    assert (again.returncode, again.stderr) == (0, b"")
    assert again.stdout == f"{store} has nothing to give back\n".encode()
    assert negctl("export", "--store", store).stdout == before


def test_a_reader_that_goes_away_ends_the_export_quietly(store: str, jsonl: bytes) -> None:
    negctl("import", "-", "--store", store, stdin=jsonl)
    process = subprocess.Popen(
        [*NEGCTL, "export", "--store", store], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    assert process.stderr.read() == b""
    assert process.wait(60) == 1
    process.stderr.close()


@pytest.mark.parametrize(
    ("command", "status", "out", "err"),
    [
        ("import - <&-", 1, "", "negctl: standard input is closed\n"),
        ("export >&-", 1, "", "negctl: standard output is closed\n"),
        ("verify >&-", 1, "", "negctl: standard output is closed\n"),
        ("verify 2>&-", 0, "verified 1 event: sound\n", ""),
        ("verify <&- 2>&-", 0, "verified 1 event: sound\n", ""),
        ("verify >&- 2>&-", 1, "", ""),
    ],
)
def test_closed_descriptors(store: str, command: str, status: int, out: str, err: str) -> None:
    negctl("import", "-", "--store", store, stdin=next(sample_events(1)).encode())
    line = f"{shlex.join(NEGCTL)} {command} --store {shlex.quote(store)}"
    done = subprocess.run(["sh", "-c", line], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (status, out, err)


def test_an_import_into_memory_says_that_nothing_is_kept(jsonl: bytes) -> None:
    done = negctl("import", "-", "--store", "memory:", stdin=jsonl)
    assert done.returncode == 0
    assert done.stderr == b"negctl: store memory: keeps nothing; the events are only checked\n"
    assert b"holds" not in done.stdout


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_import_keeps_what_it_took(
    number: signal.Signals, store: str, jsonl: bytes
) -> None:
    """Lines come through a pipe that stays open, so the import waits when the signal comes.

    As from a terminal, every process of the group gets it.
    """
    lines = jsonl.splitlines(keepends=True) * 10
    process = subprocess.Popen(
        [*NEGCTL, "import", "-", "--store", store, "--rejects", "/dev/stderr"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    assert process.stdin is not None
    assert process.stderr is not None
    process.stdin.write(b"".join(lines) + b"nonsense\n" * 1000)
    process.stdin.flush()
    assert process.stderr.readline().startswith(b"negctl: line 3001: ")
    os.killpg(process.pid, number)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert err.endswith(b"negctl: interrupted\n")
    assert b"Traceback" not in err
    assert out.startswith(b"imported standard input: ")
    verified = negctl("verify", "--store", store)
    assert b"sound" in verified.stdout, verified
