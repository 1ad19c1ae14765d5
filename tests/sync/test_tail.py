"""A tail: what comes between two reconciliations, at the pace of our store."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence

import pytest
from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater

from negd.interfaces import Direction, Fault, Residue, Verdict
from negd.nostr.event import Event
from negd.nostr.filing import Filing
from negd.nostr.filter import EVERYTHING, Filter
from negd.nostr.signing import Signer
from negd.storage.memory import MemoryBook
from negd.sync import dialogue, tail
from negd.sync.contact import get_in_touch
from negd.sync.ledger import Ledger
from negd.sync.tail import Tail
from negd.testing.links import ScriptedPeer, drive, settle
from negd.testing.nodes import THEIRS, World, failure_of

alice = Signer(b"\x01" * 32)
events = [alice.sign(created_at=1000 + n, kind=1 + n % 2, content=str(n)) for n in range(120)]
ids = {event.id_bytes for event in events}


class Tailed:
    """Our tail on a link to a peer that says what the test says.

    :ivar heard: what the peer was sent, decoded.
    """

    def __init__(self, wanted: Filter) -> None:
        self.world = World()
        self.peer = ScriptedPeer()
        self.world.dialer.peers[THEIRS] = lambda: self.peer
        node = self.world.ours.parts
        self.contact = drive(self.world.clock, get_in_touch(node, THEIRS))
        self.book = MemoryBook()
        self.counts: Counter[str] = Counter()
        ledger = Ledger(node, self.book, THEIRS)
        self.tail = Tail(self.contact, node, wanted, Direction.BOTH, ledger, self.count)
        self.done = Deferred.fromCoroutine(self.tail.run())
        settle(self.world.clock)

    def count(self, **more: int) -> None:
        self.counts.update(more)

    @property
    def heard(self) -> list[list]:  # type: ignore[type-arg]
        return [json.loads(text) for text in self.peer.heard]

    def labels(self) -> list[str]:
        return [message[0] for message in self.heard]

    def say(self, *message: object) -> None:
        """Have the peer say something, of the last subscription where NAME stands."""
        name = next(m[1] for m in reversed(self.heard) if m[0] == "REQ")
        said = [name if part == "NAME" else part for part in message]
        self.peer.end.send(json.dumps(said).encode())
        settle(self.world.clock)

    def publish(self, some: Sequence[Event]) -> None:
        """Have events come on the tail, as fast as they are read."""
        name = next(m[1] for m in reversed(self.heard) if m[0] == "REQ")
        for event in some:
            self.peer.end.send(b'["EVENT","%s",%s]' % (name.encode(), event.encode()))
        settle(self.world.clock)


Follow = Callable[..., Tailed]


@pytest.fixture
def follow() -> Iterator[Follow]:
    """Makes tails, and ends them."""
    made: list[Tailed] = []

    def follow(wanted: Filter = EVERYTHING) -> Tailed:
        made.append(Tailed(wanted))
        return made[-1]

    yield follow
    for tailed in made:
        tailed.contact.close()
        tailed.world.clock.pump([1, 1])
        failure_of(tailed.done)
        assert [call for call in tailed.world.clock.getDelayedCalls() if call.active()] == []


class Store:
    """Our store, that has to be let on with each batch.

    :ivar sizes: of the batches that it was given.
    """

    def __init__(self, tailed: Tailed, monkeypatch: pytest.MonkeyPatch) -> None:
        store = tailed.world.ours.storage.events
        ingest = store.ingest
        self.sizes: list[int] = []

        async def slowly(filings: Sequence[Filing]) -> list[Verdict]:
            self.sizes.append(len(filings))
            await deferLater(tailed.world.clock, 1)
            return await ingest(filings)

        monkeypatch.setattr(store, "ingest", slowly)


def test_a_slow_store_slows_the_peer_and_loses_nothing(
    follow: Follow, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tail, "_HIGH_WATER", 20)
    monkeypatch.setattr(tail, "_BATCH", 10)
    monkeypatch.setattr(dialogue, "_MOST_UNREAD", 50)
    tailed = follow()
    store = Store(tailed, monkeypatch)
    tailed.publish(events)
    assert tailed.world.dialer.links[0]._paused
    assert len(tailed.tail._arrived.pending) == 20
    for _ in range(14):
        tailed.world.clock.advance(1)
        settle(tailed.world.clock)
        assert len(tailed.tail._arrived.pending) <= 20
    assert not tailed.done.called
    assert tailed.world.ours.held() == ids
    assert not tailed.world.dialer.links[0]._paused
    assert sum(store.sizes) == len(events)


def test_a_few_events_do_not_keep_the_link_from_being_read(
    follow: Follow, monkeypatch: pytest.MonkeyPatch
) -> None:
    tailed = follow()
    store = Store(tailed, monkeypatch)
    tailed.publish(events[:1])
    tailed.publish(events[1:])
    assert not tailed.world.dialer.links[0]._paused
    tailed.world.clock.pump([1, 1])
    assert store.sizes == [1, 119]
    assert tailed.counts["fetched"] == 120


def test_the_link_is_read_again_when_a_tail_ends(
    follow: Follow, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tail, "_HIGH_WATER", 20)
    tailed = follow()
    Store(tailed, monkeypatch)
    tailed.publish(events)
    assert tailed.world.dialer.links[0]._paused
    tailed.peer.end.close("gone")
    tailed.contact.dialogue.lost("gone")
    tailed.world.clock.advance(1)
    assert not tailed.world.dialer.links[0]._paused
    assert tailed.counts["fetched"] == len(tailed.world.ours.held()) > 0


def test_what_was_not_asked_for_is_counted_and_not_stored(follow: Follow) -> None:
    tailed = follow(Filter.build(kinds=[1]))
    tailed.publish(events[:10])
    assert {event.kind for event in events[:10]} == {1, 2}
    assert tailed.world.ours.held() == {e.id_bytes for e in events[:10] if e.kind == 1}
    assert tailed.contact.dialogue.faults[Fault.UNASKED] == 5


def test_a_refusal_by_notice_is_one(follow: Follow) -> None:
    tailed = follow()
    tailed.say("NOTICE", "ERROR: too many concurrent REQs")
    assert tailed.contact.tail_refused == "ERROR: too many concurrent REQs"
    tailed.world.clock.advance(20)
    settle(tailed.world.clock)
    assert tailed.labels() == ["REQ", "CLOSE", "REQ"]
    assert tailed.heard[1][1] == tailed.heard[0][1] != tailed.heard[2][1]
    assert tailed.contact.tail_refused == ""
    tailed.publish(events)
    assert tailed.world.ours.held() == ids


@pytest.mark.parametrize(
    "first", [["EOSE", "NAME"], ["EVENT", "NAME", json.loads(events[0].encode())]]
)
def test_a_notice_after_an_answer_is_about_something_else(
    follow: Follow, first: list[object]
) -> None:
    tailed = follow()
    tailed.say(*first)
    tailed.say("NOTICE", "ERROR: too many concurrent REQs")
    assert tailed.contact.tail_refused == ""
    tailed.publish(events)
    assert tailed.world.ours.held() == ids
    tailed.say("CLOSED", "NAME", "error: shutting down")
    assert tailed.contact.tail_refused == "error: shutting down"


def test_what_moves_in_vain_is_in_the_ledger_while_the_link_lives(follow: Follow) -> None:
    tailed = follow()
    older, newer, refused = (alice.sign(created_at=2000 + n, kind=n // 2) for n in range(3))
    tailed.world.ours.hold([newer])
    settle(tailed.world.clock)
    tailed.say("OK", newer.id, True, "")
    tailed.publish([older])
    tailed.world.ours.hold([refused])
    settle(tailed.world.clock)
    tailed.say("OK", refused.id, False, "blocked: no")
    entries = drive(
        tailed.world.clock, tailed.book.ledger(THEIRS, [older.id_bytes, refused.id_bytes])
    )
    assert [entry.residue for entry in entries.values()] == [
        Residue.OURS_REJECTED,
        Residue.THEIRS_REJECTED,
    ]
    assert not tailed.done.called
