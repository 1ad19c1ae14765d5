"""A client's conversation with the relay, without sockets: every command and every bound."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer
from zope.interface.verify import verifyObject

from negd.errors import LimitReached, StorageError, Unknown
from negd.interfaces import IIntake, ISessions, Page, SessionInfo, Verdict
from negd.nostr.event import Event
from negd.nostr.filter import EVERYTHING, Filter
from negd.nostr.messages import (
    encode_auth,
    encode_close,
    encode_neg_close,
    encode_neg_msg,
    encode_neg_open,
    encode_publish,
    encode_request,
)
from negd.nostr.signing import Signer
from negd.reconcile import Initiator, RecordSet, Step
from negd.settings import EndpointSettings
from negd.storage.memory import MemoryStore
from negd.storage.watches import Watch
from negd.testing.events import sample_events
from negd.testing.links import drive, memory_backend, settle
from negd.websocket.conversation import Backend, Conversation
from negd.websocket.outgoing import IChannel

alice, bob = Signer(b"\x01" * 32), Signer(b"\x02" * 32)
OPENING = Initiator(RecordSet.EMPTY).initiate()
Message = list[Any]


def note(created_at: int, author: Signer = alice, kind: int = 1, content: str = "") -> Event:
    return author.sign(created_at=created_at, kind=kind, content=content)


def publish(event: Event) -> bytes:
    return encode_publish(event.encode())


def ids(messages: Sequence[Message]) -> list[str]:
    """The ids of the events among the messages, in order."""
    return [message[2]["id"] for message in messages if message[0] == "EVENT"]


@implementer(IChannel)
class Channel:
    """A transport that takes everything, or ``room`` bytes until the client reads."""

    def __init__(self) -> None:
        self.sent: list[Message] = []
        self.room: float = float("inf")
        self.reading = True
        self.aborted: str | None = None
        self.conversation: Conversation

    def send(self, text: bytes) -> None:
        assert self.conversation.outgoing.flowing
        self.sent.append(msgspec.json.decode(text))
        self.room -= len(text)
        if self.room <= 0:
            self.conversation.outgoing.stop()

    def pause(self) -> None:
        assert self.reading
        self.reading = False

    def resume(self) -> None:
        assert not self.reading
        self.reading = True

    def abort(self, reason: str) -> None:
        self.aborted = reason
        self.conversation.lost()


class Client:
    """A conversation with a relay in memory, and the client's end of it."""

    def __init__(self, parts: dict[str, Any] | None = None, **settings: Any) -> None:
        self.clock = Clock()
        whole = memory_backend(self.clock, EndpointSettings(**settings))
        self.backend: Backend = dataclasses.replace(whole, **(parts or {}))
        self.channel = Channel()
        self.conversation = Conversation("ws:test:1", self.channel, self.backend)
        self.channel.conversation = self.conversation

    def say(self, *texts: bytes) -> list[Message]:
        """Send messages that arrive with one read; the answers, once all is still."""
        for text in texts:
            self.conversation.received(text)
        self.conversation.end_of_read()
        settle(self.clock)
        return self.heard()

    def heard(self) -> list[Message]:
        """What came since the last look."""
        sent, self.channel.sent = self.channel.sent, []
        return sent

    def refused(self) -> dict[str, int]:
        """The bounds that were come up against, and how often."""
        return {bound: times for bound, times in self.backend.refusals.items() if times}

    def stop_reading(self, room: float = 0) -> None:
        """Read no more than the next ``room`` bytes."""
        self.channel.room = room
        if room <= 0:
            self.conversation.outgoing.stop()

    def read(self, room: float = float("inf")) -> list[Message]:
        """Read what is there, and have room for so much more."""
        self.channel.room = room
        self.conversation.outgoing.resume()
        settle(self.clock)
        return self.heard()

    def store(self, *events: Event) -> None:
        """Another way brings events into the store."""
        drive(self.clock, self.backend.store.ingest(events))


@implementer(IIntake)
class SlowIntake:
    """Takes its time: each call waits until the test answers."""

    def __init__(self) -> None:
        self.calls: list[tuple[list[Event], Deferred[list[Verdict]]]] = []

    async def submit(self, events: Sequence[Event]) -> list[Verdict]:
        verdicts: Deferred[list[Verdict]] = Deferred()
        self.calls.append((list(events), verdicts))
        return await verdicts


