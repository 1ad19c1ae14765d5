"""Drop-in mode as a whole: a daemon over a relay's database, called as the relay calls it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from negd.control.client import ControlClient
from negd.control.gen.orlysync.negentropy.v1 import service_pb2 as control
from negd.control.gen.orlysync.negentropy.v1.service_pb2_grpc import NegentropyServiceStub
from negd.nostr.event import Event
from negd.nostr.kinds import is_ephemeral
from negd.reconcile import Initiator, RecordSet
from negd.testing.events import sample_events
from negd.testing.model import NaiveRelay
from negd.testing.orlydb import FakeDatabase
from negd.testing.processes import DaemonProcess
from negd.testing.stores import fill, lines_in
from tests.storage.contract import note

pytestmark = pytest.mark.slow

EVENTS = [event for event in sample_events(450, authors=30) if not is_ephemeral(event.kind)]


@pytest.fixture
def database() -> Iterator[FakeDatabase]:
    with FakeDatabase() as database:
        yield database


@pytest.fixture
def daemon(database: FakeDatabase, tmp_path: Path) -> Iterator[DaemonProcess]:
    database.write(*EVENTS[:300])
    with DaemonProcess(tmp_path / "negd", store=f"orlydb:{database.server}") as daemon:
        yield daemon


class Relay:
    """The calls that a relay makes for one of its clients."""

    def __init__(self, daemon: DaemonProcess) -> None:
        self._channel = grpc.insecure_channel(daemon.control)
        self._stub = NegentropyServiceStub(self._channel)

    def __enter__(self) -> Relay:
        return self

    def __exit__(self, *_: object) -> None:
        self._channel.close()

    def differences(self, held: list[Event]) -> tuple[set[bytes], set[bytes]]:
        """What the client has and needs, as it finds out in a session over everything."""
        records = b"".join(event.record for event in held)
        initiator = Initiator(RecordSet.from_records(records), 0)
        have: set[bytes] = set()
        need: set[bytes] = set()
        message: bytes | None = initiator.initiate()
        answer = self.open(message)
        while message is not None:
            assert answer.error == ""
            step = initiator.reconcile(answer.message)
            have.update(step.have)
            need.update(step.need)
            message = step.reply
            if message is not None:
                request = control.NegMsgRequest(
                    connection_id="c", subscription_id="s", message=message
                )
                answer = self._stub.HandleNegMsg(request, timeout=30)
        return have, need

    def open(self, message: bytes | None) -> control.NegOpenResponse:
        request = control.NegOpenRequest(
            connection_id="c", subscription_id="s", initial_message=message
        )
        answer: control.NegOpenResponse = self._stub.HandleNegOpen(request, timeout=30)
        return answer


def ids_of(events: list[Event]) -> set[bytes]:
    return {event.id_bytes for event in events}


def test_a_relay_s_client_is_told_what_the_database_holds(
    database: FakeDatabase, daemon: DaemonProcess
) -> None:
    relay_of_old = NaiveRelay(time.time())
    for event in EVENTS[:300]:
        relay_of_old.offer(event)
    kept = list(relay_of_old.kept().values())
    assert len(kept) < sum(map(database.holds, EVENTS[:300])), "the database keeps old versions"
    ours = [note(n, content="the client's") for n in range(50)]
    with Relay(daemon) as relay:
        expected = ids_of(ours), ids_of(kept[:100])
        given_up = time.monotonic() + 10
        # Until the survey is through, old versions are among what it needs.
        while relay.differences([*kept[100:], *ours]) != expected:
            assert time.monotonic() < given_up
        written = note(content="by the relay, just now")
        database.write(written)
        assert relay.differences(kept) == (set(), {written.id_bytes})


def test_a_sync_ends_with_the_same_events_in_the_database_and_at_the_peer(
    database: FakeDatabase, daemon: DaemonProcess, tmp_path: Path
) -> None:
    peer = DaemonProcess(tmp_path / "peer")
    theirs = f"lmdb:{peer.folder / 'store'}"
    peer.folder.mkdir()
    fill(theirs, EVENTS[150:])
    with peer, ControlClient(daemon.control) as client:
        progress = list(client.sync(peer.url))
        assert progress[-1].complete
        assert progress[-1].fetched > 100 and progress[-1].sent > 100
        ours = f"{daemon.store}:book={tmp_path / 'unused'}"
        assert lines_in(ours) == lines_in(theirs)
        last = list(client.sync(peer.url))[-1]
        assert (last.have, last.need) == (0, 0)
        client.add_peer(peer.url)  # which begins to sync by itself
    assert len(lines_in(ours)) > 350
    assert daemon.stop() == 0
    daemon.start()
    with ControlClient(daemon.control) as client:
        assert client.peers() == [peer.url]
    assert (daemon.folder / "orlydb-book").is_dir()


def test_a_daemon_outlives_its_database(database: FakeDatabase, daemon: DaemonProcess) -> None:
    with Relay(daemon) as relay:
        message = Initiator(RecordSet.EMPTY, 0).initiate()
        assert relay.open(message).error == ""
        database.stop()
        started = time.monotonic()
        error = relay.open(message).error
        assert error.startswith(f"error: no database answers at {database.server}")
        assert time.monotonic() - started < 5
        database.start()
        given_up = time.monotonic() + 10
        while relay.open(message).error and time.monotonic() < given_up:
            time.sleep(0.1)
        assert relay.open(message).error == ""


def test_a_daemon_without_its_database_says_so_and_ends(
    database: FakeDatabase, tmp_path: Path
) -> None:
    database.is_ready = False
    daemon = DaemonProcess(tmp_path / "negd", store=f"orlydb:{database.server}")
    daemon.spawn()
    while database.calls["Ready"] < 3:
        time.sleep(0.05)
    assert daemon.is_running()
    assert daemon.stop() == 0
    daemon.store = f"orlydb:{database.server}:shelf=x"
    daemon.spawn()
    assert daemon.wait() == 1
    assert "expected HOST:PORT, and :book=PATH after it or not" in daemon.log.read_text()
