"""Several nodes on one Redis server, nodes and servers that die, and servers that say no."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from random import Random

import pytest
from OpenSSL.crypto import FILETYPE_PEM
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.ssl import Certificate
from twisted.internet.task import Clock, deferLater
from twisted.internet.testing import StringTransportWithDisconnection
from twisted.protocols.portforward import ProxyFactory
from twisted.trial.unittest import TestCase

from negd.errors import ConfigError, StorageError
from negd.interfaces import ILeases, LedgerEntry, Outcome, PeerState, Residue
from negd.nostr.event import Event, decode
from negd.nostr.filter import EVERYTHING, Filter
from negd.storage import open_store
from negd.storage.redis.address import ServerAddress, parse_address
from negd.storage.redis.link import REPLY_WITHIN, Link, _Protocol
from negd.testing.certificates import certificate_for
from negd.testing.events import sample_events
from negd.testing.ports import free_port
from negd.testing.redis_server import OwnReactor, RedisServer
from tests.storage.contract import NOW, note
from tests.storage.redis_nodes import Node, needs_server, opened

ROOT = Path(__file__).parents[2]

EMPTY_CERTIFICATE = b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"

# --- store strings ------------------------------------------------------------------------------


def test_store_strings_are_read() -> None:
    assert parse_address("db.example.com:6379") == ServerAddress("db.example.com", 6379)
    assert parse_address("[::1]:1") == ServerAddress("::1", 1)
    text = (
        r"h:2:database=3:user=me:password-file=/a\:b\\c:tls=yes:authority=/ca.pem"
        r":certificate=/me.pem:prefix=x-1"
    )
    assert parse_address(text) == ServerAddress(
        "h", 2, 3, "me", "/a:b\\c", True, "/ca.pem", "/me.pem", "x-1"
    )
    assert str(parse_address("[::1]:1:tls=no")) == "redis [::1]:1"


@pytest.mark.parametrize(
    "argument, complaint",
    [
        ("", "names no server: expected HOST:PORT"),
        ("localhost", "names no server"),
        ("localhost:0", "names no server"),
        ("localhost:65536", "names no server"),
        ("::1:6379", "names no server"),
        ("localhost:6379x", "names no server"),
        ("localhost:6379:", "expected HOST:PORT and options"),
        ("localhost:6379:database", "expected HOST:PORT and options"),
        ("localhost:6379:database=x", "database='x': expected a number"),
        ("localhost:6379:tls=1", "tls='1': expected yes or no"),
        ("localhost:6379:prefix=a{b}", "prefix='a{b}': expected up to 64 of"),
        ("localhost:6379:user=", "user='': expected a name"),
        ("localhost:6379:password=x", "'password' is none of the known: database, user, "),
    ],
)
def test_store_strings_that_are_not_of_the_form(argument: str, complaint: str) -> None:
    with pytest.raises(ConfigError) as raised:
        parse_address(argument)
    assert complaint in raised.value.text


@pytest.mark.parametrize(
    "server, complaint",
    [
        ("127.0.0.1:1", "Connection was refused"),
        ("nowhere.invalid:1", "DNS lookup failed"),
        ("-bad-:1", "invalid hostname"),
    ],
)
def test_server_that_is_not_there(reactor: OwnReactor, server: str, complaint: str) -> None:
    with pytest.raises(StorageError, match=f"^redis {server}: {complaint}"):
        reactor.wait(open_store(f"redis:{server}", reactor))


class WebServer(Protocol):
    """Answers what it does not understand, and hangs up."""

    def dataReceived(self, data: bytes) -> None:
        assert self.transport is not None
        self.transport.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        self.transport.loseConnection()


def test_port_that_is_no_redis_servers(reactor: OwnReactor) -> None:
    listening = reactor.listenTCP(0, Factory.forProtocol(WebServer), interface="127.0.0.1")
    with pytest.raises(StorageError, match=r"cleanly; expected a Redis server without TLS$"):
        reactor.wait(open_store(f"redis:127.0.0.1:{listening.getHost().port}", reactor))


def test_password_file_that_is_not_there(reactor: OwnReactor) -> None:
    with pytest.raises(StorageError, match="/nowhere: No such file"):
        reactor.wait(open_store("redis:127.0.0.1:1:password-file=/nowhere", reactor))


@pytest.mark.parametrize(
    "option, content, complaint",
    [
        ("password-file", b"\xff\xfe", "it is not UTF-8"),
        ("tls=yes:authority", b"nonsense", "it is no PEM file of what is needed"),
        ("tls=yes:authority", EMPTY_CERTIFICATE, "it is no PEM file of what is needed"),
        ("tls=yes:certificate", b"nonsense", "it is no PEM file of what is needed"),
        ("tls=yes:certificate", EMPTY_CERTIFICATE, "it is no PEM file of what is needed"),
    ],
)
def test_file_that_is_not_what_it_should_be(
    reactor: OwnReactor, tmp_path: Path, option: str, content: bytes, complaint: str
) -> None:
    path = tmp_path / "file"
    path.write_bytes(content)
    with pytest.raises(StorageError, match=f"^redis 127.0.0.1:1: {path}: {complaint}$"):
        reactor.wait(open_store(f"redis:127.0.0.1:1:{option}={path}", reactor))


def test_server_that_says_nothing_is_given_up() -> None:
    clock = Clock()
    protocol = _Protocol(clock)
    transport = StringTransportWithDisconnection()
    transport.protocol = protocol
    protocol.makeConnection(transport)
    link = Link(ServerAddress("h", 1), protocol, clock)
    failures: list[str] = []
    for word in ("PING", "TIME"):
        link.command(word).addErrback(lambda failure: failures.append(str(failure.value)))
    clock.advance(REPLY_WITHIN - 0.1)
    assert failures == []
    clock.advance(0.2)
    assert failures == ["redis h:1: no answer"] * 2
    assert transport.disconnected


def test_a_link_that_is_ended_for_another_one_tells_that_ones_reason() -> None:
    protocol, transport = _Protocol(Clock()), StringTransportWithDisconnection()
    transport.protocol = protocol
    protocol.makeConnection(transport)
    link = Link(ServerAddress("h", 1), protocol, Clock())
    failures: list[str] = []
    link.command("PING").addErrback(lambda failure: failures.append(str(failure.value)))
    link.abort("Connection was closed cleanly")
    assert failures == ["redis h:1: Connection was closed cleanly"]


# --- several nodes ------------------------------------------------------------------------------


@needs_server
def test_nodes_see_each_others_commits(reactor: OwnReactor, server: RedisServer) -> None:
    with opened(reactor, server) as one, opened(reactor, server) as other:
        told: list[Event] = []
        other.store.watch(Filter.build(kinds=[1, 20001]), lambda event, json: told.append(event))
        event, passing = note(kind=1), note(kind=20001)
        before = other.store.generation
        one.ingest(event, note(kind=7), passing)
        other.until(lambda: len(told) == 2)
        assert told == [event, passing]
        assert other.store.generation > before
        assert other.ids() == one.ids()
        assert other.ingest(event) == [Outcome.DUPLICATE]
        other.ingest(note(kind=5, tags=[["e", event.id]]))
        one.until(lambda: event.id_bytes not in one.ids())
        assert one.ids() == other.ids()
        one.assert_sound()


@needs_server
def test_what_a_node_was_told_it_knows(reactor: OwnReactor, server: RedisServer) -> None:
    """Also where another node had stored the event: the answer waits for the feed."""
    with opened(reactor, server) as one, opened(reactor, server) as other:
        for number in range(50):
            event = note(content=str(number))
            outcomes = one.ingest(event) + other.ingest(event)
            assert outcomes == [Outcome.STORED, Outcome.DUPLICATE]
            assert event.id_bytes in other.ids()


@needs_server
def test_new_node_knows_what_is_there(reactor: OwnReactor, server: RedisServer) -> None:
    events = list(sample_events(300, until=NOW))
    with opened(reactor, server) as one:
        one.ingest(*events)
        with opened(reactor, server) as other:
            assert other.ids() == one.ids()
            for wanted in (Filter.build(kinds=[1]), Filter.build(tags={"t": ["nostr"]})):
                assert other.ids(wanted) == one.ids(wanted)


@needs_server
def test_databases_and_prefixes_keep_stores_apart(reactor: OwnReactor, server: RedisServer) -> None:
    with (
        opened(reactor, server) as one,
        opened(reactor, server, ":database=3") as second,
        opened(reactor, server, ":prefix=x") as third,
    ):
        one.ingest(note())
        assert second.ids() == third.ids() == set()
        third.ingest(note(kind=7))
        assert len(one.ids()) == 1


@needs_server
def test_racing_writers_agree(reactor: OwnReactor, server: RedisServer) -> None:
    """Versions, deletions and duplicates from four nodes at once leave one sound state."""
    history = [note(NOW + n // 2, kind=0, content=str(n)) for n in range(40)]
    history += [note(NOW + n, kind=1, content=str(n)) for n in range(40)]
    history += [note(kind=5, tags=[["e", event.id]]) for event in history[40:60]]
    nodes = [opened(reactor, server) for _ in range(4)]
    with nodes[0] as one, nodes[1] as two, nodes[2] as three, nodes[3] as four:
        work = []
        for seed, node in enumerate((one, two, three, four)):
            mixed = Random(seed).sample(history, len(history))
            for at in range(0, len(mixed), 7):
                work.append(Deferred.fromCoroutine(node.store.ingest(mixed[at : at + 7])))
        reactor.wait(gatherResults(work))
        newest = min(history[38:40], key=lambda event: event.id)
        expected = {event.id_bytes for event in [newest, *history[60:]]}
        for node in (one, two, three, four):
            node.until_known(*history[80:])
            assert node.ids() == expected
        one.assert_sound()


@needs_server
def test_node_that_misses_entries_loads_anew(reactor: OwnReactor, server: RedisServer) -> None:
    """It stands still while the feed, which keeps one entry only, goes on."""
    first, late = note(content="first"), [note(content=str(n)) for n in range(20)]
    others = OwnReactor()
    with opened(reactor, server) as one:
        told: list[Event] = []
        one.store.watch(EVERYTHING, lambda event, json: told.append(event))
        one.ingest(first)
        with opened(others, server, feed_room=1) as other:
            for event in late:
                other.ingest(event)
            other.ingest(note(kind=5, tags=[["e", first.id]]))
        others.close()
        before = one.store.generation
        one.until_known(*late)
        assert first.id_bytes not in one.ids()
        assert one.store.generation > before
        missed = sorted(event.id for event in told if event.kind == 1 and event != first)
        assert missed == sorted(event.id for event in late)


@needs_server
def test_feed_keeps_to_its_room(reactor: OwnReactor, server: RedisServer) -> None:
    with opened(reactor, server, feed_room=5000) as one:
        for number in range(50):
            one.ingest(note(content="x" * 500 + str(number)))
        length = int(server.command("XLEN", "{negd}:feed")[1:])
        assert 2 <= length <= 8
        assert server.command("LLEN", "{negd}:feed-sizes") == b":%d" % length


@needs_server
def test_large_events_come_in_pieces(
    reactor: OwnReactor, server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No reply holds much more than a megabyte of them; verification has to take what it gets."""
    events = [note(NOW - n, content=f"{n} " + "x" * 400_000) for n in range(30)]
    ids = [event.id_bytes for event in events]
    replies: list[int] = []
    run = Link.run

    def noted(link: Link, command: str, *arguments: object) -> Deferred[list[bytes]]:
        def note_size(reply: list[bytes]) -> list[bytes]:
            replies.append(sum(map(len, reply)))
            return reply

        return run(link, command, *arguments).addCallback(note_size)

    with opened(reactor, server) as one:
        one.ingest(*events)
        monkeypatch.setattr(Link, "run", noted)
        page = reactor.wait(one.store.query(EVERYTHING))
        assert (len(page.events), page.last) == (3, events[2].record)
        held = reactor.wait(one.store.fetch([bytes(32), *ids, bytes(32)]))
        assert list(held) == ids
        tagless = Filter.build(ids=ids, tags={"t": ["x"]})
        assert one.ids(Filter.build(ids=ids)) == set(ids) and one.ids(tagless) == set()
        assert reactor.wait(one.store.query(Filter.build(ids=ids))).last == events[2].record
        assert 1_000_000 < max(replies) < 1_500_000
        replies.clear()
        wanted = Filter.build(ids=ids, until=NOW)
        page = reactor.wait(one.store.query(wanted, events[2].record))
        assert [decode(json) for json in page.events] == events[3:6]
        assert sum(replies) < 1_500_000, "ids are looked up without reading their events"
        one.assert_sound()
        assert max(replies) < sum(len(event.encode()) for event in events) / 2


