"""Disks, maps and memories that are full: writes are refused, reads go on, nothing is damaged."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from negd.errors import StorageError
from negd.interfaces import Outcome
from negd.nostr.event import Event
from negd.nostr.filter import EVERYTHING, Filter
from negd.storage import open_store
from negd.storage.lmdb.environment import Environment
from negd.testing.processes import DaemonProcess
from negd.testing.redis_server import OwnReactor, RedisServer
from tests.storage.clients import Client, connected
from tests.storage.contract import NOW, note
from tests.storage.redis_nodes import needs_server, opened

ROOT = Path(__file__).parents[2]

_SMALL = 6 << 20
"""Bytes of a small disk; most of them are taken by a file that can be removed."""

_MOUNT = """
mount -t tmpfs -o size="$0" tmpfs "$1" && head -c "$2" /dev/zero > "$1/ballast" && echo mounted
exec cat
"""


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of its own, nearly full, in a namespace of its own: it goes with the process."""
    place = tmp_path / "disk"
    place.mkdir()
    command = ["unshare", "-rm", "sh", "-c", _MOUNT, str(_SMALL), str(place), str(_SMALL * 3 // 4)]
    try:
        holder = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
    except FileNotFoundError:
        pytest.skip("there is no unshare, which would make a small disk")
    with holder:
        assert holder.stdin is not None and holder.stdout is not None
        if holder.stdout.readline() != b"mounted\n":
            pytest.skip("this machine lets us mount no small disk")
        yield Path(f"/proc/{holder.pid}/root{place}")
        holder.stdin.close()


def filling(count: int = 400) -> list[Event]:
    """More events than a small disk holds."""
    return [note(NOW - n, content=f"{n} " + "x" * 40_000) for n in range(count)]


def assert_sound(store: str, reactor: OwnReactor) -> None:
    storage = reactor.wait(open_store(store, reactor, read_only=True))
    report = reactor.wait(storage.events.verify(lambda read, total: None))
    reactor.wait(storage.close())
    assert report.problems == []


def fill(client: Client, *said: str) -> None:
    """Send events until one is refused in these words, and find that the others are there."""
    events = iter(filling())
    while not client.refused:
        client.offer(*(next(events) for _ in range(8)))
    for text in client.refused.values():
        assert text.startswith("error: ") and any(words in text for words in said)
    assert client.accepted
    for wanted in (EVERYTHING, Filter.build(kinds=[1])):
        assert client.ask(wanted) == client.accepted


def test_full_disk(tmp_path: Path, disk: Path, reactor: OwnReactor) -> None:
    store = f"lmdb:{disk / 'store'}"
    with DaemonProcess(tmp_path / "negd", store=store) as daemon:
        with connected(reactor, daemon.url) as client:
            fill(client, "No space left on device", "Input/output error")  # for half a write
            assert_sound(store, reactor)
            (disk / "ballast").unlink()
            later = [note(content=str(n)) for n in range(50)]
            assert client.offer(*later) == {""}
            assert client.ask(EVERYTHING) == client.accepted
        daemon.kill()
        assert_sound(store, reactor)
        daemon.start()
        with connected(reactor, daemon.url) as again:
            assert again.ask(EVERYTHING) == client.accepted


def fill_up(disk: Path) -> None:
    """Leave no room at all."""
    with suppress(OSError), (disk / "rest").open("ab", buffering=0) as rest:
        while True:
            rest.write(bytes(4096))


def test_a_daemon_starts_and_serves_on_a_full_disk(
    tmp_path: Path, disk: Path, reactor: OwnReactor
) -> None:
    with DaemonProcess(tmp_path / "negd", store=f"lmdb:{disk / 'store'}") as daemon:
        with connected(reactor, daemon.url) as client:
            fill(client, "No space left on device", "Input/output error")
        for end in (daemon.stop, daemon.kill):
            end()
            fill_up(disk)
            daemon.start()
            with connected(reactor, daemon.url) as again:
                assert again.ask(EVERYTHING) == client.accepted


@pytest.mark.parametrize("read_only", [False, True])
def test_a_table_of_readers_that_has_no_room_is_told(disk: Path, read_only: bool) -> None:
    """LMDB would make it all the same, and be killed as it writes to it."""
    store = disk / "store"
    Environment(str(store), read_only=False).close()
    (store / "lock.mdb").unlink()
    fill_up(disk)
    opening = f"""
import sys
from negd.storage.lmdb.environment import Environment
Environment(sys.argv[1], {read_only})
"""
    command = [sys.executable, "-c", opening, str(store)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert f"StorageError: store {store} cannot be opened: [Errno 28] No space left" in done.stderr


_MAPLESS = """
import resource, sys
from negd.errors import StorageError
from negd.nostr.filter import EVERYTHING, Filter
from negd.storage.lmdb.store import LmdbStorage
from negd.testing.threads import ThreadedClock
from tests.integration.test_full import filling

clock = ThreadedClock(1_700_000_000)
storage = clock.wait(LmdbStorage.open(sys.argv[1], clock, first_map=1 << 23))
store, events = storage.events, filling()
with open("/proc/self/statm") as statm:
    used = int(statm.read().split()[0]) * resource.getpagesize()
unlimited = resource.getrlimit(resource.RLIMIT_AS)
resource.setrlimit(resource.RLIMIT_AS, (used + (12 << 20), unlimited[1]))
stored = 0
try:
    for start in range(0, len(events), 8):
        clock.wait(store.ingest(events[start : start + 8]))
        stored += 8
except StorageError as error:
    print("refused", error.text)
for wanted in (EVERYTHING, Filter.build(kinds=[1])):
    assert 0 < stored == clock.wait(store.count(wanted)), "reads go on"
assert not clock.wait(store.verify(lambda read, total: None)).problems
resource.setrlimit(resource.RLIMIT_AS, unlimited)
clock.wait(store.ingest(events))
assert clock.wait(store.count(EVERYTHING)) == len(events), "writes go on when there is room"
assert not clock.wait(store.verify(lambda read, total: None)).problems
clock.wait(storage.close())
print("done")
"""


def test_full_map(tmp_path: Path) -> None:
    """The map may not grow, as the process may have no more address space."""
    command = [sys.executable, "-c", _MAPLESS, str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    first, *last = done.stdout.splitlines()
    assert first.startswith("refused store ") and "the map is full and cannot grow" in first
    assert last == ["done"], done.stderr


@needs_server
def test_full_redis(tmp_path: Path, disk: Path, reactor: OwnReactor) -> None:
    """First its memory is full, then its disk."""
    with (
        RedisServer(disk / "redis") as server,
        DaemonProcess(tmp_path / "negd", store=server.store) as daemon,
        connected(reactor, daemon.url) as client,
    ):
        server.command("CONFIG", "SET", "maxmemory", "1")
        refused = note(content="no room")
        assert client.offer(refused).pop().startswith("error: ")
        assert "OOM" in client.refused.pop(refused.id)
        server.command("CONFIG", "SET", "maxmemory", "0")
        assert client.offer(note(content="room")) == {""}
        fill(client, "MISCONF")
        assert_sound(server.store, reactor)
        (disk / "ballast").unlink()
        later = (note(content=str(n)) for n in range(100))
        while client.offer(next(later)) != {""}:
            time.sleep(0.1)  # the server looks once a second
        assert client.ask(EVERYTHING) == client.accepted
        server.kill()
        server.start()
        assert_sound(server.store, reactor)


@needs_server
def test_redis_that_syncs_always_ends_with_its_disk(disk: Path, reactor: OwnReactor) -> None:
    """It comes back with all that it acknowledged."""
    with (
        RedisServer(disk / "redis", "--appendfsync", "always") as server,
        opened(reactor, server) as node,
    ):
        acknowledged: set[bytes] = set()
        with pytest.raises(StorageError, match=r"^redis 127.0.0.1:"):
            for event in filling():
                assert node.ingest(event) == [Outcome.STORED]
                acknowledged.add(event.id_bytes)
        server.await_end()
        (disk / "ballast").unlink()
        server.start()
        node.until(lambda: node.ids() >= acknowledged)
        assert node.ingest(note(content="later")) == [Outcome.STORED]
        node.assert_sound()
