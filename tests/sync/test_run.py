"""Syncs between real nodes over in-memory links, and with peers that misbehave."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from itertools import count
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import Clock

from negd.errors import PeerError, ProtocolViolation
from negd.interfaces import Direction, LedgerEntry, PeerProfile, Residue, SyncProgress, Verdict
from negd.nostr.document import RelayDocument
from negd.nostr.event import Event, check, decode
from negd.nostr.filter import EVERYTHING, Filter
from negd.nostr.signing import Signer
from negd.settings import SessionSettings, SyncSettings
from negd.storage.memory import MemoryBook
from negd.sync import negotiation
from negd.sync.contact import get_in_touch
from negd.testing.links import MemoryDialer, MemoryPeer, PeerEnd, ScriptedPeer, drive, settle
from negd.testing.nodes import THEIRS, InFront, MemoryNode, World, failure_of

alice = Signer(b"\x01" * 32)
events = [
    alice.sign(created_at=1000 + n // 3, kind=1 + n % 2, tags=[["t", str(n % 5)]], content=str(n))
    for n in range(600)
]
ids = [event.id_bytes for event in events]


def run(
    world: World,
    wanted: Filter = EVERYTHING,
    direction: Direction = Direction.BOTH,
    url: str = THEIRS,
    book: MemoryBook | None = None,
    profile: PeerProfile = PeerProfile(),  # noqa: B008
) -> SyncProgress:
    """A sync of ours to its end."""
    sync = world.run_of(url, wanted=wanted, direction=direction, book=book, profile=profile)
    return drive(world.clock, sync.run())


def start(
    world: World, url: str = THEIRS, report: Callable[[SyncProgress], None] = lambda _: None
) -> Deferred[SyncProgress]:
    """A sync of ours that is only begun."""
    sync = world.run_of(url, report=report)
    return Deferred.fromCoroutine(sync.run())


def asked_ids(world: World) -> list[str]:
    """The ids of every REQ on the last link."""
    sent = [json.loads(text) for text in world.dialer.links[-1].sent]
    return [event_id for m in sent if m[0] == "REQ" for event_id in m[2]["ids"]]


def labels(world: World) -> list[str]:
    return [json.loads(text)[0] for text in world.dialer.links[-1].sent]


def test_both_sides_end_up_with_everything() -> None:
    world = World()
    world.ours.hold(events[:400])
    world.theirs.hold(events[200:])
    done = run(world)
    assert world.ours.held() == world.theirs.held() == set(ids)
    assert (done.have, done.need, done.fetched, done.sent) == (200, 200, 200, 200)
    assert done.complete
    assert not (done.rejected or done.refused or done.unfetchable or done.explained)
    again = run(world)
    assert (again.have, again.need, again.fetched, again.sent) == (0, 0, 0, 0)
    assert labels(world) == ["NEG-OPEN", "NEG-CLOSE"]


def test_directions() -> None:
    for direction, ours, theirs in (
        (Direction.DOWN, ids[:600], ids[200:]),
        (Direction.UP, ids[:400], ids[:600]),
    ):
        world = World()
        world.ours.hold(events[:400])
        world.theirs.hold(events[200:])
        done = run(world, direction=direction)
        assert world.ours.held() == set(ours)
        assert world.theirs.held() == set(theirs)
        assert (done.have, done.need) == (200, 200)


def test_a_filter_limits_what_moves() -> None:
    world = World()
    world.ours.hold(events[:300])
    world.theirs.hold(events[300:])
    wanted = Filter.build(kinds=[1], tags={"t": ["2"]}, since=1010, until=1180)
    run(world, wanted)
    matching = {event.id_bytes for event in events if wanted.matches(event)}
    assert world.ours.held() == set(ids[:300]) | matching
    assert world.theirs.held() == set(ids[300:]) | matching


def test_a_limit_takes_the_newest() -> None:
    world = World()
    world.theirs.hold(events)
    run(world, Filter(limit=30))
    assert world.ours.held() == {
        e.id_bytes for e in sorted(events, key=lambda e: (-e.created_at, e.id))[:30]
    }


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32), st.sampled_from([4096, 60_000]), st.integers(1, 9))
def test_any_two_sets_become_equal(seed: int, frame_limit: int, batch: int) -> None:
    random = Random(seed)
    world = World(SyncSettings(frame_limit=frame_limit, fetch_batch=batch, upload_window=batch))
    shared = random.random()
    for event in events[:300]:
        fate = random.random()
        if fate < shared or fate < (1 + shared) / 2:
            world.ours.hold([event])
        if fate < shared or fate >= (1 + shared) / 2:
            world.theirs.hold([event])
    run(world)
    assert world.ours.held() == world.theirs.held() == set(ids[:300])


def test_progress_is_told_round_by_round_and_batch_by_batch() -> None:
    world = World(SyncSettings(fetch_batch=50))
    world.theirs.hold(events)
    told: list[SyncProgress] = []
    done = start(world, report=told.append)
    settle(world.clock)
    assert done.called
    assert {p.round for p in told} == set(range(1, told[-1].round + 1))
    assert len({p.fetched for p in told}) > 5
    assert [p.complete for p in told].count(True) == 1
    assert told[-1].complete
    assert told[-1].fetched == 600


def test_transfers_do_not_wait_for_the_last_round() -> None:
    world = World(SyncSettings(frame_limit=4096, fetch_batch=20))
    many = [alice.sign(created_at=n) for n in range(3000)]
    world.ours.hold(many[::2])
    world.theirs.hold(many[1::2])
    assert run(world).fetched == 1500
    sent = labels(world)
    last_round = len(sent) - 1 - sent[::-1].index("NEG-MSG")
    assert sent.index("REQ") < last_round
    assert sent.index("EVENT") < last_round


# --- what each side holds against events --------------------------------------------------------


def test_what_we_refuse_is_explained_and_not_fetched_again() -> None:
    world = World()
    old, new = (alice.sign(created_at=at, kind=0, content=str(at)) for at in (10, 20))
    world.ours.hold([new])
    world.theirs.hold([old])
    book = MemoryBook()
    first = run(world, direction=Direction.DOWN, book=book)
    assert (first.need, first.fetched, first.refused) == (1, 0, 1)
    (entry,) = drive(world.clock, book.ledger(THEIRS, [old.id_bytes])).values()
    assert (entry.residue, entry.text) == (Residue.OURS_REJECTED, "replaced: have a newer event")
    assert entry.lost_to == new.id
    second = run(world, direction=Direction.DOWN, book=book)
    assert (second.need, second.refused, second.explained) == (1, 0, 1)
    assert asked_ids(world) == []
    world.clock.advance(29 * 24 * 3600)
    assert run(world, direction=Direction.DOWN, book=book).explained == 1
    assert asked_ids(world) == []


def test_what_was_replaced_here_comes_when_the_newer_version_is_deleted() -> None:
    world = World()
    old, new = (alice.sign(created_at=at, kind=0, content=str(at)) for at in (10, 20))
    world.ours.hold([new])
    world.theirs.hold([old])
    book = MemoryBook()
    assert run(world, direction=Direction.DOWN, book=book).refused == 1
    world.ours.hold([alice.sign(created_at=30, kind=5, tags=[["e", new.id]])])
    assert run(world, direction=Direction.DOWN, book=book).fetched == 1
    assert drive(world.clock, book.residues(THEIRS)) == {}


def test_what_is_deleted_here_is_not_fetched_again_and_again() -> None:
    world = World()
    doomed = alice.sign(created_at=10)
    world.ours.hold([alice.sign(created_at=11, kind=5, tags=[["e", doomed.id]])])
    world.theirs.hold([doomed])
    book = MemoryBook()
    assert run(world, direction=Direction.DOWN, book=book).refused == 1
    world.clock.advance(29 * 24 * 3600)
    settled = run(world, direction=Direction.DOWN, book=book)
    assert (settled.refused, settled.explained) == (0, 1)


def test_what_the_peer_refuses_is_explained_and_not_pushed_again() -> None:
    world = World()
    doomed = alice.sign(created_at=10)
    deletion = alice.sign(created_at=11, kind=5, tags=[["e", doomed.id]])
    world.ours.hold([doomed, events[0]])
    world.theirs.hold([deletion])
    book = MemoryBook()
    first = run(world, direction=Direction.UP, book=book)
    assert (first.have, first.sent, first.rejected) == (2, 1, 1)
    (entry,) = drive(world.clock, book.ledger(THEIRS, [doomed.id_bytes])).values()
    assert entry.residue is Residue.THEIRS_REJECTED
    assert entry.text.startswith("deleted:")
    world.clock.advance(29 * 24 * 3600)
    second = run(world, direction=Direction.UP, book=book)
    assert (second.sent, second.rejected, second.explained) == (0, 0, 1)
    assert "EVENT" not in labels(world)


def test_what_the_peer_has_a_newer_version_of_is_pushed_when_that_is_deleted() -> None:
    world = World()
    old, new = (alice.sign(created_at=at, kind=0, content=str(at)) for at in (10, 20))
    world.ours.hold([old])
    world.theirs.hold([new])
    book = MemoryBook()
    assert run(world, direction=Direction.UP, book=book).rejected == 1
    world.theirs.hold([alice.sign(created_at=30, kind=5, tags=[["e", new.id]])])
    world.clock.advance(SyncSettings().ledger_retry)
    assert run(world, direction=Direction.UP, book=book).sent == 1
    assert old.id_bytes in world.theirs.held()


def test_an_explained_difference_that_resolves_is_struck_out() -> None:
    world = World()
    world.theirs.hold(events[:1])
    book = MemoryBook()
    listed = Relay(events[:1], hidden=set(ids[:1]))
    world.dialer.peers["ws://odd.example"] = listed.link
    assert run(world, url="ws://odd.example", book=book).unfetchable == 1
    assert drive(world.clock, book.residues("ws://odd.example")) == {Residue.UNFETCHABLE: 1}
    listed.hidden.clear()
    world.clock.advance(SyncSettings().ledger_retry)
    assert run(world, url="ws://odd.example", book=book).fetched == 1
    assert drive(world.clock, book.residues("ws://odd.example")) == {}


# --- peers that are not like us -----------------------------------------------------------------


class Relay:
    """A relay by hand: its events, and how it departs from the rules."""

    def __init__(self, held: Iterable = (), hidden: set[bytes] | None = None, cap: int = 10**9):  # type: ignore[type-arg]
        self.clock = Clock()
        self.node = MemoryNode("ws://inner.example", MemoryDialer({}, self.clock), self.clock)
        self.node.hold(list(held))
        self.hidden = hidden or set()
        self.cap = cap
        self.largest_request = 0

    def link(self) -> MemoryPeer:
        answers: list[bytes] = []

        class End:
            def send(self, text: bytes) -> None:
                answers.append(text)

            def close(self, reason: str = "") -> None:
                pass

        inner = self.node.serve()
        inner.connected(End())  # type: ignore[arg-type]

        def script(text: bytes) -> list[bytes]:
            inner.received(text)
            settle(self.clock)
            said, answers[:] = list(answers), []
            return self.bent(said)

        return ScriptedPeer(script)

    def bent(self, said: list[bytes]) -> list[bytes]:
        delivered = 0
        kept = []
        for text in said:
            message = json.loads(text)
            if message[0] == "EVENT":
                delivered += 1
                if delivered > self.cap or bytes.fromhex(message[2]["id"]) in self.hidden:
                    continue
            kept.append(text)
        return kept


def test_a_relay_that_caps_its_answers_is_asked_for_the_rest() -> None:
    world = World()
    world.dialer.peers["ws://odd.example"] = Relay(events[:300], cap=7).link
    done = run(world, url="ws://odd.example")
    assert world.ours.held() == set(ids[:300])
    assert done.unfetchable == 0


def test_ids_that_are_listed_and_never_returned_are_reported() -> None:
    world = World()
    world.dialer.peers["ws://odd.example"] = Relay(events[:300], hidden=set(ids[5:15])).link
    done = run(world, url="ws://odd.example")
    assert world.ours.held() == set(ids[:5]) | set(ids[15:300])
    assert (done.fetched, done.unfetchable, done.complete) == (290, 10, True)


def scripted(world: World, script: Callable[[list], Iterable[object]]) -> Deferred[SyncProgress]:  # type: ignore[type-arg]
    """A sync with a peer whose answers a function makes, all in JSON."""
    peer = ScriptedPeer(lambda text: [json.dumps(a).encode() for a in script(json.loads(text))])
    world.dialer.peers["ws://odd.example"] = lambda: peer
    done = start(world, "ws://odd.example")
    settle(world.clock)
    return done


SUB = "n1"


def refusing(*refusals: object) -> Callable[[list], Iterable[object]]:  # type: ignore[type-arg]
    """A relay without events that answers NEG-OPEN so."""

    def script(message: list) -> Iterable[object]:  # type: ignore[type-arg]
        match message[0]:
            case "NEG-OPEN":
                return [[message[1] if part == SUB else part for part in one] for one in refusals]  # type: ignore[attr-defined]
            case "REQ":
                return [["EOSE", message[1]]]
        return []

    return script


@pytest.mark.parametrize(
    "refusal",
    [
        ["NOTICE", "negentropy error: something"],
        ["CLOSED", SUB, "auth-required: not for you"],
        ["CLOSED", SUB, ""],
        ["NEG-ERR", "", "CLOSED"],
        ["NEG-ERROR", SUB, "PROTOCOL-ERROR"],
        ["NEG-MSG", SUB, "00ff"],
        ["NEG-MSG", SUB, "6101"],
        ["NEG-ERR", SUB, "message too large"],
    ],
)
def test_a_refusal_is_understood_at_once_and_pages_are_read_instead(refusal: list[object]) -> None:
    world = World()
    finished: list[SyncProgress] = []
    scripted(world, refusing(refusal)).addCallback(finished.append)
    assert [progress.complete for progress in finished] == [True]
    assert labels(world)[-2:] == ["REQ", "CLOSE"]


@pytest.mark.parametrize(
    "refusal",
    [
        ["NOTICE", "too many concurrent NEG requests"],
        ["NOTICE", "rate-limited: slow down"],
        ["NEG-ERR", SUB, "rate-limited: slow down"],
    ],
)
def test_a_peer_that_asks_for_patience_gets_it_and_then_pages_are_read(
    refusal: list[object],
) -> None:
    world = World()
    peer = ScriptedPeer(
        lambda text: [json.dumps(a).encode() for a in refusing(refusal)(json.loads(text))]
    )
    world.dialer.peers[THEIRS] = lambda: peer
    sync = world.run_of()
    done = Deferred.fromCoroutine(sync.run())
    for second in range(50):
        settle(world.clock)
        if second > 2 and not done.called:
            assert labels(world).count("REQ") == 0
            assert str(refusal[-1]) == sync.slowed_by
        world.clock.advance(1)
    assert sync.progress.complete
    assert labels(world).count("NEG-OPEN") == 6
    assert sync.profile.nip77 is None, "another time it may reconcile"


def test_silence_is_waited_out_and_chatter_does_not_prolong_it() -> None:
    world = World()
    done = scripted(world, lambda m: [["NOTICE", "welcome"], ["AUTH", "x"], ["WHAT"]])
    link = world.dialer.links[-1]
    for _ in range(8):
        world.clock.advance(10)
        link.deliver(b'["NOTICE","still here"]')
        settle(world.clock)
        assert labels(world) == ["NEG-OPEN"]
    world.clock.advance(10)
    settle(world.clock)
    assert labels(world) == ["NEG-OPEN", "NEG-CLOSE", "REQ"]
    assert not done.called
    world.clock.advance(30)
    settle(world.clock)
    assert failure_of(done).args == ("no answer to a REQ for 30 s",)


@pytest.mark.parametrize(
    "text", ["could not parse command", "Welcome! unsupported clients see example.com"]
)
def test_notices_about_something_else_are_no_refusal(text: str) -> None:
    world = World(SyncSettings(frame_limit=4096))
    world.theirs.hold(events)
    world.ours.hold(events[::2])

    class Chatty(BreaksOff):
        def _script(self, said: bytes) -> list[bytes]:
            for _ in range(3):
                if said.startswith((b'["NEG-OPEN"', b'["NEG-MSG"')):
                    self.end.send(json.dumps(["NOTICE", text]).encode())
            self._inner.received(said)
            return []

    world.dialer.peers[THEIRS] = lambda: Chatty(world)
    sync = world.run_of()
    assert drive(world.clock, sync.run()).complete
    assert sync.profile.nip77 is True
    assert world.ours.held() == set(ids)
    assert labels(world).count("NEG-MSG") > 1


def test_a_notice_while_events_are_unanswered_may_be_about_them() -> None:
    world = World(SyncSettings(frame_limit=4096))
    world.ours.hold(events)
    world.theirs.hold(events[::2])

    class Slow(BreaksOff):
        def _script(self, said: bytes) -> list[bytes]:
            if said.startswith(b'["NEG-MSG"'):
                world.clock.callLater(5, self._inner.received, said)
                return []
            if said.startswith(b'["EVENT"'):
                world.clock.callLater(9, self._inner.received, said)
                return [b'["NOTICE","message too large: 70000 > 65536"]']
            self._inner.received(said)
            return []

    world.dialer.peers[THEIRS] = lambda: Slow(world)
    sync = world.run_of()
    Deferred.fromCoroutine(sync.run())
    for _ in range(200):
        settle(world.clock)
        world.clock.advance(1)
    assert sync.progress.complete
    assert world.theirs.held() == set(ids)
    assert (sync.profile.frame_limit, sync.profile.max_records) == (None, None)
    assert labels(world).count("NEG-OPEN") == 1


class BreaksOff(InFront):
    """Answers NEG-OPEN as it should, and every NEG-MSG with what breaks the session off."""

    def __init__(self, world: World, *answer: object) -> None:
        super().__init__(world.theirs)
        self._answer = answer

    def _script(self, text: bytes) -> list[bytes]:
        message = json.loads(text)
        if message[0] != "NEG-MSG":
            self._inner.received(text)
        elif self._answer:
            answer = [message[1] if part == SUB else part for part in self._answer]
            return [json.dumps(answer).encode()]
        return []


@pytest.mark.parametrize(
    "answer",
    [
        ["NEG-ERR", SUB, "closed: unknown subscription handle"],
        ["NEG-MSG", SUB, "61ff"],
        ["CLOSED", SUB, "error: internal"],
        [],
    ],
)
def test_a_peer_that_breaks_off_again_and_again_is_paged_through(answer: list[object]) -> None:
    world = World()
    many = [alice.sign(created_at=n) for n in range(2000)]
    world.ours.hold(many[::2])
    world.theirs.hold(many[1::2])
    world.dialer.peers[THEIRS] = lambda: BreaksOff(world, *answer)
    profile = PeerProfile()
    for tries in range(3):
        sync = world.run_of(profile=profile)
        done = Deferred.fromCoroutine(sync.run())
        settle(world.clock)
        world.clock.advance(30)
        settle(world.clock)
        assert isinstance(failure_of(done), PeerError | ProtocolViolation)
        profile = sync.profile
        assert (profile.nip77, profile.broken_off) == ((None, tries + 1), (False, 0))[tries == 2]
    assert profile.refusal
    assert run(world, profile=profile).complete
    assert world.ours.held() == world.theirs.held() == {event.id_bytes for event in many}


def test_a_peer_that_breaks_off_and_moves_events_each_time_is_not_given_up() -> None:
    world = World()
    world.ours.hold(events[:400])
    world.theirs.hold(events[200:])
    world.dialer.peers[THEIRS] = lambda: BreaksOff(world, "CLOSED", SUB, "error: internal")
    sync = world.run_of(profile=PeerProfile(broken_off=2))
    done = Deferred.fromCoroutine(sync.run())
    settle(world.clock)
    failure_of(done)
    assert sync.moved
    assert (sync.profile.nip77, sync.profile.broken_off) == (None, 0)


def test_a_peer_that_hangs_up_on_a_reconciliation_is_paged_through() -> None:
    world = World()
    world.theirs.hold(events[:20])

    class HangsUp(BreaksOff):
        def _script(self, text: bytes) -> list[bytes]:
            if b"NEG-OPEN" in text:
                self.end.close("no such message")
                return []
            return super()._script(text)

    world.dialer.peers[THEIRS] = lambda: HangsUp(world)
    profile = PeerProfile()
    for _ in range(3):
        sync = world.run_of(profile=profile)
        done = Deferred.fromCoroutine(sync.run())
        settle(world.clock)
        assert failure_of(done).args == ("no such message",)
        profile = sync.profile
    assert (profile.nip77, profile.refusal) == (False, "no such message")
    assert run(world, profile=profile).complete
    assert world.ours.held() == set(ids[:20])


def test_a_peer_that_says_nothing_to_anything_is_asked_anew_the_next_time() -> None:
    world = World()
    world.dialer.peers[THEIRS] = lambda: ScriptedPeer(lambda text: [])
    sync = world.run_of()
    done = Deferred.fromCoroutine(sync.run())
    for _ in range(2):
        settle(world.clock)
        world.clock.advance(90)
    settle(world.clock)
    assert failure_of(done).args == ("no answer to a REQ for 30 s",)
    assert sync.profile.nip77 is None


def test_a_peer_that_sends_nothing_readable_is_given_up() -> None:
    world = World()
    done = scripted(world, lambda m: [["EVENT", "x", {"id": "bad"}]] * 1200)
    assert "cannot be read" in str(failure_of(done))


def test_a_link_lost_in_mid_sync_fails_the_sync_and_keeps_what_was_stored() -> None:
    world = World(SyncSettings(fetch_batch=20, fetch_in_flight=1))
    world.theirs.hold(events)

    def cut(progress: SyncProgress) -> None:
        if progress.fetched == 200:
            world.theirs.served[-1].abort("network down")

    done = start(world, report=cut)
    settle(world.clock)
    assert failure_of(done).args == ("network down",)
    assert 200 <= len(world.ours.held()) < 600
    assert run(world).fetched == 600 - 200
    assert world.ours.held() == set(ids)


def test_forged_events_are_not_stored_whoever_sends_them() -> None:
    world = World()
    relay = Relay(events[:50])
    forged = json.loads(events[7].encode()) | {"sig": "0" * 128}
    altered = json.loads(events[8].encode()) | {"content": "altered"}

    def bend(said: list[bytes]) -> list[bytes]:
        for n, text in enumerate(said):
            message = json.loads(text)
            for bad in (forged, altered):
                if message[0] == "EVENT" and message[2]["id"] == bad["id"]:
                    said[n] = json.dumps([*message[:2], bad]).encode()
        return said

    relay.bent = bend  # type: ignore[method-assign]
    world.dialer.peers["ws://odd.example"] = relay.link
    done = run(world, url="ws://odd.example")
    assert world.ours.held() == set(ids[:50]) - {ids[7], ids[8]}
    assert (done.fetched, done.refused) == (48, 2)


def test_events_that_were_not_asked_for_are_not_stored_and_end_in_a_failure() -> None:
    world = World()
    relay = Relay(events[:50])
    relay.bent = lambda said: [  # type: ignore[method-assign]
        text
        for said_text in said
        for text in (
            [said_text]
            if not said_text.startswith(b'["EVENT"')
            else [
                b'["EVENT",%s,%s]'
                % (json.dumps(json.loads(said_text)[1]).encode(), events[100 + n].encode())
                for n in range(3)
            ]
        )
    ]
    world.dialer.peers["ws://odd.example"] = relay.link
    done = start(world, "ws://odd.example")
    settle(world.clock)
    assert "not asked for" in str(failure_of(done))
    assert world.ours.held() == set()


def test_cancelling_closes_the_link_and_leaves_nothing_running() -> None:
    world = World(SyncSettings(fetch_batch=20))
    world.theirs.hold(events)
    done: list[Deferred[SyncProgress]] = []

    def cancel(progress: SyncProgress) -> None:
        if progress.fetched >= 100 and done:
            done.pop().cancel()

    running = start(world, report=cancel)
    done.append(running)
    settle(world.clock)
    assert isinstance(failure_of(running), CancelledError)
    assert len(world.ours.held()) < 600
    assert world.theirs.backend.sessions.sessions() == []
    assert [c for c in world.clock.getDelayedCalls() if c.active()] == []


def test_a_peer_that_takes_few_records_is_reconciled_in_windows() -> None:
    world = World(sessions=SessionSettings(max_records=50))
    world.theirs.hold(events)
    world.ours.hold(events[::2])
    assert run(world).complete
    assert world.ours.held() == set(ids)
    opened = [json.loads(text)[2] for text in world.dialer.links[-1].sent if b"NEG-OPEN" in text]
    assert opened[0] == {}
    assert 12 < len(opened) < 60


@pytest.mark.parametrize("wanted", [EVERYTHING, Filter(limit=450)])
def test_a_peer_that_refuses_any_size_is_paged_through(wanted: Filter) -> None:
    world = World()
    relay = Plain(events, refusal=b'["NEG-ERR","","blocked: too many events"]')
    world.dialer.peers[THEIRS] = relay.link
    sync = world.run_of(wanted=wanted)
    assert drive(world.clock, sync.run()).complete
    assert len(world.ours.held()) == (wanted.limit or 600)
    assert labels(world).count("NEG-OPEN") < 100
    if wanted.limit is None:
        assert sync.profile.nip77 is False
        assert "too many" in sync.profile.refusal
    else:
        assert sync.profile.nip77 is None


def test_a_second_with_more_than_a_peer_takes_is_paged_and_the_rest_reconciled() -> None:
    world = World(sessions=SessionSettings(max_records=50))
    crowd = [
        alice.sign(created_at=second, kind=1, content=f"crowd {n}")
        for second in (1100, 1150)
        for n in range(120)
    ]
    world.theirs.hold([*events, *crowd])
    world.ours.hold(events[::2])
    sync = world.run_of()
    assert drive(world.clock, sync.run()).complete
    assert world.ours.held() == set(ids) | {event.id_bytes for event in crowd}
    assert (sync.profile.nip77, sync.profile.max_records) == (True, 50)
    sent = [json.loads(text) for text in world.dialer.links[-1].sent]
    paged = [m[2] for m in sent if m[0] == "REQ" and "ids" not in m[2]]
    windows = {(page.get("since"), page.get("until")) for page in paged}
    looked_below = {(None, 1100), (None, 1150)}
    assert windows - looked_below == {(1100, 1100), (1150, 1150)}


def test_what_is_left_after_many_cuts_is_paged(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(negotiation, "_MOST_SPLITS", 5)
    world = World(sessions=SessionSettings(max_records=30))
    world.theirs.hold(events)
    world.ours.hold(events[500:])
    sync = world.run_of()
    assert drive(world.clock, sync.run()).complete
    assert world.ours.held() == set(ids)
    assert labels(world).count("NEG-OPEN") < 20
    assert sync.profile.nip77 is True


def test_a_peer_that_wants_patience_for_each_window_gets_it() -> None:
    world = World(sessions=SessionSettings(max_records=100))
    world.theirs.hold(events)
    world.ours.hold(events[::2])
    asked: Counter[str] = Counter()

    class Strict(BreaksOff):
        """Refuses every window twice."""

        def _script(self, text: bytes) -> list[bytes]:
            label, name, *rest = json.loads(text)
            wanted = json.dumps(rest[0]) if label == "NEG-OPEN" else ""
            asked[wanted] += 1
            if wanted and asked[wanted] < 3:
                return [json.dumps(["NEG-ERR", name, "rate-limited: not so fast"]).encode()]
            self._inner.received(text)
            return []

    world.dialer.peers[THEIRS] = lambda: Strict(world)
    sync = world.run_of()
    done = Deferred.fromCoroutine(sync.run())
    for _ in range(200):
        settle(world.clock)
        world.clock.advance(1)
    assert done.called
    assert sync.progress.complete
    assert world.ours.held() == set(ids)
    assert sync.profile.nip77 is True
    assert len(asked) > 8


def test_a_reconciliation_that_leads_nowhere_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(negotiation, "_MOST_IDLE_ROUNDS", 7)
    world = World()
    world.ours.hold(events)
    never_the_same = count()

    def script(message: list) -> Iterable[object]:  # type: ignore[type-arg]
        if message[0] in ("NEG-OPEN", "NEG-MSG"):
            fingerprint = next(never_the_same).to_bytes(16, "big")
            return [["NEG-MSG", message[1], (b"\x61\0\0\1" + fingerprint).hex()]]
        return []

    assert "no new difference in 8 rounds" in str(failure_of(scripted(world, script)))


class Guarded(ScriptedPeer):
    """A relay that serves whoever has answered its challenge (NIP-42).

    :param late: it refuses events only, challenges after every refusal, and takes one answer: that
        to its last challenge, and one more is on its way when the first answer comes.
    """

    def __init__(self, world: World, taken: bool = True, late: bool = False) -> None:
        super().__init__(self._answer)
        self._late = late
        theirs = MemoryNode("ws://guarded.example", world.dialer, world.clock)
        theirs.hold(events[:20])
        self._inner = theirs.serve()
        self._taken = taken
        self._admitted = False
        self.said: list[list] = []  # type: ignore[type-arg]

    def connected(self, end: PeerEnd) -> None:
        super().connected(end)
        self._inner.connected(end)
        if not self._late:
            end.send(b'["AUTH","who are you?"]')

    def _answer(self, text: bytes) -> list[bytes]:
        message = json.loads(text)
        self.said.append(message)
        if message[0] == "AUTH":
            answers = sum(message[0] == "AUTH" for message in self.said)
            taken = self._taken and answers == (2 if self._late else 1)
            self._admitted |= taken
            reason = "" if taken else "restricted: members only"
            ok = json.dumps(["OK", message[1]["id"], taken, reason]).encode()
            return [b'["AUTH","one more"]', ok] if self._late and answers == 1 else [ok]
        if self._admitted or (self._late and message[0] != "EVENT"):
            self._inner.received(text)
            return []
        challenge = [b'["AUTH","%d"]' % len(self.said)] if self._late else []
        if message[0] == "EVENT":
            refusal = ["OK", message[1]["id"], False, "auth-required: x"]
        else:
            refusal = ["CLOSED", message[1], "auth-required: x"]
        return [json.dumps(refusal).encode(), *challenge]


def guarded_sync(
    key: Signer | None, taken: bool, late: bool = False
) -> tuple[World, Guarded, Deferred[SyncProgress]]:
    world = World()
    world.ours.parts = replace(world.ours.parts, signer=key)
    peer = Guarded(world, taken, late)
    world.dialer.peers["ws://odd.example"] = lambda: peer
    world.ours.hold(events[20:25])
    done = start(world, "ws://odd.example")
    settle(world.clock)
    return world, peer, done


def test_a_peer_that_asks_who_we_are_is_told_once() -> None:
    key = Signer(b"\x09" * 32)
    world, peer, done = guarded_sync(key, taken=True)
    assert world.ours.held() == set(ids[:25])
    assert done.called
    (answer,) = [message[1] for message in peer.said if message[0] == "AUTH"]
    assert (answer["kind"], answer["pubkey"]) == (22242, key.pubkey)
    assert ["challenge", "who are you?"] in answer["tags"]
    assert ["relay", "ws://odd.example"] in answer["tags"]
    assert check(decode(json.dumps(answer))) is None


def test_a_peer_may_refuse_first_and_ask_then() -> None:
    world, _, done = guarded_sync(Signer(b"\x09" * 32), taken=True, late=True)
    world.clock.advance(3)
    settle(world.clock)
    finished: list[SyncProgress] = []
    done.addCallback(finished.append)
    assert [progress.sent for progress in finished] == [5]
    assert world.ours.held() == set(ids[:25])


@pytest.mark.parametrize(("key", "taken"), [(None, True), (Signer(b"\x09" * 32), False)])
def test_without_a_key_that_is_taken_the_refusal_stands(key: Signer | None, taken: bool) -> None:
    _, peer, done = guarded_sync(key, taken)
    assert "auth-required" in str(failure_of(done))
    assert len([m for m in peer.said if m[0] == "AUTH"]) == (key is not None)


# --- peers without NIP-77 -----------------------------------------------------------------------


class Plain(Relay):
    """A relay that knows no NEG-OPEN."""

    def __init__(
        self,
        held: Iterable = (),  # type: ignore[type-arg]
        cap: int = 10**9,
        refusal: bytes = b'["NOTICE","ERROR: bad msg: unknown cmd"]',
    ) -> None:
        super().__init__(held, cap=cap)
        self.refusal = refusal

    def link(self) -> MemoryPeer:
        inner = super().link()
        assert isinstance(inner, ScriptedPeer)
        answer = inner._script
        inner._script = lambda text: [self.refusal] if b"NEG-OPEN" in text else answer(text)
        return inner

    def held(self) -> set[bytes]:
        return self.node.held()


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32), st.sampled_from([3, 7, 50, 500]))
def test_any_two_sets_become_equal_without_nip77(seed: int, cap: int) -> None:
    random = Random(seed)
    split = random.random()
    ours = [e for e in events[:200] if random.random() > split]
    theirs = [e for e in events[:200] if random.random() < split]
    world = World()
    relay = Plain(theirs, cap=cap)
    world.dialer.peers["ws://odd.example"] = relay.link
    world.ours.hold(ours)
    done = run(world, url="ws://odd.example")
    both = {event.id_bytes for event in ours + theirs}
    assert done.complete
    assert world.ours.held() == relay.held() == both


@pytest.mark.parametrize("direction", [Direction.UP, Direction.DOWN])
def test_directions_and_filters_without_nip77(direction: Direction) -> None:
    world = World()
    relay = Plain(events[100:300])
    world.dialer.peers["ws://odd.example"] = relay.link
    world.ours.hold(events[:200])
    wanted = Filter.build(kinds=[1], since=1010, until=1080)
    matching = {e.id_bytes for e in events if wanted.matches(e)}
    run(world, wanted, direction, url="ws://odd.example")
    ours, theirs = set(ids[:200]), set(ids[100:300])
    if direction is Direction.DOWN:
        ours |= theirs & matching
    else:
        theirs |= ours & matching
    assert (world.ours.held(), relay.held()) == (ours, theirs)


def test_a_limit_without_nip77_takes_the_newest() -> None:
    world = World()
    world.dialer.peers["ws://odd.example"] = Plain(events, cap=11).link
    run(world, Filter(limit=30), url="ws://odd.example")
    assert len(world.ours.held()) == 30


def test_a_second_with_more_events_than_are_shown_ends_nothing() -> None:
    world = World()
    crowd = [alice.sign(created_at=5000, content=str(n)) for n in range(30)]
    world.dialer.peers["ws://odd.example"] = Plain([*events[:20], *crowd], cap=10).link
    done = run(world, url="ws://odd.example")
    assert done.complete
    assert world.ours.held() >= set(ids[:20])
    assert len(world.ours.held()) == 30
    said = "of second 5000 the peer shows 10 events, and may have more"
    assert dict(done.reasons) == {said: 1}


def crowd_of(count: int) -> list[Event]:
    """Events of one second, of three kinds and two authors."""
    authors = alice, Signer(b"\x02" * 32)
    return [
        authors[n % 2].sign(created_at=5000, kind=(1, 7, 8)[n % 3], content=str(n))
        for n in range(count)
    ]


def test_a_second_with_more_events_than_we_ask_for_is_asked_for_by_itself() -> None:
    world = World()
    crowd = crowd_of(700)
    relay = Plain([*events[:20], *crowd])
    world.dialer.peers["ws://odd.example"] = relay.link
    world.ours.hold(events[20:30])
    done = run(world, url="ws://odd.example")
    assert done.complete
    assert world.ours.held() == relay.held() == {e.id_bytes for e in (*events[:30], *crowd)}
    assert dict(done.reasons) == {}


def test_a_second_with_more_events_than_are_shown_is_asked_for_by_kinds_and_authors() -> None:
    world = World()
    crowd = crowd_of(60)
    world.dialer.peers["ws://odd.example"] = Plain([*events[:20], *crowd], cap=12).link
    done = run(world, url="ws://odd.example")
    assert done.complete
    assert world.ours.held() == {event.id_bytes for event in (*events[:20], *crowd)}
    assert dict(done.reasons) == {"of second 5000 the peer shows 12 events, and may have more": 1}


def test_a_peer_that_can_neither_is_told_so() -> None:
    world = World()
    done = scripted(
        world,
        lambda m: (
            [["NOTICE", "unknown cmd NEG-OPEN"]]
            if m[0] == "NEG-OPEN"
            else [["CLOSED", m[1], "blocked: no reading here"]]
        ),
    )
    assert str(failure_of(done)) == "the peer refused a REQ: blocked: no reading here"


def test_cancelling_on_a_link_that_stays_takes_back_what_was_asked() -> None:
    world = World()
    world.theirs.hold(events)
    world.dialer.latency = lambda: 0.1
    contact = drive(world.clock, get_in_touch(world.ours.parts, THEIRS))
    sync = world.run_of()
    running = Deferred.fromCoroutine(sync.run(contact))
    while "REQ" not in labels(world):
        world.clock.advance(0.1)
    running.cancel()
    assert isinstance(failure_of(running), CancelledError)
    world.clock.pump([0.1] * 10)
    asked = [json.loads(text)[:2] for text in world.dialer.links[-1].sent]
    opened = {name for label, name in asked if label == "REQ"}
    assert opened == {name for label, name in asked if label == "CLOSE"}
    assert labels(world).count("NEG-OPEN") == labels(world).count("NEG-CLOSE") == 1
    assert world.theirs.backend.sessions.sessions() == []
    # An answer to what was taken back is none to what is asked next.
    again = world.run_of()
    finished = Deferred.fromCoroutine(again.run(contact))
    world.clock.pump([0.1] * 100)
    assert finished.called
    assert world.ours.held() == set(ids)
    asked = [json.loads(text)[:2] for text in world.dialer.links[-1].sent]
    names = [name for label, name in asked if label in ("REQ", "NEG-OPEN")]
    assert len(names) == len(set(names))
    assert max(map(len, names)) <= 5
    contact.close()


def test_an_event_longer_than_the_peer_reads_is_not_sent_and_said_so() -> None:
    world = World()
    book = MemoryBook()
    long = alice.sign(created_at=5000, content="x" * 9000)
    world.ours.hold([*events[:20], long])
    profile = PeerProfile(document=RelayDocument(max_message_length=8192))
    done = run(world, book=book, profile=profile)
    assert world.theirs.held() == set(ids[:20])
    assert (done.sent, done.rejected) == (20, 1)
    assert done.reasons == {"longer than the 8192 bytes the peer reads": 1}
    entry = drive(world.clock, book.ledger(THEIRS, [long.id_bytes]))[long.id_bytes]
    assert entry.residue is Residue.THEIRS_REJECTED
    assert run(world, book=book, profile=profile).explained == 1


def test_differences_wait_for_transfers_in_bounded_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("negd.sync.run._MOST_IN_LINE", 50)
    world = World(
        SyncSettings(frame_limit=4096, fetch_batch=10, fetch_in_flight=1),
        SessionSettings(frame_limit=4096),
    )
    world.dialer.latency = lambda: 1.0
    world.theirs.hold(events)
    longest = 0
    sync = world.run_of(direction=Direction.DOWN)
    done = Deferred.fromCoroutine(sync.run())
    while not done.called:
        world.clock.advance(1)
        longest = max(longest, len(sync._needs))
    assert world.ours.held() == set(ids)
    assert longest < 200  # 50, and what one frame adds
    assert sync.progress.need == 600


def test_a_million_differences_of_one_round_do_not_come_in_line_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("negd.sync.run._PIECE", 50)
    world = World()
    world.ours.hold(events)
    told: list[int] = []
    sync = world.run_of(report=lambda progress: told.append(progress.have))
    done = drive(world.clock, sync.run())
    assert world.theirs.held() == set(ids)
    assert (done.have, done.sent, done.round) == (600, 600, 1)
    assert set(range(50, 601, 50)) <= set(told)


def test_what_pages_lack_waits_to_be_sent_in_bounded_memory(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("negd.sync.run._MOST_IN_LINE", 50)
    monkeypatch.setattr("negd.sync.paging._PIECE", 20)
    world = World(SyncSettings(upload_window=5))
    world.dialer.latency = lambda: 1.0
    relay = Plain(events[:10])
    world.dialer.peers["ws://odd.example"] = relay.link
    world.ours.hold(events)
    longest = 0
    unable = PeerProfile(nip77=False, found_at=world.clock.seconds())
    sync = world.run_of("ws://odd.example", profile=unable)
    done = Deferred.fromCoroutine(sync.run())
    while not done.called:
        world.clock.advance(1)
        longest = max(longest, len(sync._haves))
    assert relay.held() == set(ids)
    assert 50 <= longest <= 70  # and what one piece adds
    assert (sync.progress.have, sync.progress.sent, sync.progress.complete) == (590, 590, True)


def test_what_the_ledger_explains_of_a_page_is_counted_so() -> None:
    world = World()
    relay = Plain(events[:20])
    world.dialer.peers["ws://odd.example"] = relay.link
    newer = alice.sign(created_at=9000, kind=0)
    world.ours.hold([newer])
    relay.node.hold([alice.sign(created_at=8000, kind=0)])
    book = MemoryBook()
    first = run(world, direction=Direction.DOWN, url="ws://odd.example", book=book)
    assert (first.fetched, first.refused, first.explained) == (20, 1, 0)
    again = run(world, direction=Direction.DOWN, url="ws://odd.example", book=book)
    assert (again.need, again.fetched, again.refused, again.explained) == (1, 0, 0, 1)


def test_a_peer_that_asks_for_patience_shows_the_page_later() -> None:
    world = World()
    relay = Plain(events[:20])
    inner = relay.link()
    assert isinstance(inner, ScriptedPeer)
    answer, refused = inner._script, 0

    def hasty(text: bytes) -> Iterable[bytes]:
        nonlocal refused
        message = json.loads(text)
        if message[0] == "REQ" and refused < 3:
            refused += 1
            return [json.dumps(["CLOSED", message[1], "rate-limited: slow down"]).encode()]
        return answer(text)

    inner._script = hasty
    world.dialer.peers["ws://odd.example"] = lambda: inner
    done = start(world, "ws://odd.example")
    for _ in range(8):
        settle(world.clock)
        world.clock.advance(1)
    settle(world.clock)
    assert done.called
    assert world.ours.held() == set(ids[:20])


def test_a_peer_that_shows_pages_without_end_is_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("negd.sync.paging._MOST_SHOWN", 40)
    monkeypatch.setattr("negd.sync.paging._MOST_UNASKED", 20)
    world = World()

    def pour(message: list) -> Iterable[object]:  # type: ignore[type-arg]
        if message[0] == "NEG-OPEN":
            return [["NOTICE", "unknown cmd"]]
        shown = [["EVENT", message[1], json.loads(event.encode())] for event in events]
        return shown if message[0] == "REQ" else []

    assert "not asked for" in str(failure_of(scripted(world, pour)))
    assert len(world.ours.held()) == 40


def test_a_reconciliation_held_up_for_long_begins_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("negd.sync.run._MOST_IN_LINE", 50)
    world = World(
        SyncSettings(frame_limit=4096, fetch_batch=5, fetch_in_flight=1),
        SessionSettings(frame_limit=4096),
    )
    world.dialer.latency = lambda: 5.0
    world.theirs.hold(events)
    sync = world.run_of(direction=Direction.DOWN)
    done = Deferred.fromCoroutine(sync.run())
    for _ in range(2000):
        world.clock.advance(1)
    assert done.called
    assert world.ours.held() == set(ids)
    assert labels(world).count("NEG-OPEN") == labels(world).count("NEG-CLOSE") > 1
    assert (sync.progress.need, sync.progress.fetched, sync.progress.already) == (600, 600, 0)


@pytest.mark.parametrize("nip77", [True, False])
def test_what_makes_a_peers_event_out_of_date_is_sent_whatever_the_filter(nip77: bool) -> None:
    world, url, theirs = World(), THEIRS, None
    if not nip77:
        relay = Plain([])
        url, theirs = "ws://odd.example", relay.node
        world.dialer.peers[url] = relay.link
    theirs = theirs or world.theirs
    gone = alice.sign(created_at=2000, kind=1, content="gone")
    deletion = alice.sign(created_at=2001, kind=5, tags=[["e", gone.id]])
    old = alice.sign(created_at=2000, kind=30023, tags=[["d", "x"], ["t", "a"]])
    new = alice.sign(created_at=2002, kind=30023, tags=[["d", "x"]])
    place = f"30023:{alice.pubkey}:y"
    dropped = alice.sign(created_at=2000, kind=30023, tags=[["d", "y"], ["t", "a"]])
    dropping = alice.sign(created_at=2003, kind=5, tags=[["a", place]])
    theirs.hold([gone, old, dropped])
    world.ours.hold([deletion, new, dropping, *events[:5]])
    book = MemoryBook()
    run(world, Filter.build(kinds=[1], since=2000), url=url, book=book)
    run(world, Filter.build(tags={"t": ["a"]}), url=url, book=book)
    assert theirs.held() == {event.id_bytes for event in (deletion, new, dropping)}
    again = run(world, Filter.build(tags={"t": ["a"]}), url=url, book=book)
    assert (again.have, again.moved) == (0, 0)


def test_what_is_replaced_here_before_it_is_sent_is_told_so() -> None:
    world = World(SyncSettings(upload_window=1))
    world.dialer.latency = lambda: 1.0
    old = alice.sign(created_at=9000, kind=10_002)
    world.ours.hold([old, *events[:20]])
    told: list[SyncProgress] = []
    done = start(world, report=told.append)
    while not told:
        world.clock.advance(1)
    stored = Deferred.fromCoroutine(
        world.ours.backend.intake.submit([alice.sign(created_at=9001, kind=10_002)])
    )
    for _ in range(200):
        world.clock.advance(1)
    assert stored.called
    assert done.called
    last = told[-1]
    assert last.complete
    assert (last.have, last.sent, last.gone) == (21, 20, 1)


# --- events that a peer drops, or hangs up on -----------------------------------------------------


class Choosy(BreaksOff):
    """Theirs, but for some events: it drops them without a word, or hangs up."""

    def __init__(self, world: World, disliked: set[str], hangs_up: bool) -> None:
        super().__init__(world)
        self._disliked = disliked
        self._hangs_up = hangs_up

    def _script(self, text: bytes) -> list[bytes]:
        message = json.loads(text)
        if message[0] != "EVENT" or message[1]["id"] not in self._disliked:
            self._inner.received(text)
        elif self._hangs_up:
            self.end.close("frame too large for me")
        return []


def test_an_event_that_a_peer_drops_without_a_word_is_explained() -> None:
    world = World()
    world.ours.hold(events[:1])
    world.dialer.peers[THEIRS] = lambda: Choosy(world, {events[0].id}, hangs_up=False)
    book = MemoryBook()
    sync = world.run_of(book=book)
    done = Deferred.fromCoroutine(sync.run())
    settle(world.clock)
    assert not done.called
    world.clock.advance(30)
    settle(world.clock)
    assert sync.progress.complete
    assert (sync.progress.rejected, dict(sync.progress.reasons)) == (1, {"no OK came": 1})
    assert run(world, book=book).explained == 1


@pytest.mark.parametrize(
    ("answer", "counted", "reasons"),
    [
        ((True, ""), (2, 0), {}),
        ((False, "duplicate: have it"), (2, 0), {}),
        ((False, "Duplicate"), (2, 0), {}),
        ((False, "blocked: no"), (1, 1), {"blocked: no": 1}),
    ],
)
def test_an_answer_that_comes_late_counts(
    answer: tuple[bool, str], counted: tuple[int, int], reasons: dict[str, int]
) -> None:
    world = World(SyncSettings(upload_window=1))
    world.ours.hold(events[:2])
    late: list[str] = []

    class Late(BreaksOff):
        def _script(self, text: bytes) -> list[bytes]:
            message = json.loads(text)
            if message[0] == "EVENT" and not late:
                late.append(message[1]["id"])
                return []
            self._inner.received(text)
            if message[0] != "EVENT":
                return []
            return [json.dumps(["OK", late[0], *answer]).encode()]

    world.dialer.peers[THEIRS] = lambda: Late(world)
    book = MemoryBook()
    sync = world.run_of(book=book)
    done = Deferred.fromCoroutine(sync.run())
    settle(world.clock)
    world.clock.advance(30)
    settle(world.clock)
    assert done.called and sync.progress.complete
    assert (sync.progress.sent, sync.progress.rejected) == counted
    assert sync.progress.reasons == reasons
    entries = drive(world.clock, book.entries(THEIRS, Residue.THEIRS_REJECTED, 9))
    assert [(entry.text, entry.tries) for entry in entries.values()] == [(t, 1) for t in reasons]


def test_an_event_that_a_peer_hangs_up_on_keeps_no_other_from_moving() -> None:
    world = World(SyncSettings(upload_window=4))
    world.ours.hold(events[:40])
    bad = {events[7].id, events[21].id}
    world.dialer.peers[THEIRS] = lambda: Choosy(world, bad, hangs_up=True)
    book = MemoryBook()
    for _ in range(12):
        sync = world.run_of(book=book, is_whole=True)
        done = Deferred.fromCoroutine(sync.run())
        settle(world.clock)
        world.clock.advance(1)
        if sync.progress.complete:
            break
        failure_of(done)
    assert sync.progress.complete
    assert world.theirs.held() == set(ids[:40]) - {bytes.fromhex(one) for one in bad}
    entries = drive(world.clock, book.entries(THEIRS, Residue.THEIRS_REJECTED, 100))
    assert {event_id.hex() for event_id in entries} == bad
    assert {entry.text for entry in entries.values()} == {"the link ended before an OK came"}
    assert min(entry.retry_at for entry in entries.values()) > world.clock.seconds() + 3000


def test_what_a_sync_of_all_does_not_come_upon_is_no_difference_any_more() -> None:
    world = World()
    world.theirs.hold(events[:10])
    world.ours.hold(events[:5])
    book = MemoryBook()
    later = world.clock.seconds() + 100
    entries = {
        event_id: LedgerEntry(Residue.UNFETCHABLE, "not returned", 1, later)
        for event_id in (*ids[3:8], b"\1" * 32)
    }
    drive(world.clock, book.write_ledger(THEIRS, entries, []))
    run(world, Filter.build(kinds=[1]), book=book)
    assert drive(world.clock, book.residues(THEIRS)) == {Residue.UNFETCHABLE: 6}
    sync = world.run_of(book=book, is_whole=True)
    drive(world.clock, sync.run())
    left = drive(world.clock, book.entries(THEIRS, Residue.UNFETCHABLE, 100))
    assert set(left) == set(ids[5:8])


def test_a_cancel_after_a_turn_was_abandoned_is_a_cancel(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World()
    world.theirs.hold(events[:10])
    intake, stored = world.ours.parts.intake, Deferred[None]()
    submit = intake.submit

    async def slowly(some: Sequence[Event]) -> list[Verdict]:
        await stored
        return await submit(some)

    monkeypatch.setattr(intake, "submit", slowly)
    sync = world.run_of()
    done = Deferred.fromCoroutine(sync.run())
    settle(world.clock)
    sync.abandon()
    settle(world.clock)
    assert not done.called
    done.cancel()
    settle(world.clock)
    stored.callback(None)
    settle(world.clock)
    assert isinstance(failure_of(done), CancelledError)