class SlowStore(MemoryStore):
    """A memory store whose pages wait, one after another, until the test turns them."""

    def __init__(self, clock: Clock) -> None:
        super().__init__(clock)
        self.turning: list[Deferred[None]] = []

    async def query(self, wanted: Filter, after: bytes | None = None, page: int = 500) -> Page:
        turned: Deferred[None] = Deferred()
        found = await super().query(wanted, after, page)
        self.turning.append(turned)
        await turned
        return found

    def turn(self) -> None:
        self.turning.pop(0).callback(None)


def with_slow_store(**settings: Any) -> tuple[Client, SlowStore]:
    store = SlowStore(Clock())
    return Client({"store": store}, **settings), store


def test_the_channel_of_these_tests_is_one() -> None:
    verifyObject(IChannel, Channel())
    verifyObject(IIntake, SlowIntake())


# --- EVENT ----------------------------------------------------------------------------------------


def test_an_event_is_stored_and_answered_ok() -> None:
    client, event = Client(), note(1000)
    assert client.say(publish(event)) == [["OK", event.id, True, ""]]
    assert drive(client.clock, client.backend.store.known([event.id_bytes])) == {event.id_bytes}


def test_a_known_event_is_ok_and_said_to_be_a_duplicate() -> None:
    client, event = Client(), note(1000)
    client.store(event)
    [[label, event_id, accepted, text]] = client.say(publish(event))
    assert (label, event_id, accepted) == ("OK", event.id, True)
    assert text.startswith("duplicate:")


def test_a_forged_event_is_refused_with_its_reason() -> None:
    client = Client()
    forged = msgspec.structs.replace(note(1000), content="something else")
    [[label, event_id, accepted, text]] = client.say(publish(forged))
    assert (label, event_id, accepted) == ("OK", forged.id, False)
    assert text.startswith("invalid:")


def test_events_of_one_read_are_submitted_together() -> None:
    intake = SlowIntake()
    client = Client({"intake": intake})
    events = [note(1000 + n) for n in range(3)]
    client.say(*map(publish, events))
    assert [submitted for submitted, _ in intake.calls] == [events]


def test_a_storage_that_fails_answers_false_for_each_event() -> None:
    intake = SlowIntake()
    client = Client({"intake": intake})
    events = [note(1000), note(1001)]
    client.say(*map(publish, events))
    intake.calls[0][1].errback(StorageError("the disk is full"))
    assert client.heard() == [
        ["OK", event.id, False, "error: the disk is full"] for event in events
    ]


def test_reading_stops_at_the_bound_of_unanswered_events_and_goes_on_below_half() -> None:
    intake = SlowIntake()
    client = Client({"intake": intake}, max_unanswered=4)
    events = [note(1000 + n) for n in range(4)]
    for event in events:
        assert client.channel.reading
        client.say(publish(event))
    assert not client.channel.reading
    for _, verdicts in intake.calls[:2]:
        verdicts.errback(LimitReached("later"))
    assert not client.channel.reading
    intake.calls[2][1].errback(LimitReached("later"))
    assert client.channel.reading
    assert [message[1] for message in client.heard()] == [event.id for event in events[:3]]


def test_reading_stops_at_the_bound_of_unanswered_bytes_and_goes_on_below_half() -> None:
    intake = SlowIntake()
    client = Client({"intake": intake}, max_message=4096)
    for size in (4096, 8192, 3072):
        assert client.channel.reading
        client.say(publish(note(1000, content="x" * size)))
    assert not client.channel.reading
    intake.calls[0][1].errback(LimitReached("later"))
    assert not client.channel.reading
    intake.calls[1][1].errback(LimitReached("later"))
    assert client.channel.reading


# --- REQ ------------------------------------------------------------------------------------------


def test_stored_events_come_newest_first_then_eose_then_live_ones() -> None:
    client = Client()
    old, older = note(1001), note(1000)
    client.store(older, old)
    answers = client.say(encode_request("a", [EVERYTHING]))
    assert ids(answers) == [old.id, older.id]
    assert answers[-1] == ["EOSE", "a"]
    new = note(999)
    client.store(new)
    assert client.heard() == [["EVENT", "a", msgspec.json.decode(new.encode())]]


