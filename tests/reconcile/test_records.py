"""Record sets against the plainest model there is: a sorted list of distinct 40-byte strings."""

from __future__ import annotations

import hashlib
import random
import tracemalloc
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from negd.reconcile import RecordSet, pack, sums
from negd.reconcile import chunk as chunks
from negd.reconcile.arrays import as_keys
from negd.reconcile.chunk import CHUNK
from negd.reconcile.wire import encode_varint

CREATED_AT = st.sampled_from([0, 1, 2, 1_700_000_000, 1_700_000_001, 2**63, 2**64 - 2])
EVENT_IDS = st.one_of(
    st.binary(min_size=32, max_size=32),
    st.integers(0, 300).map(lambda n: bytes(30) + n.to_bytes(2, "big")),
    st.integers(0, 300).map(lambda n: n.to_bytes(2, "big") + bytes(30)),
)
RECORDS = st.lists(st.builds(pack, CREATED_AT, EVENT_IDS), max_size=60)


@pytest.fixture(
    autouse=True,
    params=["one chunk, few sums", "many chunks, few sums", "many chunks, all sums"],
)
def size_of_parts(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every test runs with chunks so small that a few records make many, and with sums of every
    eighth record or of each, whatever is asked of them."""
    if "many" in request.param:
        monkeypatch.setattr(chunks, "CHUNK", 4)
        monkeypatch.setattr(chunks, "LARGEST_CHUNK", 6)
    monkeypatch.setattr(sums, "_REFINED_AT", 0 if "few" in request.param else 10**9)


anything = settings(max_examples=60, deadline=None)


def set_of(records: list[bytes]) -> RecordSet:
    return RecordSet.from_records(b"".join(records))


def model(records: list[bytes]) -> list[bytes]:
    return sorted(set(records))


def fingerprint(records: list[bytes]) -> bytes:
    """As the protocol's document defines it."""
    total = sum(int.from_bytes(record[8:], "little") for record in records) % 2**256
    return hashlib.sha256(total.to_bytes(32, "little") + encode_varint(len(records))).digest()[:16]


@anything
@given(RECORDS)
def test_a_set_holds_its_records_once_and_in_order(records: list[bytes]) -> None:
    held = set_of(records)
    expected = model(records)
    assert list(held) == expected
    assert len(held) == len(expected)
    assert held.to_array().tobytes() == b"".join(expected)
    assert [held.record(i) for i in range(len(held))] == expected
    assert held.ids(0, len(held)) == b"".join(record[8:] for record in expected)
    assert all(record in held for record in records)
    assert held == set_of(list(reversed(records)))
    assert held == RecordSet.from_records(held.to_array(), is_sorted=True)
    rows = np.frombuffer(b"".join(records), np.uint8).copy()
    assert held == RecordSet.from_records(rows, owned=True)


@anything
@given(RECORDS, st.builds(pack, CREATED_AT, EVENT_IDS))
def test_a_record_is_in_a_set_or_not(records: list[bytes], other: bytes) -> None:
    assert (other in set_of(records)) == (other in records)
    assert b"short" not in set_of(records)


@anything
@given(RECORDS, RECORDS)
def test_what_is_inserted_is_there_and_the_set_it_came_from_unchanged(
    records: list[bytes], added: list[bytes]
) -> None:
    held = set_of(records)
    assert list(held.insert(b"".join(added))) == model(records + added)
    assert list(held) == model(records)


@anything
@given(RECORDS, RECORDS, st.data())
def test_what_is_deleted_is_gone_and_unknown_records_are_no_matter(
    records: list[bytes], unknown: list[bytes], data: st.DataObject
) -> None:
    some = data.draw(st.lists(st.sampled_from(records))) if records else []
    gone = {*some, *unknown}
    held = set_of(records)
    assert list(held.delete(b"".join(some + unknown))) == sorted(set(records) - gone)
    assert list(held) == model(records)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.booleans(), RECORDS), max_size=12))
def test_any_row_of_changes_leaves_a_sound_set(changes: list[tuple[bool, list[bytes]]]) -> None:
    held, expected = set_of([]), set[bytes]()
    for is_insert, records in changes:
        data = b"".join(records)
        held = held.insert(data) if is_insert else held.delete(data)
        expected = expected | set(records) if is_insert else expected - set(records)
    assert list(held) == sorted(expected)
    assert held.fingerprint(0, len(held)) == fingerprint(sorted(expected))


