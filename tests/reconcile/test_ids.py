"""Ids in one piece of memory against the list that they stand for."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from negd.reconcile import Ids

some_ids = st.lists(st.binary(min_size=32, max_size=32), max_size=40)


@given(some_ids, some_ids, some_ids)
def test_ids_are_what_was_added(
    first: list[bytes], second: list[bytes], third: list[bytes]
) -> None:
    ids, plain = Ids(first), [*first, *second, *third]
    ids.extend(second)
    for event_id in third:
        ids.append(event_id)
    assert (list(ids), len(ids), bool(ids)) == (plain, len(plain), bool(plain))
    assert ids == plain


@given(some_ids, st.slices(40))
def test_parts_are_those_of_a_list(plain: list[bytes], part: slice) -> None:
    assert Ids(plain)[part] == plain[part]


@given(some_ids.filter(bool), st.data())
def test_one_is_found_from_either_end(plain: list[bytes], data: st.DataObject) -> None:
    place = data.draw(st.integers(-len(plain), len(plain) - 1))
    assert Ids(plain)[place] == plain[place]
    with pytest.raises(IndexError):
        Ids(plain)[len(plain)]


def test_rows_of_an_array_are_ids_and_many_are_walked_through() -> None:
    rows = np.arange(3000 * 32, dtype=np.int64).astype(np.uint8).reshape(-1, 32)
    ids = Ids()
    ids.add_rows(rows, np.arange(3000) % 3 == 0)
    assert list(ids) == [bytes(row) for row in rows[::3]]


def test_ids_differ_where_one_does() -> None:
    assert Ids([bytes(32)]) != [b"\1" * 32]
    assert Ids([bytes(32)]) != [bytes(32)] * 2
    assert Ids() != 0