# --- leases -------------------------------------------------------------------------------------


@needs_server
def test_one_node_holds_a_lease(reactor: OwnReactor, server: RedisServer) -> None:
    with opened(reactor, server) as one, opened(reactor, server) as other:
        ours, theirs = ILeases(one.storage), ILeases(other.storage)
        assert reactor.wait(ours.hold("wss://a.example", 30))
        assert reactor.wait(ours.hold("wss://a.example", 30))
        assert not reactor.wait(theirs.hold("wss://a.example", 30))
        assert reactor.wait(theirs.hold("wss://b.example", 30))
        reactor.wait(theirs.release("wss://a.example"))
        assert not reactor.wait(theirs.hold("wss://a.example", 30))
        reactor.wait(ours.release("wss://a.example"))
        assert reactor.wait(theirs.hold("wss://a.example", 30))


_HOLDING = """
import sys
from negd.storage import open_store
from negd.testing.ports import free_port
from negd.testing.redis_server import OwnReactor
reactor = OwnReactor()
storage = reactor.wait(open_store(sys.argv[1], reactor))
print(reactor.wait(storage.hold("wss://a.example", 2.0)), flush=True)
sys.stdin.read()
"""


def run_python(script: str, *arguments: str) -> subprocess.Popen[str]:
    """A process of its own in which ``script`` runs, with pipes to and from it."""
    return subprocess.Popen(
        [sys.executable, "-c", script, *arguments],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )


