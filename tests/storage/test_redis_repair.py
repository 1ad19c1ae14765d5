"""A damaged store on Redis: what is wrong is found, and mended while nodes use it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import pytest
from msgspec.structs import replace

from negd.errors import StorageError
from negd.interfaces import Outcome
from negd.nostr.filing import filing_of, tag_key
from negd.nostr.filter import Filter
from negd.storage.redis.values import value_of
from negd.testing.events import sample_events
from negd.testing.model import NaiveRelay
from negd.testing.processes import negctl
from negd.testing.redis_server import OwnReactor, RedisServer
from tests.storage.contract import ALICE, BOB, NOW, note
from tests.storage.redis_nodes import Node, needs_server, opened


def redis_of(node: Node) -> Callable[..., Any]:
    """How a test does to the server what negd would not; a key is ``{negd}:`` and its name."""
    return lambda word, name, *words: node.command(word, b"{negd}:" + name, *words)


@needs_server
def test_verify_finds_damage_both_ways_and_repairs_it(
    reactor: OwnReactor, server: RedisServer
) -> None:
    profile, article = note(kind=0), note(kind=30023, tags=[["d", "x"], ["t", "y"]])
    text = note(kind=1, tags=[["expiration", str(2**40)]])
    digest = tag_key("t", "y")[1:]
    with opened(reactor, server) as one, opened(reactor, server) as other:
        one.ingest(profile, article, text)
        redis = redis_of(one)
        redis("ZREM", b"k:\0\0", profile.record + b"\0\0")
        redis("SREM", b"kinds", b"\0\0")
        redis("ZADD", b"k:\0\7", 0, article.record + b"\0\7")
        redis("ZADD", b"a:" + bytes(32), 0, text.record + b"\0\1")
        redis("ZADD", b"expiry", 0, bytes(8) + profile.id_bytes)
        redis("HSET", b"addresses", bytes(20), article.record)
        redis("DEL", b"t:t" + digest)
        redis("HSET", b"events", b"x" * 32, b"nonsense")
        redis("RPOP", b"feed-sizes")
        report = one.verify()
        assert (report.events, report.repaired) == (4, 0)
        for problem in (
            f"event {profile.id}: not in the list of kind 0",
            f"event {profile.id}: not in kinds",
            f"event {article.id}: not in the list of tag t {digest.hex()}",
            f"the list of kind 7 lists {article.id} wrongly",
            f"the list of author {bytes(32).hex()} lists {text.id} wrongly",
            f"expiry lists {profile.id} wrongly",
            f"addresses: {article.id} holds what it has no right to",
            "the feed does not know its last entry or its size",
        ):
            assert problem in report.problems
        assert any(
            problem.startswith(f"event {(b'x' * 32).hex()}: ") for problem in report.problems
        )
        assert len(report.problems) == 9

        mended = one.verify(repair=True)
        assert set(mended.problems) == set(report.problems)
        assert mended.repaired == 9
        one.assert_sound()
        events = (profile, article, text)
        for node in (one, other):
            node.until_known(*events)
            assert node.ids(Filter.build(kinds=[0, 1, 30023])) == node.ids()
            assert node.ids(Filter.build(tags={"t": ["y"]})) == {article.id_bytes}
        other.ingest(later := note(content="later"))
        one.until_known(later)
        one.assert_sound()


@needs_server
def test_repair_takes_out_what_is_no_event_everywhere(
    reactor: OwnReactor, server: RedisServer
) -> None:
    """Altered in place: broken, under another's id, with a wrong signature, in a wrong list."""
    broken, copied, forged, moved, whole = (
        note(kind=30023 + n % 2, content=str(n), tags=[["d", str(n)], ["t", "x"]]) for n in range(5)
    )
    with opened(reactor, server) as one, opened(reactor, server) as other:
        one.ingest(broken, copied, forged, moved, whole)
        redis = redis_of(one)
        value = redis("HGET", b"events", forged.id_bytes)
        redis("HSET", b"events", broken.id_bytes, b"nonsense")
        redis("HSET", b"events", copied.id_bytes, value_of(filing_of(whole)))
        redis("HSET", b"events", forged.id_bytes, value.replace(forged.sig.encode(), b"0" * 128))
        elsewhere = filing_of(replace(moved, kind=30025))
        elsewhere.packed = filing_of(moved).packed
        redis("HSET", b"events", moved.id_bytes, value_of(elsewhere))
        assert one.verify(repair=True).repaired > 0
        one.assert_sound()
        for node in (one, other):
            node.until(lambda node=node: node.ids() == {moved.id_bytes, whole.id_bytes})
            assert node.ids(Filter.build(tags={"t": ["x"]})) == node.ids()
            assert node.ids(Filter.build(kinds=[moved.kind])) == {moved.id_bytes}
            assert node.ids(Filter.build(kinds=[whole.kind])) == {whole.id_bytes}
        assert one.ingest(broken, copied, forged) == [Outcome.STORED] * 3
        one.assert_sound()


