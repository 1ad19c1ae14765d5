"""Filters across the control service: every condition arrives, and nonsense is refused."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given

from negd.control.filters import from_proto, to_proto
from negd.control.gen.orlysync.common.v1.types_pb2 import Filter as Proto
from negd.control.gen.orlysync.common.v1.types_pb2 import TagSet
from negd.nostr.filter import EVERYTHING, Filter, InvalidFilter
from negd.testing.strategies import filters

ID, OTHER = b"\x01" * 32, b"\xff" * 32
LAST = 2**63 - 1


def is_sendable(wanted: Filter) -> bool:
    """Whether the proto can say it: it has no empty lists but those of tags."""
    return () not in (wanted.ids, wanted.authors, wanted.kinds)


def bounded(wanted: Filter) -> Filter:
    """The filter with bounds that the proto's fields hold; no event is later than the last."""

    def at_most(most: int, value: int | None) -> int | None:
        return None if value is None else min(most, value)

    since, until = at_most(LAST, wanted.since), at_most(LAST, wanted.until)
    return replace(wanted, since=since, until=until, limit=at_most(2**32 - 1, wanted.limit))


@given(filters())
def test_a_filter_survives_the_way(wanted: Filter) -> None:
    if is_sendable(wanted):
        sent = Proto.FromString(to_proto(wanted).SerializeToString())
        assert from_proto(sent) == bounded(wanted)
    else:
        with pytest.raises(InvalidFilter, match="an empty list of"):
            to_proto(wanted)


def test_nothing_given_is_everything() -> None:
    assert from_proto(Proto()) == EVERYTHING


def test_every_condition_arrives() -> None:
    given = Proto(
        ids=[OTHER, ID],
        kinds=[7, 1],
        authors=[ID],
        tags={"t": TagSet(values=[b"x", b"\xc3\xa7a"])},
        since=5,
        until=9,
        limit=3,
    )
    assert from_proto(given) == Filter.build(
        ids=[ID, OTHER],
        kinds=[1, 7],
        authors=[ID],
        tags={"t": ["x", "ça"]},
        since=5,
        until=9,
        limit=3,
    )


def test_zeros_that_are_given_are_conditions() -> None:
    assert from_proto(Proto(since=0, until=0, limit=0)) == Filter(since=0, until=0, limit=0)


@pytest.mark.parametrize("key", ["e", "#e"])
def test_tag_keys_come_with_and_without_the_sign(key: str) -> None:
    given = Proto(tags={key: TagSet(values=[b"a"])})
    assert from_proto(given).tags == (("e", ("a",)),)


@pytest.mark.parametrize("letter", ["e", "p"])
def test_ids_in_tags_come_as_text_and_as_bytes(letter: str) -> None:
    text, raw = ID.hex().encode(), b"a" * 32
    given = Proto(tags={letter: TagSet(values=[text, raw])})
    assert from_proto(given).tags == ((letter, (ID.hex(), raw.hex())),)


def test_32_bytes_under_other_letters_are_text() -> None:
    given = Proto(tags={"t": TagSet(values=[b"a" * 32])})
    assert from_proto(given).tags == (("t", ("a" * 32,)),)


def test_a_tag_without_values_matches_nothing() -> None:
    assert from_proto(Proto(tags={"e": TagSet()})).tags == (("e", ()),)


@pytest.mark.parametrize(
    ("given", "text"),
    [
        (Proto(search=b"x"), "search is not supported"),
        (Proto(search=b""), "search is not supported"),
        (Proto(ids=[b"\x01" * 31]), "ids holds something that is not 32 bytes"),
        (Proto(authors=[b"\x01" * 64]), "authors holds something that is not 32 bytes"),
        (Proto(kinds=[65536]), "not numbers from 0 to 65535"),
        (Proto(since=-1), "since is negative"),
        (Proto(until=-1), "until is negative"),
        (Proto(tags={"#ab": TagSet()}), "'#ab' is not a single letter"),
        (Proto(tags={"": TagSet()}), "'' is not a single letter"),
        (Proto(tags={"1": TagSet()}), "'1' is not a single letter"),
        (Proto(tags={"e": TagSet(), "#e": TagSet()}), "'e' is given twice"),
        (Proto(tags={"t": TagSet(values=[b"\xff" * 32])}), "not UTF-8"),
        (Proto(tags={"e": TagSet(values=[b"\xff" * 33])}), "not UTF-8"),
    ],
)
def test_nonsense_is_refused(given: Proto, text: str) -> None:
    with pytest.raises(InvalidFilter, match=text):
        from_proto(given)


def test_bounds_beyond_the_fields_become_the_largest() -> None:
    sent = to_proto(Filter(since=2**64 - 1, until=2**64 - 1, limit=2**64 - 1))
    assert (sent.since, sent.until, sent.limit) == (LAST, LAST, 2**32 - 1)
