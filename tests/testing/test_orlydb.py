"""The stand-in for ORLY's database has every oddity that the contract names."""

from __future__ import annotations

from collections.abc import Iterator

import grpc
import pytest

from negd.nostr.event import Event
from negd.nostr.signing import Signer
from negd.storage.orlydb.gen.orlydb.v1 import service_pb2 as proto
from negd.storage.orlydb.gen.orlydb.v1.service_pb2_grpc import DatabaseServiceStub
from negd.testing.orlydb import FakeDatabase, message_of

ALICE, BOB = Signer(b"\1" * 32), Signer(b"\2" * 32)
HASH = "ab" * 32


class Caller:
    """A plain client."""

    def __init__(self, server: str) -> None:
        apart = [("grpc.use_local_subchannel_pool", 1)]  # else one waits after another's failure
        self.channel = grpc.insecure_channel(server, options=apart)
        self.stub = DatabaseServiceStub(self.channel)

    def save(self, event: proto.Event | Event) -> bool:
        message = message_of(event) if isinstance(event, Event) else event
        request = proto.SaveEventRequest(event=message)
        return bool(self.stub.SaveEvent(request, timeout=5).exists)

    def list(self, **fields: object) -> list[bytes]:
        wanted = proto.Filter(**fields)  # type: ignore[arg-type]
        answer = self.stub.QueryForIds(proto.QueryEventsRequest(filter=wanted), timeout=5)
        return [item.id for item in answer.items]

    def serials(self, *ids: bytes) -> dict[str, int]:
        request = proto.GetSerialsByIdsRequest(ids=ids)
        return dict(self.stub.GetSerialsByIds(request, timeout=5).serials)

    def fetch(self, *serials: int) -> dict[int, proto.Event]:
        request = proto.FetchEventsBySerialRequest(serials=serials)
        return dict(self.stub.FetchEventsBySerials(request, timeout=5).events)

    def refusal(self, event: Event) -> str:
        with pytest.raises(grpc.RpcError) as raised:
            self.save(event)
        assert raised.value.code() is grpc.StatusCode.INTERNAL
        return str(raised.value.details())


@pytest.fixture
def database() -> Iterator[FakeDatabase]:
    with FakeDatabase() as database:
        yield database


@pytest.fixture
def caller(database: FakeDatabase) -> Iterator[Caller]:
    caller = Caller(database.server)
    yield caller
    caller.channel.close()


def note(created_at: int = 100, author: Signer = ALICE, **fields: object) -> Event:
    return author.sign(created_at=created_at, **fields)  # type: ignore[arg-type]


def status_of(call: object, **fields: object) -> grpc.StatusCode:
    with pytest.raises(grpc.RpcError) as raised:
        call(**fields)  # type: ignore[operator]
    code: grpc.StatusCode = raised.value.code()
    return code


def test_a_query_without_a_filter_is_its_end(database: FakeDatabase, caller: Caller) -> None:
    with pytest.raises(grpc.RpcError) as raised:
        caller.stub.QueryForIds(proto.QueryEventsRequest(), timeout=5)
    assert raised.value.code() is grpc.StatusCode.UNAVAILABLE
    assert status_of(caller.list) is grpc.StatusCode.UNAVAILABLE
    database.stop()
    database.start()
    assert Caller(database.server).list() == []


def test_hashes_come_back_in_33_bytes(caller: Caller) -> None:
    event = note(tags=[["e", HASH], ["p", "text"], ["E", HASH]])
    caller.save(event)
    [stored] = caller.fetch(0).values()
    assert [list(tag.values) for tag in stored.tags] == [
        [b"e", bytes.fromhex(HASH) + b"\0"],
        [b"p", b"text"],
        [b"E", HASH.encode()],
    ]


@pytest.mark.parametrize("key", ["e", "#e"])
def test_filters_take_hex_or_33_bytes_for_hashes(caller: Caller, key: str) -> None:
    event = note(tags=[["e", HASH]])
    caller.save(event)
    raw = bytes.fromhex(HASH)
    for value, found in ((HASH.encode(), True), (raw + b"\0", True), (raw, False)):
        tags = {key: proto.TagSet(values=[value])}
        assert caller.list(tags=tags) == [event.id_bytes] * found


def test_a_hash_saved_as_text_is_not_found_by_it(caller: Caller) -> None:
    message = message_of(note(tags=[["e", "x"]]))
    message.tags[0].values[1] = HASH.encode()
    caller.save(message)
    assert caller.list(tags={"e": proto.TagSet(values=[HASH.encode()])}) == []


