"""What ORLY's database is asked for a filter."""

from __future__ import annotations

import pytest

from negd.nostr.filter import EVERYTHING, Filter
from negd.nostr.lifecycle import Address
from negd.storage.orlydb.gen.orlydb.v1 import service_pb2 as proto
from negd.storage.orlydb.queries import (
    LATEST,
    deletions_of_address,
    matches_nothing,
    question_of,
    versions_at,
    within,
)

KEY = "ab" * 32


def tags_of(asked: proto.Filter) -> dict[str, list[bytes]]:
    return {name: list(held.values) for name, held in asked.tags.items()}


def test_one_question_has_one_tag_letter_with_one_value() -> None:
    wanted = Filter.build(kinds=[1, 2], tags={"t": ["x", "y"], "p": [KEY]})
    question = question_of(wanted)
    assert [[tags_of(each) for each in united] for united in question] == [
        [{"p": [KEY.encode()]}],
        [{"t": [b"x"]}, {"t": [b"y"]}],
    ]
    assert all(list(each.kinds) == [1, 2] for united in question for each in united)


def test_authors_and_kinds_go_together() -> None:
    [[asked]] = question_of(Filter.build(authors=[bytes(32), b"\1" * 32], kinds=[7]))
    assert asked == proto.Filter(authors=[bytes(32), b"\1" * 32], kinds=[7])


def test_everything_is_a_filter_too() -> None:
    assert question_of(EVERYTHING) == [[proto.Filter()]]


@pytest.mark.parametrize(
    "bounds, since, until",
    [
        ((0, LATEST), None, None),
        ((5, 9), 5, 9),
        ((0, 9), None, 9),
        ((5, LATEST), 5, None),
        ((0, 0), None, 1),
    ],
)
def test_a_bound_of_0_is_never_sent(
    bounds: tuple[int, int], since: int | None, until: int | None
) -> None:
    asked = within(*bounds, proto.Filter(kinds=[1]))
    assert asked == proto.Filter(kinds=[1], since=since, until=until)


@pytest.mark.parametrize(
    "wanted, nothing",
    [
        (EVERYTHING, False),
        (Filter.build(ids=[]), True),
        (Filter.build(authors=[], kinds=[1]), True),
        (Filter.build(kinds=[]), True),
        (Filter.build(tags={"t": []}), True),
        (Filter.build(since=2**63), True),
        (Filter.build(since=2**63 - 1), False),
        (Filter.build(limit=0), False),
    ],
)
def test_what_no_event_matches_is_not_asked(wanted: Filter, nothing: bool) -> None:
    assert matches_nothing(wanted) is nothing


def test_an_address_is_asked_for_in_every_way_to_write_it() -> None:
    profile, article = Address(0, KEY, ""), Address(30023, KEY, "x")
    assert [tags_of(asked) for asked in deletions_of_address(profile)] == [
        {"a": [f"0:{KEY}:".encode()]},
        {"a": [f"0:{KEY}".encode()]},
    ]
    assert [tags_of(asked) for asked in deletions_of_address(article)] == [
        {"a": [f"30023:{KEY}:x".encode()]}
    ]


def test_versions_are_found_by_their_identifier_where_they_have_one() -> None:
    profile, article = Address(0, KEY, ""), Address(30023, KEY, "x")
    assert tags_of(versions_at(article, 10)) == {"d": [b"x"]}
    assert tags_of(versions_at(profile, 10)) == {}
    assert tags_of(versions_at(Address(30023, KEY, ""), 10)) == {}
    assert versions_at(profile, 10).limit == 10