@needs_server
def test_lease_of_a_killed_node_is_taken_over(reactor: OwnReactor, server: RedisServer) -> None:
    with opened(reactor, server) as one, run_python(_HOLDING, server.store) as other:
        assert other.stdout is not None and other.stdout.readline() == "True\n"
        taken = time.monotonic()
        assert not reactor.wait(one.storage.hold("wss://a.example", 30))
        other.kill()
        one.until(lambda: reactor.wait(one.storage.hold("wss://a.example", 30)))
        assert 1.0 < time.monotonic() - taken < 4.0


# --- crashes ------------------------------------------------------------------------------------


@needs_server
def test_server_that_comes_back(reactor: OwnReactor, server: RedisServer) -> None:
    with opened(reactor, server) as one:
        told: list[Event] = []
        one.store.watch(EVERYTHING, lambda event, json: told.append(event))
        events = [note(content=str(n)) for n in range(3)]
        one.ingest(events[0])
        server.kill()
        began = time.monotonic()
        for attempt in (
            lambda: one.ingest(events[1]),
            one.ids,
            lambda: one.ids(Filter.build(kinds=[1])),
            lambda: reactor.wait(one.store.known([events[0].id_bytes])),
            lambda: reactor.wait(one.storage.book.put("wss://a.example", PeerState())),
            lambda: reactor.wait(one.storage.hold("wss://a.example", 5)),
        ):
            with pytest.raises(StorageError, match=r"^redis 127.0.0.1:"):
                attempt()
        assert time.monotonic() - began < 2.0
        server.start()
        one.until(lambda: one.ingest(events[2]))
        assert one.ids() == {events[0].id_bytes, events[2].id_bytes}
        assert told == [events[0], events[2]]
        one.assert_sound()


