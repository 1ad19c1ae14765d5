"""The database's calls: deadlines, caps, refusals and losses, each told for what it is."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest

from negd.errors import ConfigError, StorageError
from negd.nostr.event import Event
from negd.nostr.signing import Signer
from negd.storage.orlydb import database as calls
from negd.storage.orlydb.address import DatabaseAddress
from negd.storage.orlydb.codec import Unstorable
from negd.storage.orlydb.database import AnswerTooLarge, Away, Database
from negd.storage.orlydb.gen.orlydb.v1 import service_pb2 as proto
from negd.storage.postings import as_list
from negd.testing.orlydb import FakeDatabase, message_of

ALICE = Signer(b"\1" * 32)


def note(created_at: int = 100, **fields: object) -> Event:
    return ALICE.sign(created_at=created_at, **fields)  # type: ignore[arg-type]


@pytest.fixture
def fake() -> Iterator[FakeDatabase]:
    with FakeDatabase() as fake:
        yield fake


@pytest.fixture
def database(fake: FakeDatabase) -> Iterator[Database]:
    database = Database(fake.server)
    yield database
    database.close()


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("READY_WITHIN", "SAVE_WITHIN", "READ_WITHIN", "LIST_WITHIN"):
        monkeypatch.setattr(calls, name, 0.2)


def test_what_is_saved_is_listed_and_read(database: Database) -> None:
    events = [note(n, tags=[["e", "ab" * 32]]) for n in range(250)]
    assert [database.save(event) for event in events] == [None] * 250
    listed = database.listed(proto.Filter())
    assert set(as_list(listed.records)) == {event.record for event in events}
    assert list(listed.to_set()) == sorted(event.record for event in events)
    assert set(listed.authors.tolist()) == {bytes.fromhex(ALICE.pubkey)}
    assert sorted(listed.serials.tolist()) == list(range(250))
    ids = [event.id_bytes for event in events]
    assert database.by_ids([*ids, bytes(32)]) == {event.id_bytes: event for event in events}
    assert database.serials(ids)[ids[7]] == 7


def test_events_come_in_batches_that_fit(fake: FakeDatabase, database: Database) -> None:
    events = [note(n, content="x" * 1000) for n in range(120)]
    fake.write(*events)
    fake.answer_bytes = 16_000
    assert len(database.by_ids([event.id_bytes for event in events])) == 120
    assert fake.calls["GetSerialsByIds"] == 1
    assert fake.calls["FetchEventsBySerials"] > 2
    fake.answer_bytes = 500
    with pytest.raises(AnswerTooLarge, match="trying to send message larger than max"):
        database.by_ids([events[0].id_bytes])


def test_a_deleted_event_is_not_found_by_the_number_it_had(
    fake: FakeDatabase, database: Database
) -> None:
    gone, there = note(1), note(2)
    fake.write(gone, there)
    fake.sweep(gone)
    assert database.by_serials([0, 1, 2]) == {0: None, 1: there}


def test_a_damaged_event_is_left_away(fake: FakeDatabase, database: Database) -> None:
    whole = note(1)
    fake.write(whole)
    damaged = message_of(note(2))
    damaged.content = b"\xff"
    fake.write(damaged)
    ids = [whole.id_bytes, damaged.id]
    assert list(database.by_ids(ids)) == [whole.id_bytes]


def test_refusals_are_told_in_the_database_s_words(fake: FakeDatabase, database: Database) -> None:
    event = note()
    assert database.save(event) is None
    assert database.save(event) == f"blocked: event already exists: {event.id}"
    fake.refuses = lambda message: "no p tag"
    assert database.save(note(kind=3)) == "blocked: no p tag"


def test_a_failure_to_save_is_no_refusal(fake: FakeDatabase, database: Database) -> None:
    fake.breaks = lambda message: "Value log GC attempt didn't result in any cleanup"
    with pytest.raises(StorageError, match=f"database {fake.server}: save event failed: Value"):
        database.save(note())


def test_an_event_that_would_change_on_the_way_is_not_sent(
    fake: FakeDatabase, database: Database
) -> None:
    with pytest.raises(Unstorable):
        database.save(note(tags=[["e", "x" * 32 + "\0"]]))
    assert fake.calls["SaveEvent"] == 0


def test_every_call_has_a_deadline(fake: FakeDatabase, database: Database, impatient: None) -> None:
    fake.freeze()
    for work in (
        database.ready,
        lambda: database.save(note()),
        lambda: database.serials([bytes(32)]),
        lambda: database.by_serials([1]),
    ):
        with pytest.raises(Away, match=f"the database at {fake.server} did not answer in time"):
            work()
    with pytest.raises(AnswerTooLarge, match="did not answer in time"):
        database.listed(proto.Filter())


def test_a_lost_database_is_reached_again(fake: FakeDatabase, database: Database) -> None:
    assert database.ready()
    fake.stop()
    with pytest.raises(Away, match=f"no database answers at {fake.server}"):
        database.ready()
    fake.start()
    given_up = time.monotonic() + 10
    while time.monotonic() < given_up:
        try:
            assert database.ready()
            return
        except Away:
            time.sleep(0.05)
    pytest.fail("it was not reached again")


def test_something_else_at_the_address_is_told() -> None:
    server = grpc.server(ThreadPoolExecutor(1))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    database = Database(f"127.0.0.1:{port}")
    with pytest.raises(StorageError, match=f"what answers at 127.0.0.1:{port} is no ORLY database"):
        database.ready()
    database.close()
    server.stop(0)


def test_a_closed_connection_is_told(database: Database) -> None:
    database.close()
    with pytest.raises(Away):
        database.ready()


# --- store strings ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "argument, server, book",
    [
        ("127.0.0.1:50051", "127.0.0.1:50051", "orlydb-book"),
        ("[::1]:50051", "[::1]:50051", "orlydb-book"),
        ("db.example.com:1:book=/var/lib/negd/peers", "db.example.com:1", "/var/lib/negd/peers"),
        (r"localhost:65535:book=C\:\\peers", "localhost:65535", "C:\\peers"),
    ],
)
def test_a_store_string_names_the_server_and_the_book(
    argument: str, server: str, book: str
) -> None:
    assert DatabaseAddress.parse(argument) == DatabaseAddress(server, book)


@pytest.mark.parametrize(
    "argument",
    ["", "127.0.0.1", ":50051", "127.0.0.1:0", "127.0.0.1:65536", "127.0.0.1:x", "::1:50051",
     "127.0.0.1:50051:", "127.0.0.1:50051:book=", "127.0.0.1:50051:shelf=x", "h:1:book=a:b"],
)  # fmt: skip
def test_a_malformed_store_string_is_told(argument: str) -> None:
    with pytest.raises(ConfigError, match=r"store 'orlydb:.*': expected HOST:PORT"):
        DatabaseAddress.parse(argument)
