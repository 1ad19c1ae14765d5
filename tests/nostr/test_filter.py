"""Filters: canonical form, matching, and clear words for wrong ones (NIP-01)."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from negd.nostr import filter as filters
from negd.nostr.filter import EVERYTHING, Filter, InvalidFilter, decode
from negd.nostr.signing import Signer

alice, bob = Signer(b"\x01" * 32), Signer(b"\x02" * 32)

ids = st.lists(st.binary(min_size=32, max_size=32), max_size=3)
numbers = st.integers(0, 2**64 - 1)
some = st.fixed_dictionaries(
    {},
    optional={
        "ids": ids,
        "authors": ids,
        "kinds": st.lists(st.integers(0, 65535), max_size=4),
        "tags": st.dictionaries(
            st.sampled_from("eptdEX"),
            st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=5)),
        ),
        "since": numbers,
        "until": numbers,
        "limit": numbers,
    },
)


@given(some)
def test_a_filter_survives_the_wire(fields: dict) -> None:  # type: ignore[type-arg]
    built = Filter.build(**fields)
    assert decode(built.encode()) == built
    assert decode(built.encode()).key == built.key


def test_equal_filters_have_one_form() -> None:
    one = decode('{"kinds":[3,1,1],"#e":["b","a"],"since":5}')
    other = decode('{"since":5,"#e":["a","b","a"],"kinds":[1,3]}')
    assert one == other
    assert one.encode() == b'{"kinds":[1,3],"#e":["a","b"],"since":5}'
    assert one.key == other.key
    assert one.key != EVERYTHING.key


def test_a_list_of_one_filter_is_that_filter() -> None:
    assert decode('[{"kinds":[1]}]') == decode('{"kinds":[1]}')


def test_an_empty_list_matches_nothing_and_is_not_no_condition() -> None:
    event = alice.sign(created_at=1)
    assert EVERYTHING.matches(event)
    for text in ('{"ids":[]}', '{"kinds":[]}', '{"authors":[]}', '{"#e":[]}'):
        assert not decode(text).matches(event)
        assert decode(text) != EVERYTHING


def test_every_condition_counts() -> None:
    event = alice.sign(created_at=100, kind=7, tags=[["e", "x"], ["e", "y"], ["p", "z"]])
    matching = {
        "ids": [event.id],
        "authors": [alice.pubkey],
        "kinds": [1, 7],
        "#e": ["y", "q"],
        "#p": ["z"],
        "since": 100,
        "until": 100,
    }
    assert filters.from_json(matching).matches(event)
    failing = {
        "ids": ["0" * 64],
        "authors": [bob.pubkey],
        "kinds": [1],
        "#e": ["q"],
        "#p": ["x"],
        "since": 101,
        "until": 99,
    }
    for name, value in failing.items():
        assert not filters.from_json({**matching, name: value}).matches(event), name


def test_since_is_only_ever_raised() -> None:
    assert EVERYTHING.since_at_least(None) == EVERYTHING
    assert EVERYTHING.since_at_least(5).since == 5
    assert Filter(since=9).since_at_least(5).since == 9


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "not JSON"),
        ("[]", "not an object"),
        ("[{},{}]", "not an object"),
        ("1", "not an object"),
        ('{"search":"x"}', "unknown filter field 'search'"),
        ('{"#ab":[]}', "unknown filter field '#ab'"),
        ('{"#1":[]}', "unknown filter field '#1'"),
        ('{"ids":["00"]}', "ids"),
        ('{"ids":["' + "A" * 64 + '"]}', "lower-case"),
        ('{"authors":"x"}', "authors is not a list"),
        ('{"kinds":[65536]}', "kinds"),
        ('{"kinds":[true]}', "kinds"),
        ('{"kinds":[1.0]}', "kinds"),
        ('{"#e":[1]}', "#e"),
        ('{"since":-1}', "since"),
        ('{"until":"5"}', "until"),
        ('{"limit":1e3}', "limit"),
        ('{"since":null}', "since"),
    ],
)
def test_a_wrong_filter_is_named(text: str, words: str) -> None:
    with pytest.raises(InvalidFilter, match=words):
        decode(text)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
)


@given(json_values)
def test_no_json_raises_anything_else(value: object) -> None:
    try:
        decode(json.dumps(value))
    except InvalidFilter:
        pass