@needs_server
@pytest.mark.parametrize("holder", [None, "old", "new", "neither"])
def test_repair_leaves_one_event_at_an_address(
    reactor: OwnReactor, server: RedisServer, holder: str | None
) -> None:
    old, new = note(kind=0, content="old"), note(NOW + 1, kind=0, content="new")
    records = {"old": old.record, "new": new.record, "neither": note(kind=3).record}
    with opened(reactor, server) as one:
        one.ingest(old, new)
        redis = redis_of(one)
        redis("HSET", b"events", old.id_bytes, value_of(filing_of(old)))
        address, _ = redis("HGETALL", b"addresses")
        redis("DEL", b"addresses")
        if holder is not None:
            redis("HSET", b"addresses", address, records[holder])
        assert one.verify(repair=True).repaired > 0
        one.assert_sound()
        assert one.ids() == {new.id_bytes}


@needs_server
@pytest.mark.parametrize("seed", range(3))
def test_whatever_is_lost_or_added_in_the_indexes_is_mended(
    reactor: OwnReactor, server: RedisServer, seed: int
) -> None:
    random, relay = Random(seed), NaiveRelay(NOW)
    events = list(sample_events(300, seed, until=NOW))
    with opened(reactor, server) as one, opened(reactor, server) as other:
        one.ingest(*events)
        for event in events:
            relay.offer(event)
        redis = redis_of(one)
        keys = [key[len(b"{negd}:") :] for key in one.command("KEYS", "{negd}:[kat]:*")]
        for number, key in enumerate(random.sample(keys, 40)):
            match number % 4:
                case 0:
                    redis("DEL", key)
                case 1:
                    redis("ZREM", key, random.choice(redis("ZRANGE", key, 0, -1)))
                case 2:
                    redis("ZADD", key, 0, random.choice(events).record + random.randbytes(2))
                case 3:
                    redis("ZADD", key, 0, random.randbytes(42))
        for key in random.sample([b"expiry", b"addresses", b"kinds", b"feed-sizes"], 2):
            redis("DEL", key)
        assert one.verify(repair=True).repaired > 0
        one.assert_sound()
        kept = relay.kept()
        for node in (one, other):
            node.until(lambda node=node: node.ids() == set(kept))
        authors = {bytes.fromhex(event.pubkey) for event in events}
        tags = {pair for event in events for pair in event.indexed_tags()}
        for wanted in (
            *(Filter.build(kinds=[kind]) for kind in {event.kind for event in events}),
            *(Filter.build(authors=[author]) for author in authors),
            *(Filter.build(tags={name: [value]}) for name, value in sorted(tags)[::4]),
        ):
            matching = {event_id for event_id, event in kept.items() if wanted.matches(event)}
            assert one.ids(wanted) == matching


@needs_server
def test_forgotten_deletions_are_found_and_remembered(
    reactor: OwnReactor, server: RedisServer
) -> None:
    gone, back = note(content="gone"), note(content="back")
    article = note(kind=30023, tags=[["d", "x"]])
    deletion = note(
        NOW + 1, kind=5, tags=[["e", gone.id], ["e", back.id], ["a", f"30023:{ALICE.pubkey}:x"]]
    )
    with opened(reactor, server) as one, opened(reactor, server) as other:
        one.ingest(gone, back, article, deletion)
        one.assert_sound()
        redis = redis_of(one)
        for name, problem in (
            (b"deleted-ids", f"event {deletion.id}: what it deletes is not remembered"),
            (b"deleted-addresses", f"event {deletion.id}: what it deletes is not remembered"),
        ):
            redis("DEL", name)
            assert one.verify(repair=True).problems == [problem]
            one.assert_sound()
        marks = redis("SMEMBERS", b"deleted-ids")
        redis("DEL", b"deleted-ids")
        one.ingest(back)
        redis("SADD", b"deleted-ids", *marks)
        assert one.verify(repair=True).problems == [f"event {back.id}: is deleted"]
        one.assert_sound()
        assert other.ingest(gone, back, article) == [Outcome.DELETED] * 3
        other.until(lambda: other.ids() == {deletion.id_bytes})


@needs_server
def test_deletions_of_what_is_not_theirs_are_sound(
    reactor: OwnReactor, server: RedisServer
) -> None:
    """Older stores remember none of these."""
    theirs, earlier = note(author=BOB), note(kind=5)
    vain = note(NOW + 1, kind=5, tags=[["e", theirs.id], ["e", earlier.id]])
    with opened(reactor, server) as one:
        one.ingest(theirs, earlier, vain)
        redis_of(one)("DEL", b"deleted-ids")
        one.assert_sound()
        one.ingest(note(NOW + 2, kind=5, author=BOB, tags=[["e", theirs.id]]))
        assert theirs.id_bytes not in one.ids()


@needs_server
def test_a_store_that_was_opened_for_reading_is_not_repaired(
    reactor: OwnReactor, server: RedisServer
) -> None:
    with opened(reactor, server) as one:
        one.ingest(note())
    with opened(reactor, server, read_only=True) as one:
        with pytest.raises(StorageError, match="open for reading"):
            one.verify(repair=True)
        one.assert_sound()


