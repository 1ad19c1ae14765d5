"""Messages meant to harm end in one exception, or in an answer, at a price linear in their size."""

from __future__ import annotations

import sys
import tracemalloc
from collections.abc import Callable

import numpy as np
import pytest

from negd.errors import ProtocolViolation, RemoteError
from negd.reconcile import Initiator, RecordSet, Responder
from negd.reconcile.batch import BatchWalk
from negd.reconcile.walk import Walk
from negd.reconcile.wire import encode_varint

ID = b"\xaa" * 32
FINGERPRINT = b"\xbb" * 16

REFUSED = {
    "a number cut short": "80",
    "a number cut short after a good range": "0100008081",
    "the timestamp alone": "01",
    "no mode": "0000",
    "a prefix cut short": "0004aabb",
    "a fingerprint cut short": "000001" + "bb" * 15,
    "an id cut short": "00000201" + "aa" * 31,
    "no count": "000002",
    "a timestamp past 64 bits": "82" + "80" * 8 + "00" + "0000",
    "an eleven-byte timestamp": "81" + "80" * 9 + "00" + "0000",
    "timestamps that sum up past 64 bits": "81" + "ff" * 8 + "7f" + "0000" + "030000",
    "a bound behind the end": "000000" + "030000",
    "a prefix of 33 bytes": "0021" + "aa" * 33 + "00",
    "a prefix of 2**63 bytes": "00" + "81" + "80" * 8 + "00" + "00",
    "id prefixes that go backwards": "0201bb00" + "0101aa00",
    "a shorter prefix behind a longer one": "0202bb0100" + "0101bb00",
    "a count of ids beyond the message": "000002" + "ff" * 8 + "7f",
    "a count of 2**63-1 ids": "000002" + "81ffffffffffffffff7f",
    "one id too few": "00000202" + ID.hex(),
    "an id twice": "00000202" + ID.hex() * 2,
    "mode 3": "000003",
    "mode 2**60": "0000" + "90" + "80" * 7 + "00",
    "the message that crashed a server": "0181ffffffffffffffff7f",
}


@pytest.fixture(scope="module")
def records() -> RecordSet:
    rows = np.zeros((5000, 40), np.uint8)
    rows[:, 8:] = np.random.default_rng(1).integers(0, 256, (5000, 32), np.uint8)
    rows[:, 6:8] = np.arange(5000, dtype=">u2").view(np.uint8).reshape(-1, 2)
    return RecordSet.from_records(rows)


@pytest.mark.parametrize("walk_class", [Walk, BatchWalk])
@pytest.mark.parametrize("ranges", REFUSED.values(), ids=REFUSED.keys())
def test_it_is_refused_as_the_remotes_fault(
    ranges: str, walk_class: type[Walk], records: RecordSet
) -> None:
    for answers in (True, False):
        with pytest.raises(ProtocolViolation) as caught:
            walk_class(records, 0, answers_lists=answers).run(bytes.fromhex("61" + ranges))
        assert isinstance(caught.value, RemoteError)
        assert caught.value.answer.startswith("invalid: ")


@pytest.mark.parametrize("ranges", REFUSED.values(), ids=REFUSED.keys())
def test_both_roles_refuse_it_and_go_on_working(ranges: str, records: RecordSet) -> None:
    message = bytes.fromhex("61" + ranges)
    responder, initiator = Responder(records), Initiator(records)
    opening = initiator.initiate()
    with pytest.raises(ProtocolViolation):
        responder.reconcile(message)
    with pytest.raises(ProtocolViolation):
        initiator.reconcile(message)
    assert responder.reconcile(opening).reply == b"\x61"
    assert initiator.reconcile(b"\x61").complete


def tiny_skips(count: int) -> bytes:
    return b"\x61" + bytes.fromhex("010000") * count


def tiny_lists(count: int) -> bytes:
    return b"\x61" + bytes.fromhex("01000200") * count


def tiny_fingerprints(count: int) -> bytes:
    return b"\x61" + (bytes.fromhex("010001") + FINGERPRINT) * count


def advancing_fingerprints(count: int) -> bytes:
    return b"\x61" + (bytes.fromhex("020001") + FINGERPRINT) * count


def long_list(count: int) -> bytes:
    ids = np.arange(count * 4, dtype=">u8").tobytes()
    return bytes.fromhex("61000002") + encode_varint(count) + ids


def colliding_list(count: int) -> bytes:
    ids = np.zeros((count, 4), ">u8")
    ids[:, 3] = np.arange(count)
    return bytes.fromhex("61000002") + encode_varint(count) + ids.tobytes()


FLOODS = [
    tiny_skips, tiny_lists, tiny_fingerprints, advancing_fingerprints, long_list, colliding_list
]  # fmt: skip


def flood_of(size: int, flood: Callable[[int], bytes]) -> bytes:
    return flood(size // (len(flood(1)) - 1))


@pytest.mark.parametrize("flood", FLOODS)
@pytest.mark.parametrize("limit", [0, 60_000])
def test_megabytes_of_it_are_answered_within_the_frame(
    flood: Callable[[int], bytes], limit: int, records: RecordSet
) -> None:
    message = flood_of(3_000_000, flood)
    reply = Responder(records, limit).reconcile(message).reply
    assert reply is not None
    assert len(reply) <= (limit or 2 * len(message) + 72 * len(records))


@pytest.mark.parametrize("flood", FLOODS)
def test_it_takes_memory_in_proportion(flood: Callable[[int], bytes], records: RecordSet) -> None:
    message = flood_of(200_000, flood)
    tracemalloc.start()
    try:
        Responder(records).reconcile(message)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak <= 20 * len(message) + 10_000_000


@pytest.mark.parametrize("flood", FLOODS)
def test_twice_of_it_takes_no_more_than_about_twice_the_work(
    flood: type[bytes], records: RecordSet
) -> None:
    calls = [work(records, flood_of(size, flood)) for size in (200_000, 400_000)]
    assert calls[1] <= 2.5 * calls[0] + 1000


def work(records: RecordSet, message: bytes) -> int:
    """Calls made while answering, which unlike time do not depend on the machine."""
    count = 0

    def counted(*_: object) -> None:
        nonlocal count
        count += 1

    sys.setprofile(counted)
    try:
        Responder(records).reconcile(message)
    finally:
        sys.setprofile(None)
    return count


def test_digits_without_end_cost_no_more_than_a_number() -> None:
    with pytest.raises(ProtocolViolation):
        Responder(RecordSet.EMPTY).reconcile(b"\x61" + b"\xff" * 4_000_000)