@needs_server
def test_server_that_comes_back_with_less(reactor: OwnReactor, server: RedisServer) -> None:
    """What a node believes to be there is what is there."""
    with opened(reactor, server) as one:
        one.ingest(note(content="lost"))
        server.kill()
        server.folder = server.folder.with_name("empty")
        server.start()
        one.until(lambda: one.ids() == set())
        event = note(content="new")
        assert one.ingest(event) == [Outcome.STORED]
        assert one.ids() == {event.id_bytes}
        one.assert_sound()


@needs_server
def test_lost_connections_are_made_again(reactor: OwnReactor, server: RedisServer) -> None:
    with opened(reactor, server) as one:
        for number in range(3):
            server.command("CLIENT", "KILL", "TYPE", "normal")
            event = note(content=str(number))
            one.until(lambda event=event: one.ingest(event))
            one.until_known(event)
        server.command("SCRIPT", "FLUSH")
        one.until(lambda: one.ingest(note(content="later")))
        assert len(one.ids()) == 4


@needs_server
def test_store_is_closed_while_its_server_is_away(reactor: OwnReactor, server: RedisServer) -> None:
    with opened(reactor, server) as one:
        server.kill()
        one.until(lambda: not one.store.server._calls)
    assert not reactor.getDelayedCalls(), "nothing goes on"


@needs_server
def test_feed_with_a_foreign_entry(reactor: OwnReactor, server: RedisServer) -> None:
    """The node answers nothing that may be wrong, until the entry is gone."""
    with opened(reactor, server) as one:
        one.ingest(note())
        foreign = "99999999999999-1"
        server.command("XADD", "{negd}:feed", foreign, "c", "nonsense")
        reactor.wait(deferLater(reactor, 0.5))
        with pytest.raises(StorageError, match="feed"):
            one.ids()
        server.command("XDEL", "{negd}:feed", foreign)
        one.until(lambda: one.ingest(note(content="later")) == [Outcome.STORED])
        assert len(one.ids()) == 2