def test_an_answer_has_a_largest_size(database: FakeDatabase, caller: Caller) -> None:
    database.write(*(note(n) for n in range(20)))
    database.answer_bytes = 1000
    assert status_of(caller.list) is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert len(caller.list(since=10, until=19)) == 10
    with pytest.raises(grpc.RpcError, match="larger than max"):
        caller.fetch(*range(20))


def test_bounds_are_inclusive_and_0_is_none(database: FakeDatabase, caller: Caller) -> None:
    events = [note(second) for second in (0, 1, 2, 3)]
    database.write(*events)
    newest_first = [event.id_bytes for event in reversed(events)]
    assert caller.list(since=1, until=2) == newest_first[1:3]
    assert caller.list(since=0, until=0) == newest_first


def test_limit_keeps_the_newest_and_0_gives_nothing(database: FakeDatabase, caller: Caller) -> None:
    events = [note(second) for second in (1, 3, 2)]
    database.write(*events)
    assert caller.list(limit=2) == [events[1].id_bytes, events[2].id_bytes]
    assert caller.list(limit=0) == []


def test_ids_are_not_to_be_asked_for(caller: Caller) -> None:
    assert status_of(caller.list, ids=[bytes(32)]) is grpc.StatusCode.INTERNAL


def test_different_tag_keys_are_united(database: FakeDatabase, caller: Caller) -> None:
    one, other = note(tags=[["t", "x"]]), note(tags=[["r", "y"]])
    database.write(one, other)
    tags = {"t": proto.TagSet(values=[b"x"]), "r": proto.TagSet(values=[b"y"])}
    assert set(caller.list(tags=tags)) == {one.id_bytes, other.id_bytes}


def test_kinds_and_authors_are_conditions_besides(database: FakeDatabase, caller: Caller) -> None:
    events = [note(kind=1), note(kind=7), note(author=BOB, kind=1)]
    database.write(*events)
    alice = bytes.fromhex(ALICE.pubkey)
    assert caller.list(kinds=[1], authors=[alice]) == [events[0].id_bytes]
    assert len(caller.list(kinds=[1])) == len(caller.list(authors=[alice])) == 2


def test_old_versions_deletions_and_expired_events_are_listed(
    database: FakeDatabase, caller: Caller
) -> None:
    old, new = note(1, kind=0), note(2, kind=0)
    expired, deletion = note(3, tags=[["expiration", "4"]]), note(4, kind=5)
    assert [caller.save(event) for event in (old, new, expired, deletion)] == [
        False,
        True,
        False,
        False,
    ]
    assert len(caller.list()) == 4


def test_numbers_are_asked_for_in_hex(caller: Caller) -> None:
    event = note()
    caller.save(event)
    assert caller.serials(event.id.encode(), b"00" * 32) == {event.id: 0}
    assert status_of(lambda: caller.serials(event.id_bytes)) is grpc.StatusCode.INTERNAL


def test_refusals_are_internal_errors_with_known_words(
    database: FakeDatabase, caller: Caller
) -> None:
    event, old, new = note(), note(1, kind=0), note(2, kind=0)
    database.write(event, new)
    assert caller.refusal(event) == (
        f"save event failed: blocked: event already exists: {event.id}"
    )
    assert caller.refusal(old) == (
        "save event failed: blocked: event is older than existing replaceable event"
    )
    deletion = note(101, kind=5, tags=[["e", event.id]])
    assert caller.save(deletion) is False
    assert caller.refusal(event) == (
        f"save event failed: blocked: blocked: {event.id} has been deleted"
    )
    database.refuses = lambda message: "not today" if message.kind == 7 else None
    assert caller.refusal(note(kind=7)) == "save event failed: blocked: not today"


def test_neither_signature_nor_expiry_is_looked_at(caller: Caller) -> None:
    event = message_of(note(tags=[["expiration", "1"]]))
    event.sig = bytes(64)
    assert caller.save(event) is False


def test_what_is_deleted_stays_under_its_number(caller: Caller) -> None:
    event = note()
    caller.save(event)
    caller.save(note(101, kind=5, tags=[["e", event.id]]))
    assert caller.serials(event.id.encode()) == {}
    assert list(caller.fetch(0)) == [0]


def test_contents_outlive_a_restart(database: FakeDatabase, caller: Caller) -> None:
    database.write(note())
    server = database.server
    database.stop()
    assert status_of(caller.list) is grpc.StatusCode.UNAVAILABLE
    database.start()
    assert database.server == server
    assert len(Caller(server).list()) == 1