def test_several_pages_come_whole_and_in_order() -> None:
    client = Client()
    events = [note(1000 + n // 3, content=str(n)) for n in range(1234)]
    client.store(*events)
    answers = client.say(encode_request("a", [EVERYTHING]))
    expected = sorted(events, key=lambda event: (-event.created_at, event.id))
    assert ids(answers) == [event.id for event in expected]
    assert answers[-1] == ["EOSE", "a"]


@pytest.mark.parametrize("limit", [0, 1, 99, 100, 101, 250])
def test_limit_counts_across_pages(limit: int) -> None:
    client = Client()
    events = [note(1000 + n) for n in range(300)]
    client.store(*events)
    answers = client.say(encode_request("a", [Filter.build(limit=limit)]))
    newest = [event.id for event in reversed(events)][:limit]
    assert ids(answers) == newest
    assert answers[-1] == ["EOSE", "a"]


def test_a_limit_of_nothing_still_brings_live_events() -> None:
    client, new = Client(), note(1001)
    client.store(note(1000))
    assert client.say(encode_request("a", [Filter.build(limit=0)])) == [["EOSE", "a"]]
    client.store(new)
    assert ids(client.heard()) == [new.id]


def test_several_filters_are_united_newest_first_without_doubles() -> None:
    client = Client()
    events = [note(1000 + n, author=(alice, bob)[n % 2], kind=7 + n % 3) for n in range(400)]
    client.store(*events)
    wanted = [
        Filter.build(kinds=[7, 8]),
        Filter.build(authors=[bytes.fromhex(alice.pubkey)]),
        Filter.build(ids=[events[5].id_bytes, events[6].id_bytes]),
    ]
    answers = client.say(encode_request("a", wanted))
    expected = [e.id for e in reversed(events) if any(f.matches(e) for f in wanted)]
    assert sorted(ids(answers)) == sorted(expected)
    assert answers[-1] == ["EOSE", "a"]
    stamps = [message[2]["created_at"] for message in answers[:-1]]
    assert stamps == sorted(stamps, reverse=True)


def test_a_live_event_that_several_filters_want_comes_once() -> None:
    client = Client()
    client.say(encode_request("a", [EVERYTHING, Filter.build(kinds=[1])]))
    event = note(1000)
    client.store(event)
    assert ids(client.heard()) == [event.id]


def test_ids_alone_take_one_look_at_the_store() -> None:
    """Which would look all of them up again for another page."""
    client, store = with_slow_store()
    events = [note(1000 + n) for n in range(300)]
    client.store(*events)
    wanted = Filter.build(ids=[*(event.id_bytes for event in events), b"\0" * 32])
    client.say(encode_request("a", [wanted]))
    store.turn()
    answers = client.heard()
    assert ids(answers) == [event.id for event in reversed(events)]
    assert answers[-1] == ["EOSE", "a"]
    assert store.turning == []


@pytest.mark.parametrize("by_ids", [False, True])
def test_large_events_are_read_a_few_at_a_time(by_ids: bool) -> None:
    client, store = with_slow_store()
    events = [note(1000 + n, content="x" * 400_000) for n in range(5)]
    client.store(*events)
    wanted = Filter.build(ids=[event.id_bytes for event in events]) if by_ids else EVERYTHING
    client.say(encode_request("a", [wanted]))
    store.turn()
    assert ids(client.heard()) == [event.id for event in reversed(events)][:3]
    store.turn()
    assert ids(client.heard()) == [event.id for event in reversed(events)][3:]


def test_ids_with_another_condition_are_queried() -> None:
    client, events = Client(), [note(1000), note(1001)]
    client.store(*events)
    wanted = Filter.build(ids=[event.id_bytes for event in events], until=1000)
    assert ids(client.say(encode_request("a", [wanted]))) == [events[0].id]


def test_an_event_that_comes_while_stored_ones_are_read_comes_after_eose() -> None:
    client, store = with_slow_store()
    old, new = note(1000), note(1001)
    client.store(old)
    client.say(encode_request("a", [EVERYTHING]))
    client.store(new)
    store.turn()
    answers = client.heard()
    assert [message[0] for message in answers] == ["EVENT", "EOSE", "EVENT"]
    assert ids(answers) == [old.id, new.id]


def test_an_event_told_before_and_read_after_comes_once() -> None:
    client, store = with_slow_store()
    events = [note(1000 + n) for n in range(150)]
    client.store(*events)
    client.say(encode_request("a", [EVERYTHING]))
    older = note(999)
    client.store(older)
    store.turn()
    store.turn()
    assert ids(client.heard()) == [*(event.id for event in reversed(events)), older.id]


def test_an_event_read_before_and_told_after_comes_once() -> None:
    class EagerStore(MemoryStore):
        """Its watches tell of an event only after a query has had it already."""

        def tell(self, event: Event) -> None:
            self._watches.tell(event, event.encode())

    store = EagerStore(Clock())
    client, event = Client({"store": store}), note(1000)
    client.store(event)
    answers = client.say(encode_request("a", [EVERYTHING]))
    store.tell(event)
    assert ids(answers + client.heard()) == [event.id]
    client.clock.advance(60)
    assert client.clock.getDelayedCalls() == []


def test_a_request_with_the_same_id_replaces_the_first() -> None:
    client, store = with_slow_store()
    client.store(note(1000), note(1001, kind=7))
    client.say(encode_request("a", [Filter.build(kinds=[1])]))
    client.say(encode_request("a", [Filter.build(kinds=[7])]))
    store.turn()
    store.turn()
    answers = client.heard()
    assert [message[0] for message in answers] == ["EVENT", "EOSE"]
    assert answers[0][2]["kind"] == 7
    client.store(note(1002), note(1003, kind=7))
    assert [message[2]["kind"] for message in client.heard()] == [7]


def test_close_ends_a_subscription_and_is_not_answered() -> None:
    client, store = with_slow_store()
    client.store(note(1000))
    client.say(encode_request("a", [EVERYTHING]))
    assert client.say(encode_close("a"), encode_close("never opened")) == []
    store.turn()
    client.store(note(1001))
    assert client.heard() == []


def test_too_many_subscriptions_and_filters_are_closed_with_the_reason() -> None:
    client = Client(max_subscriptions=2, max_filters=2)
    client.say(encode_request("a", [EVERYTHING]), encode_request("b", [EVERYTHING]))
    assert client.say(encode_request("c", [EVERYTHING])) == [
        ["CLOSED", "c", "blocked: at most 2 subscriptions"]
    ]
    assert client.say(encode_request("b", [EVERYTHING])) == [["EOSE", "b"]]
    client.say(encode_close("a"))
    assert client.say(encode_request("c", [EVERYTHING] * 3)) == [
        ["CLOSED", "c", "blocked: at most 2 filters"]
    ]
    assert client.refused() == {"subscriptions": 1, "filters": 1}


def test_filters_that_name_too_much_are_closed_with_the_reason() -> None:
    client = Client()
    many = Filter.build(ids=[n.to_bytes(32, "big") for n in range(12_000)])
    assert client.say(encode_request("a", [many])) == [["EOSE", "a"]]
    assert client.say(encode_request("a", [many])) == [["EOSE", "a"]]
    [[label, name, text]] = client.say(encode_request("b", [many]))
    assert (label, name) == ("CLOSED", "b")
    assert text.startswith("blocked: at most 20000 values")
    assert client.refused() == {"filter_values": 1}
    client.say(encode_close("a"))
    assert client.say(encode_request("b", [many])) == [["EOSE", "b"]]


def test_a_storage_that_fails_closes_the_subscription() -> None:
    client, store = with_slow_store()
    client.say(encode_request("a", [EVERYTHING]))
    store.turning.pop().errback(StorageError("the file is damaged"))
    assert client.heard() == [["CLOSED", "a", "error: the file is damaged"]]
    client.store(note(1000))
    assert client.heard() == []
    client.say(encode_request("a", [EVERYTHING]))
    store.turn()
    assert client.heard()[-1] == ["EOSE", "a"]


# --- slow readers ---------------------------------------------------------------------------------


def test_stored_events_wait_for_a_client_that_does_not_read() -> None:
    client = Client()
    events = [note(1000 + n) for n in range(50)]
    client.store(*events)
    client.stop_reading(room=1)
    first = client.say(encode_request("a", [EVERYTHING]))
    assert len(first) == 1
    assert client.conversation.outgoing.queued == 0
    rest = client.read()
    assert ids(first + rest) == [event.id for event in reversed(events)]
    assert rest[-1] == ["EOSE", "a"]


def test_live_events_queue_up_to_the_bound_then_the_subscription_is_closed() -> None:
    client = Client(max_outgoing=10_000)
    client.say(encode_request("a", [EVERYTHING]))
    client.stop_reading()
    events = [note(1000 + n) for n in range(100)]
    client.store(*events)
    assert client.conversation.outgoing.queued <= 10_100
    came = client.read()
    assert ids(came) == [event.id for event in events[: len(came) - 1]]
    assert 10 < len(came) < 50
    assert came[-1][:2] == ["CLOSED", "a"]
    assert came[-1][2].startswith("error:")
    client.store(note(5000))
    assert client.heard() == []
    assert client.refused() == {"outgoing": 1}


def test_events_held_back_during_a_long_answer_are_bounded_too() -> None:
    client, store = with_slow_store(max_outgoing=10_000)
    client.say(encode_request("a", [EVERYTHING]))
    client.store(*(note(1000 + n) for n in range(100)))
    store.turn()
    [[label, name, _]] = client.heard()
    assert (label, name) == ("CLOSED", "a")
    assert client.conversation.outgoing.queued == 0


def test_commands_are_not_read_while_answers_are_not() -> None:
    client = Client(max_outgoing=1_000)
    client.stop_reading()
    count = 0
    while client.channel.reading:
        client.say(publish(note(1000 + count)))
        count += 1
    assert 5 < count < 20
    assert len(client.read()) == count
    assert client.channel.reading


def test_a_client_that_takes_nothing_is_dropped_after_the_stall() -> None:
    client = Client(stall=60)
    client.store(note(1000), note(1001))
    client.stop_reading(room=1)
    client.say(encode_request("a", [EVERYTHING]))
    client.clock.advance(59)
    assert client.channel.aborted is None
    client.clock.advance(2)
    assert client.channel.aborted is not None
    assert client.clock.getDelayedCalls() == []
    assert client.refused() == {"stall": 1}


def test_a_client_that_reads_now_and_then_is_not_dropped() -> None:
    client = Client(stall=60)
    client.store(*(note(1000 + n) for n in range(5)))
    client.stop_reading(room=1)
    client.say(encode_request("a", [EVERYTHING]))
    for _ in range(3):
        client.clock.advance(50)
        client.read(room=1)
    assert client.channel.aborted is None


# --- NEG-* ----------------------------------------------------------------------------------------


def reconcile(
    client: Client, initiator: Initiator, wanted: Filter
) -> tuple[set[bytes], set[bytes]]:
    """Run a session to its end, as a client does."""
    have: set[bytes] = set()
    need: set[bytes] = set()
    text: bytes = encode_neg_open("n", wanted, initiator.initiate())
    while True:
        [[label, name, answer]] = client.say(text)
        assert (label, name) == ("NEG-MSG", "n")
        step = initiator.reconcile(bytes.fromhex(answer))
        have.update(step.have)
        need.update(step.need)
        if step.reply is None:
            return have, need
        text = encode_neg_msg("n", step.reply)


def test_a_session_finds_both_sides_differences() -> None:
    client = Client()
    common = [note(1000 + n) for n in range(500)]
    theirs, ours = [note(5000), note(700)], [note(6000)]
    client.store(*common, *theirs)
    records = b"".join(event.record for event in (*common, *ours))
    initiator = Initiator(RecordSet.from_records(records))
    have, need = reconcile(client, initiator, EVERYTHING)
    assert have == {event.id_bytes for event in ours}
    assert need == {event.id_bytes for event in theirs}
    assert client.say(encode_neg_close("n")) == []
    assert client.backend.sessions.sessions() == []


def test_an_unknown_session_and_a_bad_message_are_neg_errs() -> None:
    client = Client()
    assert client.say(encode_neg_msg("n", OPENING)) == [
        ["NEG-ERR", "n", "closed: session not found"]
    ]
    [[label, name, text]] = client.say(
        encode_neg_open("n", EVERYTHING, bytes.fromhex("610181ffffffffffffffff7f"))
    )
    assert (label, name) == ("NEG-ERR", "n")
    assert text.startswith("invalid:")


def test_messages_of_one_session_are_answered_in_order() -> None:
    client = Client()
    answers = client.say(
        encode_neg_open("n", EVERYTHING, OPENING), *[encode_neg_msg("n", OPENING)] * 3
    )
    assert [message[:2] for message in answers] == [["NEG-MSG", "n"]] * 4


@implementer(ISessions)
class SlowSessions:
    """Opens sessions when the test says so; an earlier one of the same name is lost to it."""

    def __init__(self) -> None:
        self.opening: list[Deferred[Step]] = []
        self.closed: list[str] = []

    async def open(
        self, connection: str, subscription: str, wanted: Filter, message: bytes
    ) -> Step:
        opened: Deferred[Step] = Deferred()
        self.opening.append(opened)
        return await opened

    async def message(self, connection: str, subscription: str, message: bytes) -> Step:
        raise ZeroDivisionError("nobody foresaw this")

    def close(self, connection: str, subscription: str) -> None:
        pass

    def close_connection(self, connection: str) -> None:
        self.closed.append(connection)

    def sessions(self) -> list[SessionInfo]:
        return []

    def lose(self) -> None:
        self.opening.pop(0).errback(Unknown("session was closed"))


def test_large_messages_of_a_reconciliation_are_not_read_without_end() -> None:
    sessions = SlowSessions()
    client = Client({"sessions": sessions}, max_message=4096)
    for _ in range(4):
        assert client.channel.reading
        client.say(encode_neg_open("n", EVERYTHING, b"a" * 2040))
    assert not client.channel.reading
    for _ in range(3):
        sessions.opening.pop(0).callback(Step(b"a", [], [], False))
    assert client.channel.reading


def test_a_session_that_its_client_replaced_or_closed_is_not_said_to_be_gone() -> None:
    sessions = SlowSessions()
    client = Client({"sessions": sessions})
    opening = encode_neg_open("n", EVERYTHING, OPENING)
    client.say(opening, opening)
    sessions.lose()
    assert client.heard() == []
    sessions.opening.pop(0).callback(Step(b"a", [], [], False))
    assert client.heard() == [["NEG-MSG", "n", "61"]]
    client.say(opening, encode_neg_close("n"))
    sessions.lose()
    assert client.heard() == []
    client.say(opening)
    sessions.lose()
    assert client.heard() == [["NEG-ERR", "n", "closed: session was closed"]]


# --- bad input, faults, the end -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "label", "subject"),
    [
        (b"no json", "NOTICE", None),
        (b"{}", "NOTICE", None),
        (b"[]", "NOTICE", None),
        (b'["PING"]', "NOTICE", None),
        (b'["COUNT","a",{}]', "NOTICE", None),
        (b"[" * 100_000, "NOTICE", None),
        (b'["EVENT",{"id":"%s"}]' % (b"ab" * 32), "OK", "ab" * 32),
        (b'["REQ","a"]', "CLOSED", "a"),
        (b'["REQ","a",{"kinds":["one"]}]', "CLOSED", "a"),
        (b'["NEG-OPEN","a",{},"xyz"]', "NEG-ERR", "a"),
        (b'["NEG-OPEN","a",{},16,"61"]', "NEG-ERR", "a"),
        (b'["NEG-MSG","a",61]', "NEG-ERR", "a"),
        (b'["CLOSE"]', "NOTICE", None),
    ],
)
def test_what_cannot_be_read_is_answered_in_its_own_form(
    text: bytes, label: str, subject: str | None
) -> None:
    [answer] = Client().say(text)
    assert answer[0] == label
    assert subject is None or answer[1] == subject
    assert answer[-1].startswith("invalid:")


def test_binary_messages_get_a_notice() -> None:
    client = Client()
    client.conversation.received_binary()
    assert [message[0] for message in client.heard()] == ["NOTICE"]


def test_authentication_is_answered_that_it_is_not_needed() -> None:
    event = note(1000, kind=22242)
    [[label, event_id, accepted, text]] = Client().say(encode_auth(event))
    assert (label, event_id, accepted) == ("OK", event.id, False)
    assert "no authentication" in text


def test_a_flood_of_bad_messages_does_not_pile_up() -> None:
    client = Client(max_outgoing=1_000)
    client.stop_reading()
    for _ in range(10_000):
        client.conversation.received(b"bad")
        if not client.channel.reading:
            break
    assert client.conversation.outgoing.queued < 1_200


class FaultTests(SynchronousTestCase):
    """Errors that nobody foresaw: logged here, without a word of them to the client."""

    def test_a_fault_is_logged_answered_and_survived(self) -> None:
        client = Client({"sessions": SlowSessions()})
        answers = client.say(encode_neg_msg("n", OPENING))
        self.assertEqual(answers, [["NEG-ERR", "n", "error: internal error"]])
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)
        self.assertEqual(client.say(encode_request("a", [EVERYTHING])), [["EOSE", "a"]])

    def test_a_faulty_intake_answers_each_event(self) -> None:
        intake = SlowIntake()
        client, event = Client({"intake": intake}), note(1000)
        client.say(publish(event))
        intake.calls[0][1].errback(ZeroDivisionError())
        self.assertEqual(client.heard(), [["OK", event.id, False, "error: internal error"]])
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)

    def test_a_faulty_store_closes_the_subscription(self) -> None:
        client, store = with_slow_store()
        client.say(encode_request("a", [EVERYTHING]))
        store.turning.pop().errback(ZeroDivisionError())
        self.assertEqual(client.heard(), [["CLOSED", "a", "error: internal error"]])
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)

    def test_a_fault_before_anything_is_under_way_is_a_notice(self) -> None:
        class BlindStore(MemoryStore):
            def watch(self, wanted: Filter, callback: Callable[[Event, bytes], None]) -> Watch:
                raise ZeroDivisionError

        client = Client({"store": BlindStore(Clock())})
        answers = client.say(encode_request("a", [EVERYTHING]))
        self.assertEqual(answers, [["NOTICE", "error: internal error"]])
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)
        self.assertEqual(client.say(b"[]")[0][0], "NOTICE")