@needs_server
def test_full_memory_refuses_writes_and_loses_nothing(
    reactor: OwnReactor, server: RedisServer
) -> None:
    with opened(reactor, server) as one:
        one.ingest(*sample_events(50, until=NOW))
        before = one.ids()
        server.command("CONFIG", "SET", "maxmemory", "1mb")
        later = [note(content=str(n)) for n in range(20)]
        with pytest.raises(StorageError, match="OOM"):
            one.ingest(*later)
        with pytest.raises(StorageError, match="OOM"):
            entries = {bytes(32): LedgerEntry(Residue.UNFETCHABLE, "", 1, 1.0)}
            reactor.wait(one.storage.book.write_ledger("wss://a.example", entries, []))
        assert one.ids() == one.ids(Filter.build(kinds=range(65536))) == before
        one.assert_sound()
        server.command("CONFIG", "SET", "maxmemory", "0")
        assert one.ingest(*later) == [Outcome.STORED] * 20
        one.assert_sound()


@needs_server
def test_full_memory_is_not_outgrown_by_what_begins_with_a_removal(
    reactor: OwnReactor, server: RedisServer
) -> None:
    first = note(kind=0, content="first")
    passing = note(content="passing", tags=[["expiration", str(NOW + 5)]])
    clock = StandingClock()
    entry = {bytes(32): LedgerEntry(Residue.UNFETCHABLE, "", 1, 1.0)}
    entries = {bytes([n]) * 32: LedgerEntry(Residue.UNFETCHABLE, "", 1, 1.0) for n in range(9)}
    with opened(reactor, server, clock=clock) as one:
        one.ingest(first, passing)
        book = one.storage.book
        reactor.wait(book.write_ledger("wss://a.example", entry, []))
        server.command("CONFIG", "SET", "maxmemory", "1")
        later = [note(NOW + 1, content=str(n)) for n in range(20)]
        for events in ([note(NOW + 1, kind=0), *later], [note(NOW + 1, kind=5), *later]):
            with pytest.raises(StorageError, match="OOM"):
                one.ingest(*events)
        with pytest.raises(StorageError, match="OOM"):
            reactor.wait(book.write_ledger("wss://a.example", entries, []))
        assert one.ids() == {first.id_bytes, passing.id_bytes}

        clock.rightNow = NOW + 5
        assert one.ids() == {first.id_bytes}
        assert server.command("HLEN", "{negd}:events") == b":1", "what gives room is allowed"
        reactor.wait(book.write_ledger("wss://a.example", {}, [*entry]))
        assert reactor.wait(book.residues("wss://a.example")) == {}
        one.assert_sound()


@needs_server
def test_nodes_connect_and_start_while_memory_is_full(
    reactor: OwnReactor, server: RedisServer
) -> None:
    event = note()
    with opened(reactor, server) as one:
        one.ingest(event)
        server.command("CONFIG", "SET", "maxmemory", "1")
        server.command("CLIENT", "KILL", "TYPE", "normal")
        one.until(lambda: complaint(one) != "")
        one.until_known(event)
        with opened(reactor, server) as other:
            assert other.ids() == other.ids(Filter.build(kinds=[1])) == {event.id_bytes}
            with pytest.raises(StorageError, match="OOM"):
                other.ingest(note(content="no room"))
        fresh = pytest.raises(StorageError, match="OOM")
        with fresh, opened(reactor, server, ":prefix=new"):
            pass