@anything
@given(RECORDS, st.data())
def test_a_fingerprint_is_the_documented_one_of_any_range(
    records: list[bytes], data: st.DataObject
) -> None:
    held, expected = set_of(records), model(records)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(expected)), min_size=2, max_size=9)))
    edges = np.array(cuts)
    wanted = [fingerprint(expected[lo:hi]) for lo, hi in pairwise(cuts)]
    together = held.fingerprints(edges[:-1], edges[1:])
    assert [bytes(row) for row in together] == wanted
    assert [held.fingerprint(lo, hi) for lo, hi in pairwise(cuts)] == wanted


@anything
@given(RECORDS, st.lists(st.tuples(CREATED_AT, EVENT_IDS, st.integers(0, 32)), max_size=9))
def test_a_bound_is_found_one_at_a_time_and_together(
    records: list[bytes], bounds: list[tuple[int, bytes, int]]
) -> None:
    held, expected = set_of(records), model(records)
    keys = sorted((created_at.to_bytes(8, "big") + i[:size]) for created_at, i, size in bounds)
    wanted = [sum(record < key.ljust(40, b"\0") for record in expected) for key in keys]
    assert [held.find(int.from_bytes(key[:8], "big"), key[8:]) for key in keys] == wanted
    padded = np.frombuffer(b"".join(key.ljust(40, b"\0") for key in keys), np.uint8)
    assert held.find_many(as_keys(padded.reshape(-1, 40))).tolist() == wanted


@anything
@given(RECORDS, st.lists(EVENT_IDS, max_size=9), st.data())
def test_ids_are_found_by_themselves(
    records: list[bytes], others: list[bytes], data: st.DataObject
) -> None:
    held, expected = set_of(records), model(records)
    lo, hi = sorted(data.draw(st.tuples(*[st.integers(0, len(expected))] * 2)))
    asked = {record[8:] for record in records[:5]} | set(others)
    assert held.held_ids(asked, lo, hi) == asked & {record[8:] for record in expected[lo:hi]}


def test_a_bound_is_looked_for_within_limits() -> None:
    held = set_of([pack(t, bytes(32)) for t in range(10)])
    assert held.find(7, b"", 2, 5) == 5
    assert held.find(1, b"", 2, 5) == 2
    assert held.find(3, b"", 2, 5) == 3
    assert held.find(2**64 - 1, b"") == 10
    assert held.find(-1, b"") == 0


@anything
@given(RECORDS, st.none() | CREATED_AT, st.none() | CREATED_AT)
def test_a_window_takes_in_both_its_ends(
    records: list[bytes], since: int | None, until: int | None
) -> None:
    kept = [
        record
        for record in model(records)
        if (since or 0) <= int.from_bytes(record[:8], "big") <= (2**64 if until is None else until)
    ]
    assert list(set_of(records).window(since, until)) == kept


