"""Filters between their two forms: the proto of the control service and negd's own."""

from __future__ import annotations

from collections.abc import Iterable

from negd.control.gen.orlysync.common.v1 import types_pb2 as common
from negd.nostr.event import is_tag_letter
from negd.nostr.filter import Filter, InvalidFilter
from negd.nostr.kinds import MAX_KIND

_ID_SIZE = 32
_MAX_INT64 = 2**63 - 1
_MAX_UINT32 = 2**32 - 1
_HEX_VALUED = frozenset("ep")
"""Tag letters whose values are ids or public keys, which callers may send raw."""


def from_proto(given: common.Filter) -> Filter:
    """negd's form. Lists that are empty, and bounds that are absent, are no condition.

    :raises InvalidFilter: a value that no filter can have, or a field that is not supported.
    """
    if given.HasField("search"):
        raise InvalidFilter("search is not supported")
    return Filter.build(
        ids=_ids("ids", given.ids),
        authors=_ids("authors", given.authors),
        kinds=_kinds(given.kinds),
        tags=_tags(given),
        since=_second("since", given),
        until=_second("until", given),
        limit=given.limit if given.HasField("limit") else None,
    )


def to_proto(wanted: Filter) -> common.Filter:
    """The proto's form. Bounds beyond what its fields hold become the largest that they hold.

    :raises InvalidFilter: a list of ids, authors or kinds that is there and empty: in the proto
        it would be no condition.
    """
    for name in ("ids", "authors", "kinds"):
        if getattr(wanted, name) == ():
            raise InvalidFilter(f"an empty list of {name} cannot be sent, and matches nothing")
    return common.Filter(
        ids=wanted.ids,
        authors=wanted.authors,
        kinds=wanted.kinds,
        tags={
            name: common.TagSet(values=[value.encode() for value in values])
            for name, values in wanted.tags
        },
        since=_at_most(_MAX_INT64, wanted.since),
        until=_at_most(_MAX_INT64, wanted.until),
        limit=_at_most(_MAX_UINT32, wanted.limit),
    )


def since_at_least(wanted: Filter, since: int) -> Filter:
    """The filter with its ``since`` raised to a request's; 0 changes nothing.

    :raises InvalidFilter: it is negative.
    """
    if since < 0:
        raise InvalidFilter("since is negative")
    return wanted.since_at_least(since or None)


def _ids(name: str, values: Iterable[bytes]) -> list[bytes] | None:
    found = list(values)
    if any(len(value) != _ID_SIZE for value in found):
        raise InvalidFilter(f"filter field {name} holds something that is not {_ID_SIZE} bytes")
    return found or None


def _kinds(values: Iterable[int]) -> list[int] | None:
    found = list(values)
    if any(kind > MAX_KIND for kind in found):
        raise InvalidFilter(f"filter field kinds is not numbers from 0 to {MAX_KIND}")
    return found or None


def _second(name: str, given: common.Filter) -> int | None:
    if not given.HasField(name):
        return None
    second: int = getattr(given, name)
    if second < 0:
        raise InvalidFilter(f"filter field {name} is negative")
    return second


def _tags(given: common.Filter) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for key, held in given.tags.items():
        letter = key.removeprefix("#")
        if not is_tag_letter(letter):
            raise InvalidFilter(f"filter tag {key[:64]!r} is not a single letter")
        if letter in found:
            raise InvalidFilter(f"filter tag {letter!r} is given twice")
        found[letter] = [_tag_value(letter, value) for value in held.values]
    return found


def _tag_value(letter: str, value: bytes) -> str:
    if letter in _HEX_VALUED and len(value) == _ID_SIZE:
        return value.hex()
    try:
        return value.decode()
    except UnicodeDecodeError:
        raise InvalidFilter(f"filter tag {letter!r} holds a value that is not UTF-8") from None


def _at_most(most: int, value: int | None) -> int | None:
    return None if value is None else min(most, value)