@needs_server
def test_full_disk_leaves_expired_events_out_of_answers(
    reactor: OwnReactor, server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("negd.storage.redis.store._SWEEP", 2)
    monkeypatch.setattr("negd.storage.redis.store._SWEEP_BYTES", 1)
    kept = note(tags=[["t", "x"]])
    going = [
        note(content=str(n), tags=[["t", "x"], ["expiration", str(NOW + 5 + n // 3)]])
        for n in range(6)
    ]
    clock = StandingClock()
    with opened(reactor, server, clock=clock) as one:
        one.ingest(kept, *going)
        refuse_writes(server)
        with pytest.raises(StorageError, match="MISCONF"):
            one.ingest(note(content="no"))
        everyone = {event.id_bytes for event in (kept, *going)}
        assert one.ids() == everyone

        for second, left in ((5, going[3:]), (6, [])):
            before = one.store.generation
            clock.rightNow = NOW + second
            assert one.store.generation > before
            assert_left(one, kept, left, everyone)
            with opened(reactor, server, clock=clock) as new:
                assert_left(new, kept, left, everyone)
        told: list[Event] = []
        one.store.watch(EVERYTHING, lambda event, json: told.append(event))
        take_writes(server)
        server.command("DEL", "{negd}:feed", "{negd}:feed-sizes")  # the node loads everything anew
        server.command("HSET", "{negd}:meta", "head", "1-0", "held", "0")
        refuse_writes(server)
        server.command("CLIENT", "KILL", "TYPE", "normal")
        one.until(lambda: complaint(one) != "")
        one.until(lambda: complaint(one) == "")
        assert_left(one, kept, [], everyone)
        assert told == []

        take_writes(server)
        clock.advance(1.5)
        one.until(lambda: server.command("HLEN", "{negd}:events") == b":1")
        assert_left(one, kept, [], everyone)
        assert not one.store._unswept
        assert one.ingest(note(content="later")) == [Outcome.STORED]
        one.assert_sound()


@needs_server
def test_no_more_is_left_out_of_answers_than_there_is_room_for(
    reactor: OwnReactor, server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("negd.storage.redis.store.MOST", 2)
    clock = StandingClock()
    with opened(reactor, server, clock=clock) as one:
        one.ingest(*(note(content=str(n), tags=[["expiration", str(NOW + 5)]]) for n in range(2)))
        refuse_writes(server)
        clock.rightNow = NOW + 5
        for _ in range(2):
            with pytest.raises(StorageError, match=r"MISCONF.*; 2 expired events and more wait"):
                one.ids()
        take_writes(server)
        assert one.ids() == set()


# --- servers that say no ------------------------------------------------------------------------


@needs_server
def test_read_only(reactor: OwnReactor, server: RedisServer) -> None:
    refusal = pytest.raises(StorageError, match=r"there is no store under {negd}:")
    with refusal, opened(reactor, server, read_only=True):
        pass
    with opened(reactor, server) as one:
        one.ingest(note())
        with opened(reactor, server, read_only=True) as reading:
            assert reading.ids() == one.ids()
            with pytest.raises(StorageError, match="open for reading"):
                reading.ingest(note(content="no"))


@needs_server
def test_closed_store_says_so(reactor: OwnReactor, server: RedisServer) -> None:
    with opened(reactor, server) as one:
        work = Deferred.fromCoroutine(one.store.ingest([note()]))
    assert work.called, "what was handed in is finished"
    for attempt in (one.ids, lambda: one.ids(Filter.build(kinds=[1])), lambda: one.ingest(note())):
        with pytest.raises(StorageError, match="the store is closed"):
            attempt()


@needs_server
def test_newer_schema_is_refused(reactor: OwnReactor, server: RedisServer) -> None:
    server.command("HSET", "{negd}:meta", "schema", "2")
    refusal = pytest.raises(StorageError, match="is of schema 2; this negd reads schema 1")
    with refusal, opened(reactor, server):
        pass


@needs_server
def test_password_and_user(reactor: OwnReactor, server: RedisServer, tmp_path: Path) -> None:
    """The user may do what docs/redis.md says a user must be able to do, and no more."""
    rules = ["on", ">secret", "~{negd}:*", "+@read", "+@write", "+@scripting", "+info", "+select"]
    assert server.command("ACL", "SETUSER", "negd", *rules) == b"+OK"
    secret = tmp_path / "secret"
    secret.write_text("wrong")
    options = f":user=negd:password-file={secret}"
    with pytest.raises(StorageError, match="WRONGPASS"), opened(reactor, server, options):
        pass
    secret.write_text("secret\n")
    with opened(reactor, server, options) as one:
        one.ingest(note())
        assert one.ids() == one.ids(Filter.build(kinds=[1])) != set()
        assert reactor.wait(one.storage.hold("wss://a.example", 5))
        server.command("DEL", "{negd}:feed-sizes")
        assert one.verify(repair=True).repaired == 1
        one.assert_sound()
    assert server.command("CONFIG", "SET", "requirepass", "open sesame") == b"+OK"
    refusal = pytest.raises(StorageError, match=r"NOAUTH|Authentication required")
    with refusal, opened(reactor, server):
        pass
    secret.write_text("open sesame")
    with opened(reactor, server, f":password-file={secret}") as one:
        assert len(one.ids()) == 1


@needs_server
@pytest.mark.parametrize("policy", ["allkeys-lru", "volatile-lru", "volatile-ttl"])
def test_server_that_would_throw_events_or_leases_away(
    reactor: OwnReactor, tmp_path: Path, policy: str
) -> None:
    options = ("--maxmemory", "100mb", "--maxmemory-policy", policy)
    with RedisServer(tmp_path / "redis", *options) as server:
        refusal = pytest.raises(StorageError, match=f"{policy} .*expected noeviction")
        with refusal, opened(reactor, server):
            pass


@needs_server
def test_replica_is_refused_until_it_takes_over(
    reactor: OwnReactor, server: RedisServer, tmp_path: Path
) -> None:
    with opened(reactor, server) as one:
        one.ingest(note())
        server.command("CONFIG", "SET", "repl-diskless-sync-delay", "0")
        options = ("--replicaof", "127.0.0.1", str(server.port))
        with RedisServer(tmp_path / "replica", *options) as replica:
            one.until(lambda: replica.command("EXISTS", "{negd}:events") == b":1")
            with pytest.raises(StorageError, match="is a replica"), opened(reactor, replica):
                pass
            replica.command("REPLICAOF", "NO", "ONE")
            with opened(reactor, replica) as other:
                assert other.ids() == one.ids()
                assert other.ingest(note(content="more")) == [Outcome.STORED]


def cluster_port() -> int:
    """A free one; nodes talk to each other on ports that are 10,000 higher."""
    return next(port for port in iter(free_port, 0) if port < 55_000)


@needs_server
def test_cluster_keeps_a_store_on_one_node(reactor: OwnReactor, tmp_path: Path) -> None:
    """Whichever node is named, the one that has the slot is used."""
    options = ("--cluster-enabled", "yes")
    with (
        RedisServer(tmp_path / "a", *options, port=cluster_port()) as first,
        RedisServer(tmp_path / "b", *options, port=cluster_port()) as second,
    ):
        half = list(map(str, range(8192))), list(map(str, range(8192, 16384)))
        for node, slots in zip((first, second), half, strict=True):
            assert node.command("CLUSTER", "ADDSLOTS", *slots) == b"+OK"
        assert first.command("CLUSTER", "MEET", "127.0.0.1", str(second.port)) == b"+OK"
        deadline = time.monotonic() + 20
        while any(node.command("EXISTS", "{negd}:x")[:5] == b"-CLUS" for node in (first, second)):
            assert time.monotonic() < deadline
            time.sleep(0.1)
        events = list(sample_events(100, until=NOW))
        with opened(reactor, first) as one, opened(reactor, second) as other:
            one.ingest(*events)
            other.ingest(note(content="more"))
            one.until(lambda: one.ids() == other.ids())
            assert one.ids(Filter.build(kinds=[1])) == other.ids(Filter.build(kinds=[1]))
            one.assert_sound()


@needs_server
@needs_server
def test_whatever_fails_while_connecting_is_tried_again(
    reactor: OwnReactor, server: RedisServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A password file in the middle of being changed, then something that nobody thought of."""
    secret = tmp_path / "secret"
    secret.write_bytes(b"")
    attempts = 0

    def broken(address: ServerAddress, reactor: object) -> None:
        nonlocal attempts
        attempts += 1
        raise ZeroDivisionError

    with opened(reactor, server, f":password-file={secret}") as one:
        event = note()
        one.ingest(event)
        secret.write_bytes(b"\xff\xfe")
        server.kill()
        one.until(lambda: complaint(one) != "")
        assert "abortConnection" not in complaint(one)
        one.until(lambda: "it is not UTF-8" in complaint(one))
        with monkeypatch.context() as patch:
            patch.setattr(ServerAddress, "endpoint", broken)
            one.until(lambda: attempts > 1)
            assert "ZeroDivisionError" in complaint(one)
        secret.write_bytes(b"")
        server.start()
        one.until_known(event)


class StandingClock(Clock):
    """Time stands still, at ``NOW`` first."""

    def __init__(self) -> None:
        super().__init__()
        self.rightNow = NOW


def refuse_writes(server: RedisServer) -> None:
    """Have the server answer writes ``MISCONF``, as it does when its disk is full."""
    (server.folder / "dump.rdb" / "in-the-way").mkdir(parents=True, exist_ok=True)
    server.command("CONFIG", "SET", "save", "3600 1000000")
    server.command("CONFIG", "SET", "stop-writes-on-bgsave-error", "yes")
    server.command("BGSAVE")
    deadline = time.monotonic() + 20
    while server.command("SET", "x", "x") == b"+OK":
        assert time.monotonic() < deadline
        time.sleep(0.02)


def take_writes(server: RedisServer) -> None:
    """End that."""
    server.command("CONFIG", "SET", "stop-writes-on-bgsave-error", "no")


def assert_left(node: Node, kept: Event, left: list[Event], everyone: set[bytes]) -> None:
    """Every way of reading agrees on what there is."""
    there = {kept.id_bytes, *(event.id_bytes for event in left)}
    wait, store = node.reactor.wait, node.store
    ids = sorted(everyone)
    for wanted in (
        EVERYTHING,
        Filter.build(since=1),
        Filter.build(kinds=[1]),
        Filter.build(kinds=[1, 2]),
        Filter.build(kinds=[1], tags={"t": ["x"]}),
        Filter.build(ids=ids),
        Filter.build(kinds=[1], limit=50),
    ):
        assert node.ids(wanted) == there
        assert wait(store.count(wanted)) == len(there)
        listed, last, more = [], None, True
        while more:
            page = wait(store.query(wanted, last, 2))
            listed += [decode(json).id_bytes for json in page.events]
            last, more = page.last, page.last is not None
        assert sorted(listed) == sorted(there)
    assert set(wait(store.fetch(ids))) == wait(store.known(ids)) == there
    assert wait(store.statistics()).events == len(there)


def complaint(node: Node) -> str:
    """Why a node has no server; empty where it has one."""
    try:
        node.reactor.wait(node.store.count(EVERYTHING))
    except StorageError as error:
        return error.text
    return ""


class TestTLS(TestCase):
    """TLS ends in front of the server, as it does in many places."""

    async def test_certificates_are_checked(self) -> None:
        from twisted.internet import reactor  # Twisted's TLS knows no other

        folder = Path(self.mktemp())
        with RedisServer(folder) as server:
            certificate = certificate_for("localhost")
            authority = folder / "authority.pem"
            authority.write_bytes(certificate.dumpPEM())
            forwarding = ProxyFactory("127.0.0.1", server.port)
            port = reactor.listenSSL(  # type: ignore[attr-defined]
                0, forwarding, certificate.options(), interface="127.0.0.1"
            )
            store = f"redis:localhost:{port.getHost().port}:tls=yes"
            with pytest.raises(StorageError, match="certificate verify failed"):
                await open_store(store, reactor)
            storage = await open_store(f"{store}:authority={authority}", reactor)
            await storage.events.ingest([note()])
            assert len(await storage.events.snapshot(EVERYTHING)) == 1
            await storage.close()
            await port.stopListening()

    async def test_a_server_without_tls_is_told_from_one_that_is_slow(self) -> None:
        from twisted.internet import reactor  # Twisted's TLS knows no other

        self.patch(Link.command, "__kwdefaults__", {"within": 0.5})
        silence = pytest.raises(StorageError, match=r"answer; expected a Redis server with TLS$")
        with RedisServer(Path(self.mktemp())) as server, silence:
            await open_store(f"{server.store}:tls=yes", reactor)

    async def test_a_server_may_ask_for_a_certificate_of_ours(self) -> None:
        from twisted.internet import reactor  # Twisted's TLS knows no other

        folder = Path(self.mktemp())
        with RedisServer(folder) as server:
            theirs, ours = certificate_for("localhost"), certificate_for("negd")
            (folder / "authority.pem").write_bytes(theirs.dumpPEM())
            (folder / "ours.pem").write_bytes(ours.dumpPEM() + ours.privateKey.dump(FILETYPE_PEM))
            port = reactor.listenSSL(  # type: ignore[attr-defined]
                0,
                ProxyFactory("127.0.0.1", server.port),
                theirs.options(Certificate.loadPEM(ours.dumpPEM())),
                interface="127.0.0.1",
            )
            store = (
                f"redis:localhost:{port.getHost().port}:tls=yes:authority={folder}/authority.pem"
            )
            with pytest.raises(StorageError, match=r"certificate required|handshake failure"):
                await open_store(store, reactor)
            storage = await open_store(f"{store}:certificate={folder}/ours.pem", reactor)
            await storage.events.ingest([note()])
            await storage.close()
            await port.stopListening()