@settings(max_examples=60, deadline=None)
@given(RECORDS, st.lists(st.tuples(CREATED_AT, CREATED_AT, RECORDS, RECORDS), max_size=4))
def test_a_window_is_a_set_like_any_other(
    records: list[bytes], steps: list[tuple[int, int, list[bytes], list[bytes]]]
) -> None:
    """Windows share sums with what they were cut from, and are cut and changed in their turn."""
    held, expected = set_of(records), set(records)
    for since, until, new, gone in steps:
        held = held.window(min(since, until), max(since, until))
        expected = {
            record
            for record in expected
            if min(since, until) <= int.from_bytes(record[:8], "big") <= max(since, until)
        }
        for lo, hi in ((0, len(held)), (len(held) // 3, len(held) // 2)):
            part = sorted(expected)[lo:hi]
            assert held.fingerprint(lo, hi) == fingerprint(part)
            one = held.fingerprints(np.array([lo]), np.array([hi]))
            assert bytes(one[0]) == fingerprint(part)
        held = held.insert(b"".join(new)).delete(b"".join(gone))
        expected = (expected | set(new)) - set(gone)
        assert list(held) == sorted(expected)
        assert held.fingerprint(0, len(held)) == fingerprint(sorted(expected))


@anything
@given(RECORDS, st.integers(-1, 70))
def test_the_newest_are_latest_first_and_lowest_id_first_in_one_second(
    records: list[bytes], n: int
) -> None:
    by_nip_01 = sorted(model(records), key=lambda r: (-int.from_bytes(r[:8], "big"), r[8:]))
    assert list(set_of(records).newest(n)) == sorted(by_nip_01[: max(n, 0)])


@pytest.mark.parametrize("form", [bytes, bytearray, memoryview])
def test_records_come_in_any_buffer_or_array(form: type) -> None:
    records = [pack(2, b"\2" * 32), pack(1, b"\1" * 32)]
    expected = sorted(records)
    array = np.frombuffer(b"".join(records), np.uint8)
    assert list(RecordSet.from_records(form(b"".join(records)))) == expected
    assert list(RecordSet.from_records(array)) == expected
    assert list(RecordSet.from_records(array.reshape(2, 40)[::-1])) == expected


def test_a_set_keeps_its_records_when_the_array_it_came_from_is_written_to() -> None:
    array = np.frombuffer(pack(1, b"\1" * 32), np.uint8).reshape(1, 40).copy()
    held = RecordSet.from_records(array, is_sorted=True)
    array[:] = 9
    assert list(held) == [pack(1, b"\1" * 32)]
    with pytest.raises(ValueError, match="read-only"):
        held.to_array()[:] = 9


@pytest.mark.parametrize("data", [b"x", bytes(41), b"\xff" * 40])
def test_what_are_no_records_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError):
        RecordSet.from_records(data)
    with pytest.raises(ValueError):
        RecordSet.EMPTY.insert(data)


def test_records_said_to_be_sorted_are_looked_at() -> None:
    with pytest.raises(ValueError, match="not sorted"):
        RecordSet.from_records(pack(2, bytes(32)) + pack(1, bytes(32)), is_sorted=True)
    with pytest.raises(ValueError, match="not sorted"):
        RecordSet.from_records(pack(1, bytes(32)) * 2, is_sorted=True)


@pytest.mark.parametrize("created_at", [-1, 2**64 - 1, 2**64])
def test_a_time_that_has_no_place_in_the_protocol_is_refused(created_at: int) -> None:
    with pytest.raises(ValueError, match="created_at"):
        pack(created_at, bytes(32))


def test_an_id_has_32_bytes() -> None:
    with pytest.raises(ValueError, match="32 bytes"):
        pack(1, bytes(31))


def many(count: int, seed: int = 1) -> np.ndarray[tuple[int, int], np.dtype[np.uint8]]:
    rows = np.frombuffer(random.Random(seed).randbytes(count * 40), np.uint8)
    rows = rows.reshape(count, 40).copy()
    rows[:, :4] = 0
    return rows


class TestLargeSets:
    """At full chunk size."""

    @pytest.fixture(autouse=True)
    def size_of_parts(self) -> None:
        """Overrides those above."""

    def test_an_insert_shares_every_chunk_it_does_not_fall_in(self) -> None:
        held = RecordSet.from_records(many(6 * CHUNK))
        changed = held.insert(pack(2**31, bytes(32)))
        same = {id(c) for c in held._chunks} & {id(c) for c in changed._chunks}
        assert len(changed) == len(held) + 1
        assert len(same) == len(held._chunks) - 1

    def test_nothing_new_gives_the_same_set(self) -> None:
        held = RecordSet.from_records(many(1000))
        assert held.insert(held.record(7)) is held
        assert held.delete(pack(5, bytes(32))) is held
        assert held.window(None, None) is held
        assert held.newest(1000) is held

    def test_a_window_shares_the_chunks_inside_it(self) -> None:
        held = RecordSet.from_records(many(6 * CHUNK))
        window = held.window(2**30, 3 * 2**30)
        same = {id(c) for c in held._chunks} & {id(c) for c in window._chunks}
        assert len(same) >= 2

    def test_a_record_takes_50_bytes_and_once_much_is_asked_104(
        self,
    ) -> None:
        rows = RecordSet.from_records(many(3 * CHUNK)).to_array()
        bounds = np.arange(len(rows) + 1)
        tracemalloc.start()
        held = RecordSet.from_records(rows, is_sorted=True)
        assert tracemalloc.get_traced_memory()[0] < 50 * len(held)
        held.fingerprints(bounds[:-1], bounds[1:])
        assert 100 * len(held) < tracemalloc.get_traced_memory()[0] <= 1.01 * held.nbytes
        tracemalloc.stop()
        assert held.nbytes <= 105 * len(held)

    def test_chunks_stay_of_a_size_however_the_set_came_about(self) -> None:
        held, rows = RecordSet.EMPTY, many(5 * CHUNK)
        for at in range(0, len(rows), CHUNK // 4):
            held = held.insert(rows[at : at + CHUNK // 4])
        assert max(map(len, held._chunks)) <= chunks.LARGEST_CHUNK
        for at in range(0, len(rows), CHUNK // 2):
            held = held.delete(rows[at : at + CHUNK // 2 - 10])
        assert len(held._chunks) <= 2
        assert held == RecordSet.from_records(held.to_array())