@needs_server
def test_negctl_repairs_a_store_beside_a_node(
    reactor: OwnReactor, server: RedisServer, tmp_path: Path
) -> None:
    event = note(kind=7, tags=[["t", "x"]])
    with opened(reactor, server) as one:
        one.ingest(event, note(kind=1))
        redis_of(one)("ZREM", b"k:\0\7", event.record + b"\0\7")
        problem = f"event {event.id}: not in the list of kind 7\n"

        found = negctl("verify", "--store", server.store, folder=tmp_path)
        assert (found.returncode, found.stdout) == (1, problem)
        assert found.stderr == f"negctl: 1 problem in 2 events of {server.store}\n"

        mended = negctl("verify", "--repair", "--store", server.store, folder=tmp_path)
        assert (mended.returncode, mended.stderr) == (0, "")
        assert mended.stdout == (
            f"{problem}found 1 problem, repaired 1\nverified 2 events: sound\n"
        )
        assert one.ids(Filter.build(kinds=[7])) == {event.id_bytes}
        assert one.ingest(note(kind=7, content="later")) == [Outcome.STORED]


@needs_server
def test_what_is_no_record_in_a_list_is_passed_over_and_taken_out(
    reactor: OwnReactor, server: RedisServer
) -> None:
    events = [note(NOW - n, tags=[["t", "x"], ["expiration", str(2**40)]]) for n in range(5)]
    everyone = {event.id_bytes for event in events}
    with opened(reactor, server) as one:
        one.ingest(*events)
        redis = redis_of(one)
        for member in (b"\0", events[2].record, b"garbage"):
            redis("ZADD", b"k:\0\1", 0, member)
            redis("ZADD", b"t:" + tag_key("t", "x"), 0, member)
        redis("ZADD", b"expiry", 0, b"\0", 0, b"g")
        redis("SADD", b"kinds", b"abc", b"d")
    with opened(reactor, server, read_only=True) as one:
        for wanted in (Filter.build(), Filter.build(kinds=[1]), Filter.build(tags={"t": ["x"]})):
            assert one.ids(wanted) == everyone
        assert len(one.verify().problems) == 7, "the early one in expiry was swept"
    with opened(reactor, server) as one, opened(reactor, server) as other:
        assert one.verify(repair=True).repaired == 7
        one.assert_sound()
        assert one.ids() == other.ids() == everyone


@needs_server
@pytest.mark.parametrize("place, score", [(0, 5), (-1, -5), (300, 0.5)])
def test_lists_that_are_out_of_order_are_found_and_mended(
    reactor: OwnReactor, server: RedisServer, place: int, score: float
) -> None:
    """Nodes start meanwhile; what would need the list is refused."""
    events = [
        note(NOW - n, content=str(n), tags=[["expiration", str(2**40 - n)]]) for n in range(500)
    ]
    everyone = {event.id_bytes for event in events}
    wanted = Filter.build(kinds=[1])
    with opened(reactor, server) as one:
        one.ingest(*events)
        redis = redis_of(one)
        members = redis("ZRANGE", b"k:\0\1", 0, -1)
        expiring = redis("ZRANGE", b"expiry", 0, -1)
        redis("ZADD", b"k:\0\1", score, members[place], score, b"\xfe" * 42)
        redis("ZADD", b"expiry", score, expiring[place], score, b"\xfe" * 40)
    event_id = members[place][8:40]
    with opened(reactor, server, read_only=True) as one:
        assert one.ids() == everyone
        with pytest.raises(StorageError, match="DAMAGED index: negctl verify --repair mends it"):
            one.ids(wanted)
        assert set(one.verify().problems) == {
            f"event {event_id.hex()}: not in the list of kind 1",
            f"event {expiring[place][8:].hex()}: not in expiry",
            *(f"the list of kind 1 lists {i.hex()} wrongly" for i in (event_id, b"\xfe" * 32)),
            *(f"expiry lists {i.hex()} wrongly" for i in (expiring[place][8:], b"\xfe" * 32)),
        }
    with opened(reactor, server) as one, opened(reactor, server) as other:
        assert one.verify(repair=True).repaired > 0
        one.assert_sound()
        for node in (one, other):
            assert node.ids() == node.ids(wanted) == everyone


@needs_server
def test_keys_of_another_type_are_told_and_removed(
    reactor: OwnReactor, server: RedisServer
) -> None:
    events = [note(kind=kind, content="x") for kind in (1, 7)]
    everyone = {event.id_bytes for event in events}
    with opened(reactor, server) as one:
        one.ingest(*events)
        redis = redis_of(one)
        redis("SET", b"k:zz", b"x")
        redis("DEL", b"k:\0\1")
        redis("SET", b"k:\0\1", b"x")
    with opened(reactor, server, read_only=True) as one:
        assert one.ids() == everyone
        assert set(one.verify().problems) == {
            "the list of kind 31354 is a key of another type",
            "the list of kind 1 is a key of another type",
            f"event {events[0].id}: not in the list of kind 1",
        }
    with opened(reactor, server) as one:
        assert one.verify(repair=True).repaired == 3
        one.assert_sound()
        assert one.ids(Filter.build(kinds=[1])) == {events[0].id_bytes}
