"""The batched walk writes what the plain one writes, learns what it learns, refuses what it does.

The messages are those of real runs, those with bytes changed, and ranges made up at random.
"""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from negd.errors import ProtocolViolation
from negd.reconcile import Initiator, RecordSet, pack, sums
from negd.reconcile import batch as batches
from negd.reconcile import chunk as chunks
from negd.reconcile.batch import BatchWalk
from negd.reconcile.walk import Walk
from negd.reconcile.wire import encode_varint

SEEDS = st.integers(0, 2**32)
LIMITS = st.sampled_from([0, 4096, 8000])


@pytest.fixture(autouse=True, params=["large, few sums", "large", "small"])
def sizes(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every test also runs with few sums kept, with many chunks, and with many blocks to a
    message."""
    if "few sums" in request.param:
        monkeypatch.setattr(sums, "_REFINED_AT", 0)
    if request.param == "small":
        monkeypatch.setattr(chunks, "CHUNK", 50)
        monkeypatch.setattr(chunks, "LARGEST_CHUNK", 70)
        monkeypatch.setattr(batches, "_BLOCK", 5)


def outcome(
    walk_class: type[Walk], records: RecordSet, limit: int, answers: bool, message: bytes
) -> tuple[object, ...]:
    """All there is to see of a walk; of a refused message only that it was."""
    walk = walk_class(records, limit, answers_lists=answers)
    try:
        walk.run(message)
    except ProtocolViolation:
        return ("refused",)
    out = walk.out
    flags = out.has_fingerprint, out.has_id_list
    return out.message(), flags, sorted(walk.have), sorted(walk.need)


def assert_alike(records: RecordSet, limit: int, message: bytes) -> None:
    for answers in (True, False):
        plain = outcome(Walk, records, limit, answers, message)
        assert outcome(BatchWalk, records, limit, answers, message) == plain


def random_sets(dice: random.Random) -> tuple[RecordSet, RecordSet]:
    span, alike = dice.choice([1, 5, 10**6]), dice.choice([0, 1, 20])
    sides: tuple[list[bytes], list[bytes]] = [], []
    for _ in range(dice.choice([0, 3, 50, 700])):
        record = pack(dice.randrange(span), bytes(alike) + dice.randbytes(32 - alike))
        for side in dice.choice([(0,), (1,), (0, 1), (0, 1), (0, 1)]):
            sides[side].append(record)
    return RecordSet.from_records(b"".join(sides[0])), RecordSet.from_records(b"".join(sides[1]))


def messages_of_a_run(ours: RecordSet, theirs: RecordSet, limit: int) -> Iterator[bytes]:
    message = Initiator(ours).initiate()
    for turn in range(30):
        yield message
        walk = Walk((theirs, ours)[turn % 2], limit, answers_lists=not turn % 2)
        walk.run(message)
        message = walk.out.message()
        if len(message) == 1:
            break


@settings(max_examples=20, deadline=None)
@given(SEEDS, LIMITS)
def test_real_messages_are_answered_alike(seed: int, limit: int) -> None:
    ours, theirs = random_sets(random.Random(seed))
    for turn, message in enumerate(messages_of_a_run(ours, theirs, limit)):
        assert_alike((theirs, ours)[turn % 2], limit, message)


@settings(max_examples=30, deadline=None)
@given(SEEDS, LIMITS)
def test_damaged_messages_are_answered_or_refused_alike(seed: int, limit: int) -> None:
    dice = random.Random(seed)
    ours, theirs = random_sets(dice)
    for message in messages_of_a_run(ours, theirs, limit):
        damaged = bytearray(message)
        for _ in range(dice.choice([1, 1, 3])):
            at = dice.randrange(1, len(damaged) + 1)
            damaged[at : at + dice.randrange(3)] = dice.randbytes(dice.randrange(3))
        assert_alike(ours, limit, bytes(damaged))


def random_ranges(dice: random.Random, records: RecordSet) -> bytes:
    """Ranges whose bounds ascend, mostly, some on records of the set, with any payload."""
    message, last, prefix = bytearray(b"\x61"), 0, b""
    for _ in range(dice.choice([1, 5, 40])):
        if len(records) and dice.random() < 0.7:
            record = records.record(dice.randrange(len(records)))
            timestamp, prefix = (
                int.from_bytes(record[:8], "big"),
                record[8 : 8 + dice.randrange(33)],
            )
            if timestamp < last:
                continue
        else:
            timestamp, prefix = (
                last + dice.choice([0, 1, 2, 300, 2**40]),
                dice.choice([b"", b"\xff"]),
            )
        end = dice.random() < 0.02
        message += encode_varint(0 if end else timestamp - last + 1)
        last = 2**64 - 1 if end else timestamp
        message += bytes([len(prefix)]) + prefix
        mode = dice.choice([0, 1, 1, 2, 2])
        count = dice.choice([0, 1, 2, 20, 200]) if mode == 2 else 0
        near = [records.record(i)[8:] for i in range(min(len(records), count))]
        ids = [dice.choice(near) if near and dice.random() < 0.5 else dice.randbytes(32)
               for _ in range(count)]  # fmt: skip
        payload = [b"", dice.randbytes(16), encode_varint(len(ids)) + b"".join(ids)][mode]
        message += bytes([mode]) + payload
    return bytes(message)


@settings(max_examples=150, deadline=None)
@given(SEEDS, LIMITS)
def test_made_up_messages_are_answered_or_refused_alike(seed: int, limit: int) -> None:
    dice = random.Random(seed)
    records = random_sets(dice)[0]
    assert_alike(records, limit, random_ranges(dice, records))


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=300), LIMITS)
def test_any_bytes_are_answered_or_refused_alike(data: bytes, limit: int) -> None:
    assert_alike(RecordSet.from_records(pack(5, bytes(32))), limit, b"\x61" + data)


def test_ids_that_share_their_first_bytes_are_compared_whole() -> None:
    ours = [pack(1, b"\7" * 8 + bytes([n]) * 24) for n in range(20)]
    theirs = [b"\7" * 8 + bytes([n]) * 24 for n in range(10, 30)]
    message = bytes.fromhex("61000002") + encode_varint(len(theirs)) + b"".join(theirs)
    assert_alike(RecordSet.from_records(b"".join(ours)), 0, message)