def test_a_lost_connection_leaves_nothing_behind() -> None:
    store, intake = SlowStore(Clock()), SlowIntake()
    client = Client({"store": store, "intake": intake})
    client.say(encode_neg_open("n", EVERYTHING, OPENING))
    client.say(encode_request("a", [EVERYTHING]), publish(note(1000)))
    client.say(encode_request("b", [Filter.build(ids=[b"\0" * 32])]))
    client.stop_reading()
    client.heard()
    client.conversation.lost()
    store.turn()
    intake.calls[0][1].errback(StorageError("too late"))
    client.store(note(1001))
    assert client.heard() == []
    assert client.backend.sessions.sessions() == []
    assert client.clock.getDelayedCalls() == []
    assert not store._watches


def test_sample_events_go_in_and_come_out_the_same() -> None:
    client = Client(max_unanswered=10_000)
    events = {event.id: event for event in sample_events(400)}
    oks = client.say(*map(publish, events.values()))
    assert len(oks) == len(events)
    answers = client.say(encode_request("a", [EVERYTHING]))
    assert len(answers) > 300
    for [_, _, came] in answers[:-1]:
        assert events[came["id"]] == msgspec.convert(came, Event)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=70),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=9), inner),
    max_leaves=12,
)
labels = st.sampled_from(
    ["EVENT", "REQ", "CLOSE", "AUTH", "NEG-OPEN", "NEG-MSG", "NEG-CLOSE", "COUNT", "x"]
)
filters = st.dictionaries(
    st.sampled_from(["ids", "authors", "kinds", "#e", "since", "until", "limit", "search"]),
    json_values | st.lists(st.integers(0, 70_000)) | st.integers(0, 2**64),
)
commands = st.builds(
    lambda label, rest: msgspec.json.encode([label, *rest]),
    labels,
    st.lists(json_values | filters | st.just("a") | st.just("6100"), max_size=4),
)
SILENT = ("CLOSE", "NEG-CLOSE")


@given(st.lists(commands | st.binary(max_size=200) | st.text().map(str.encode), max_size=6))
@example([encode_neg_open("a", EVERYTHING, bytes.fromhex("610181ffffffffffffffff7f"))])
def test_anything_at_all_is_answered(texts: list[bytes]) -> None:
    client = Client()
    for text in texts:
        answers = client.say(text)
        if not answers:
            assert msgspec.json.decode(text)[0] in SILENT
        for answer in answers:
            assert answer[0] in ("OK", "EVENT", "EOSE", "CLOSED", "NOTICE", "NEG-MSG", "NEG-ERR")
            assert "internal error" not in answer[-1]
    client.conversation.lost()
    assert client.clock.getDelayedCalls() == []
