"""The roll against a dictionary: whatever was entered and left, what is known is right."""

from __future__ import annotations

from hashlib import sha256

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from negd.nostr.filing import Filing
from negd.storage.lmdb import roll as module
from negd.storage.lmdb.postings import serial_key
from negd.storage.lmdb.roll import Roll


def entry(serial: int) -> tuple[int, bytes, int]:
    digest = sha256(b"%d" % serial).digest()
    return serial, digest[:8] + digest, serial % 65536


def roll_of(serials: list[int]) -> Roll:
    records = np.frombuffer(b"".join(entry(serial)[1] for serial in serials), np.uint8)
    kinds = np.array([serial % 65536 for serial in serials], np.uint16)
    return Roll(np.array(serials, np.int64), records.reshape(-1, 40).copy(), kinds)


def entered(serials: list[int]) -> dict[bytes, Filing]:
    return {
        serial_key(number): Filing(b"", record, kind, [], None, None)
        for number, record, kind in map(entry, serials)
    }


def known(roll: Roll, serials: list[int]) -> set[int]:
    """The serials that the roll knows, each of which it must know rightly."""
    records, kinds, found = roll.find(np.array(serials, np.int64))
    for place in np.flatnonzero(found):
        assert (bytes(records[place]), kinds[place]) == entry(serials[place])[1:]
    return {serial for serial, there in zip(serials, found, strict=True) if there}


@given(
    first=st.lists(st.integers(1, 300), unique=True).map(sorted),
    rounds=st.lists(
        st.tuples(
            st.lists(st.integers(1, 40), max_size=12),
            st.sets(st.integers(1, 1500), max_size=40),
        ),
        max_size=8,
    ),
)
@pytest.mark.parametrize("sparse", [0, 4])
def test_roll_knows_what_is_there(
    sparse: int, first: list[int], rounds: list[tuple[list[int], set[int]]]
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_SPARSE", sparse)
        patch.setattr(module, "_ROOM", 4)
        patch.setattr(module, "_MANY_GONE", 5)
        roll, there = roll_of(first), set(first)
        last = max(first, default=0)
        for steps, leaving in rounds:
            new = [last := last + step for step in steps]
            roll.add(entered(new))
            there |= set(new)
            gone = there & leaving
            roll.drop([serial_key(serial) for serial in sorted(gone)])
            there -= gone
            everything = list(range(last + 50))
            assert there <= known(roll, everything)
        assert known(roll, [2**40]) == set()


def test_entries_of_removed_events_do_not_pile_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_MANY_GONE", 10)
    roll = Roll.EMPTY
    roll = roll_of([1])
    for serial in range(2, 2000):
        roll.add(entered([serial]))
        roll.drop([serial_key(serial)])
    assert len(known(roll, list(range(2000)))) < 30
    assert 1 in known(roll, [1])
