"""One event that cannot be had keeps no other from coming."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
from twisted.internet.defer import Deferred

from negd.interfaces import Residue
from negd.nostr.signing import Signer
from negd.settings import SyncSettings
from negd.storage.memory import MemoryBook
from negd.sync import fetch
from negd.sync.run import SyncRun
from negd.testing.links import PeerEnd, drive, settle
from negd.testing.nodes import THEIRS, InFront, World, failure_of

alice = Signer(b"\x01" * 32)
events = [alice.sign(created_at=1000 + n, content=str(n)) for n in range(300)]
ids = [event.id_bytes for event in events]
BAD = events[137]
GOOD = {event.id_bytes for event in events} - {BAD.id_bytes}


class Choking(InFront):
    """Their node, but for REQs that ask for one id.

    :param choke: what is done in place of an answer to these; unless given, they are answered.
    """

    def __init__(self, world: World, choke: Callable[[PeerEnd], None] | None = None) -> None:
        super().__init__(world.theirs)
        self._choke = choke

    def _script(self, text: bytes) -> list[bytes]:
        message = json.loads(text)
        if self._choke and message[0] == "REQ" and BAD.id in message[2].get("ids", ()):
            self._choke(self.end)
        else:
            self._inner.received(text)
        return []


def passing(world: World, run: SyncRun, seconds: int) -> Deferred[object]:
    """A sync for so long, or to its end."""
    done: Deferred[object] = Deferred.fromCoroutine(run.run())
    for _ in range(seconds):
        settle(world.clock)
        if done.called:
            break
        world.clock.advance(1)
    return done


def entries(world: World, book: MemoryBook) -> dict[bytes, str]:
    found = drive(world.clock, book.entries(THEIRS, Residue.UNFETCHABLE, 1000))
    return {event_id: entry.text for event_id, entry in found.items()}


@pytest.mark.parametrize("batch", [10, 200])
@pytest.mark.parametrize("in_flight", [1, 8])
def test_an_id_that_a_peer_hangs_up_on(batch: int, in_flight: int) -> None:
    world = World(SyncSettings(fetch_batch=batch, fetch_in_flight=in_flight))
    world.theirs.hold(events)
    world.dialer.peers[THEIRS] = lambda: Choking(world, lambda end: end.close("I choked"))
    book = MemoryBook()
    for _ in range(8):
        run = world.run_of(book=book, is_whole=True)
        done = passing(world, run, 5)
        if run.progress.complete:
            break
        assert "I choked" in str(failure_of(done))
        world.clock.advance(1)
    assert run.progress.complete
    assert world.ours.held() == GOOD
    assert entries(world, book) == {BAD.id_bytes: "the link ended before it came"}


@pytest.mark.parametrize("batch", [10, 200])
@pytest.mark.parametrize("in_flight", [1, 8])
def test_an_id_that_a_peer_falls_silent_over(batch: int, in_flight: int) -> None:
    world = World(SyncSettings(fetch_batch=batch, fetch_in_flight=in_flight))
    world.theirs.hold(events)
    world.dialer.peers[THEIRS] = lambda: Choking(world, lambda end: None)
    book = MemoryBook()
    run = world.run_of(book=book, is_whole=True)
    passing(world, run, 300)
    assert run.progress.complete
    assert run.progress.unfetchable == 1
    assert world.ours.held() == GOOD
    assert entries(world, book) == {BAD.id_bytes: "no answer to a REQ for it"}


def test_a_peer_that_says_nothing_more_is_given_up_and_no_id_is_blamed() -> None:
    world = World(SyncSettings(fetch_batch=10, fetch_in_flight=4))
    world.theirs.hold(events)
    answered = 0

    class Tiring(Choking):
        def _script(self, text: bytes) -> list[bytes]:
            nonlocal answered
            answered += text.startswith(b'["REQ"')
            if answered < 10:
                self._inner.received(text)
            return []

    world.dialer.peers[THEIRS] = lambda: Tiring(world)
    book = MemoryBook()
    run = world.run_of(book=book)
    done = passing(world, run, 100)
    assert str(failure_of(done)) == "no answer to a REQ for 30 s"
    assert entries(world, book) == {}
    assert len(world.ours.held()) == 90


def test_what_came_before_the_link_ended_is_kept() -> None:
    world = World(SyncSettings(fetch_batch=200))
    world.theirs.hold(events[:100])

    class Breaking(Choking):
        sent = 0

        def send(self, text: bytes) -> None:
            self.sent += text.startswith(b'["EVENT"')
            if self.sent > 60:
                self.end.close("out of breath")
            else:
                self.end.send(text)

    world.dialer.peers[THEIRS] = lambda: Breaking(world)
    run = world.run_of()
    assert "out of breath" in str(failure_of(passing(world, run, 5)))
    assert len(world.ours.held()) == 60
    assert run.progress.fetched == 60


def test_an_answer_is_held_in_memory_up_to_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetch, "_LARGEST", 100_000)
    world = World(SyncSettings(fetch_batch=200, fetch_in_flight=1))
    large = [alice.sign(created_at=2000 + n, content="x" * 20_000) for n in range(60)]
    world.theirs.hold([*large, *events])
    run = world.run_of()
    passing(world, run, 5)
    assert run.progress.complete
    assert (run.progress.fetched, run.progress.unfetchable) == (360, 0)
    asked = [json.loads(text) for text in world.dialer.links[-1].sent]
    sizes = [len(message[2]["ids"]) for message in asked if message[0] == "REQ"]
    assert min(sizes) < 20
    assert max(sizes[5:]) > 50  # smaller events are asked for in larger numbers again
    assert run.profile.ids_per_request is None


def test_a_peer_that_makes_up_ids_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetch, "_MOST_IN_VAIN", 150)
    world = World(SyncSettings(fetch_batch=10))
    world.theirs.hold(events)

    class Hiding(Choking):
        def _script(self, text: bytes) -> list[bytes]:
            message = json.loads(text)
            if message[0] == "REQ":
                return [json.dumps(["EOSE", message[1]]).encode()]
            self._inner.received(text)
            return []

    world.dialer.peers[THEIRS] = lambda: Hiding(world)
    run = world.run_of()
    assert "lists ids and returns none of the last 1" in str(failure_of(passing(world, run, 60)))


def test_events_that_are_none_by_todays_rules_keep_no_other_from_coming() -> None:
    world = World(SyncSettings(fetch_batch=50))
    world.theirs.hold(events)
    spoilt = {event.id for event in events[::2]}

    class Old(Choking):
        def send(self, text: bytes) -> None:
            message = json.loads(text)
            if message[0] == "EVENT" and message[2]["id"] in spoilt:
                message[2]["tags"] = [["t", 7]]
            self.end.send(json.dumps(message).encode())

    world.dialer.peers[THEIRS] = lambda: Old(world)
    book = MemoryBook()
    run = world.run_of(book=book)
    passing(world, run, 60)
    assert run.progress.complete
    assert world.ours.held() == set(ids[1::2])
    said = entries(world, book)
    assert {event_id.hex() for event_id in said} == spoilt
    assert all(text.startswith("cannot be read: ") and "tags" in text for text in said.values())
    assert run.profile.faults == {"unreadable": 2 * len(spoilt)}


def test_repeated_events_do_not_keep_a_request_alive() -> None:
    world = World()
    world.theirs.hold(events[:10])
    asked: list[str] = []

    class Repeating(Choking):
        def _script(self, text: bytes) -> list[bytes]:
            message = json.loads(text)
            asked.extend([message[1]] if message[0] == "REQ" else [])
            if message[0] == "REQ" and len(asked) == 1:
                self._drip(message[1])
            else:
                self._inner.received(text)
            return []

        def _drip(self, name: str) -> None:
            self.end.send(b'["EVENT","%b",%b]' % (name.encode(), events[0].encode()))
            if len(asked) == 1:
                world.clock.callLater(10, self._drip, name)

    world.dialer.peers[THEIRS] = lambda: Repeating(world)
    run = world.run_of()
    passing(world, run, 65)
    assert run.progress.complete
    assert run.progress.fetched == 10
