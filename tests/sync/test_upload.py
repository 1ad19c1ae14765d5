"""Pushing to peers that answer late, or not at all."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace

import pytest
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from negd.interfaces import Residue
from negd.nostr.event import Event
from negd.nostr.messages import Ok
from negd.nostr.signing import Signer
from negd.settings import SyncSettings
from negd.storage.memory import MemoryBook
from negd.sync.contact import get_in_touch
from negd.sync.dialogue import Dialogue
from negd.sync.differences import Line
from negd.sync.ledger import Ledger
from negd.sync.upload import Upload
from negd.testing.links import ScriptedPeer, drive, settle
from negd.testing.nodes import THEIRS, World, failure_of

alice = Signer(b"\x01" * 32)
events = [alice.sign(created_at=1000 + n, content=str(n)) for n in range(1200)]


class Pushed(ScriptedPeer):
    """A peer that is pushed to, and answers when and what the test says.

    :ivar came: ids of the events that came, in order.
    """

    def __init__(
        self,
        some: list[Event],
        answer: Callable[[str], Iterable[list]],  # type: ignore[type-arg]
        window: int = 64,
        write_at: int = 1000,
    ) -> None:
        super().__init__(self._hear)
        self._answer = answer
        self.came: list[str] = []
        self.world = World(SyncSettings(upload_window=window))
        self.world.dialer.peers[THEIRS] = lambda: self
        self.world.ours.hold(some)
        node = replace(self.world.ours.parts, signer=alice)
        self.book, self.line = MemoryBook(), Line()
        self.counts: Counter[str] = Counter()
        ledger = Ledger(node, self.book, THEIRS)
        ledger.write_at = write_at
        contact = drive(self.world.clock, get_in_touch(node, THEIRS))
        self.upload = Upload(contact, self.line, node, ledger, self._count)
        self.line.put([event.id_bytes for event in some])
        self.done = Deferred.fromCoroutine(self.upload.run())

    def _count(self, **more: int) -> None:
        self.counts.update(more)

    def _hear(self, text: bytes) -> Iterator[bytes]:
        label, content = json.loads(text)
        if label == "EVENT":
            self.came.append(content["id"])
            yield from (json.dumps(said).encode() for said in self._answer(content["id"]))

    def say(self, *messages: list) -> None:  # type: ignore[type-arg]
        for message in messages:
            self.end.send(json.dumps(message).encode())
        settle(self.world.clock)

    def pass_time(self, seconds: int) -> None:
        settle(self.world.clock)
        for _ in range(seconds):
            self.world.clock.advance(1)
            settle(self.world.clock)

    def finish(self, seconds: int) -> None:
        """See the upload through, which takes so long at most."""
        self.line.finish()
        self.pass_time(seconds)
        assert self.done.called

    def noted(self) -> dict[bytes, str]:
        entries = self.book.entries(THEIRS, Residue.THEIRS_REJECTED, 9999)
        return {i: entry.text for i, entry in drive(self.world.clock, entries).items()}


def ok(event_id: str, accepted: bool = True, text: str = "") -> list:  # type: ignore[type-arg]
    return ["OK", event_id, accepted, text]


def all_but(dropped: Iterable[Event]) -> Callable[[str], list[list]]:  # type: ignore[type-arg]
    """Answers for all events but these."""
    ids = {event.id for event in dropped}
    return lambda event_id: [] if event_id in ids else [ok(event_id)]


def test_a_peer_that_falls_silent_in_the_last_window_has_failed() -> None:
    peer = Pushed(events[:60], all_but(events[10:]), write_at=1)
    peer.finish(31)
    assert str(failure_of(peer.done)) == "no OK for 50 events"
    assert peer.counts == {"sent": 10}
    drive(peer.world.clock, peer.upload._ledger.write(at_least=1))
    assert peer.noted() == {event.id_bytes: "no OK came" for event in events[10:60]}


@pytest.mark.parametrize("dropped", [events[5:55], events[52:60], events[:60:2]])
def test_what_a_peer_drops_that_answers_others_is_noted(dropped: list[Event]) -> None:
    peer = Pushed(events[:60], all_but(dropped), write_at=1)
    peer.finish(31)
    assert peer.counts == {"sent": 60 - len(dropped), "rejected": len(dropped)}
    assert peer.noted() == {event.id_bytes: "no OK came" for event in dropped}


def test_a_peer_that_is_silent_to_one_event_after_another_has_failed() -> None:
    peer = Pushed(events[:60], all_but(events[20:]), window=1)
    peer.finish(280)
    assert str(failure_of(peer.done)) == "no OK for 9 events"
    assert len(peer.came) == 29


def test_a_peer_that_answers_each_event_late_is_not_silent() -> None:
    peer = Pushed(events[:20], lambda _: [], window=1)
    peer.line.finish()
    for _ in range(20):
        peer.pass_time(40)
        peer.say(*(ok(event_id) for event_id in peer.came[: len(peer.came) - 1]))
    peer.pass_time(31)
    assert peer.done.called
    assert peer.counts["sent"] + peer.counts["rejected"] == 20
    assert peer.counts["rejected"] <= 2


def test_answers_to_a_whole_window_may_come_late() -> None:
    *some, last = events
    peer = Pushed(some, all_but(some[:-1]), window=1500)
    peer.pass_time(31)
    assert peer.counts == {"sent": 1, "rejected": 1198}
    peer.world.ours.hold([last])
    peer._answer = lambda _: [ok(event.id) for event in events]
    peer.line.put([last.id_bytes])
    peer.finish(1)
    assert peer.counts == {"sent": 1200, "rejected": 0}


@pytest.mark.parametrize("refusal", ["rate-limited: slow down", "auth-required: who?"])
def test_what_is_refused_late_is_tried_again(refusal: str) -> None:
    late, other, more = events[:3]
    peer = Pushed([late, other], all_but([late]), write_at=1)
    peer.say(["AUTH", "who are you?"])
    peer.pass_time(31)
    assert peer.noted() == {late.id_bytes: "no OK came"}
    refused = {more.id: [ok(late.id, False, refusal)]}
    peer._answer = lambda event_id: [*refused.get(event_id, []), ok(event_id)]
    peer.world.ours.hold([more])
    peer.line.put([more.id_bytes])
    peer.finish(31)
    assert peer.came == [late.id, other.id, more.id, late.id]
    assert peer.counts == {"sent": 3, "rejected": 0}
    assert peer.noted() == {}


@pytest.mark.parametrize("is_taken", [False, True])
def test_what_was_tried_again_is_forgotten(is_taken: bool) -> None:
    """A tail lasts for weeks, and its peer may refuse each event once."""
    refused: set[str] = set()

    def once(event_id: str) -> list[list]:  # type: ignore[type-arg]
        if event_id in refused and is_taken:
            return [ok(event_id)]
        refused.add(event_id)
        return [ok(event_id, False, "auth-required: who?")]

    peer = Pushed(events[:100], once)
    peer.say(["AUTH", "who are you?"])
    peer.pass_time(31)
    assert len(peer.came) == 200
    assert peer.counts == {"sent" if is_taken else "rejected": 100}
    assert not peer.upload._retried
    peer.finish(0)


def test_large_events_are_read_a_few_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("negd.sync.upload._LARGEST", 100_000)
    world = World(SyncSettings(upload_window=4000))
    large = [alice.sign(created_at=5000 + n, content="x" * 20_000) for n in range(100)]
    world.ours.hold([*events, *large])
    read: list[int] = []
    fetch = world.ours.storage.events.fetch

    async def counted(ids: Sequence[bytes]) -> dict[bytes, bytes]:
        found = await fetch(ids)
        read.append(sum(map(len, found.values())))
        return found

    monkeypatch.setattr(world.ours.storage.events, "fetch", counted)
    contact = drive(world.clock, get_in_touch(world.ours.parts, THEIRS))
    line = Line()
    ledger = Ledger(world.ours.parts, MemoryBook(), THEIRS)
    upload = Upload(contact, line, world.ours.parts, ledger, lambda **more: None)
    line.put([event.id_bytes for event in large])
    line.put([event.id_bytes for event in events])
    line.finish()
    drive(world.clock, upload.run())
    assert world.theirs.held() == world.ours.held()
    assert read[1] < 110_000
    assert max(read[1:]) < 250_000
    assert len(read) < 60  # small ones are read in larger numbers again


def test_an_answer_that_is_late_is_taken_and_not_awaited() -> None:
    dialogue = Dialogue(Clock())
    with dialogue.oks() as box:
        box.expect("ab")
        assert dialogue.awaits_oks
        box.is_late("ab")
        assert not dialogue.awaits_oks
        for _ in range(2):
            dialogue.received(Ok("AB", True, ""))
        assert box.ready(9) == [Ok("AB", True, "")]
        box.is_late("cd")
        box.expect_no_more("cd")
        dialogue.received(Ok("cd", True, ""))
        assert box.ready(9) == []
