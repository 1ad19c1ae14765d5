"""Filters (NIP-01): which events a subscription, a session or a sync is about."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from hashlib import sha256
from typing import Any, TypeVar

import msgspec

from negd.errors import RemoteError
from negd.nostr.event import (
    DECODE_ERRORS,
    Event,
    describe,
    is_lower_hex,
    is_tag_letter,
)
from negd.nostr.kinds import MAX_KIND

T = TypeVar("T")

# Clients write "for ever" as the largest number their language has.
_MAX_U64 = 2**64 - 1


class InvalidFilter(RemoteError):
    """The JSON is not a filter, or asks for something negd does not know."""


@dataclass(frozen=True)
class Filter:
    """A conjunction of conditions; None (and no tag entry) means no condition.

    An empty tuple matches nothing, as a list without the value does.  Values are sorted and
    distinct, so equal filters are equal values.

    :ivar ids: 32-byte ids.
    :ivar authors: 32-byte public keys.
    :ivar tags: (letter, values) pairs sorted by letter: one of the values under each letter.
    :ivar since: first second, inclusive.
    :ivar until: last second, inclusive.
    :ivar limit: at most that many events, the newest ones (ties: lower id first).
    """

    ids: tuple[bytes, ...] | None = None
    authors: tuple[bytes, ...] | None = None
    kinds: tuple[int, ...] | None = None
    tags: tuple[tuple[str, tuple[str, ...]], ...] = ()
    since: int | None = None
    until: int | None = None
    limit: int | None = None

    @classmethod
    def build(
        cls,
        *,
        ids: Iterable[bytes] | None = None,
        authors: Iterable[bytes] | None = None,
        kinds: Iterable[int] | None = None,
        tags: Mapping[str, Iterable[str]] | None = None,
        since: int | None = None,
        until: int | None = None,
        limit: int | None = None,
    ) -> Filter:
        """A filter in canonical form from values of the right types."""
        return cls(
            ids=_canonical(ids),
            authors=_canonical(authors),
            kinds=_canonical(kinds),
            tags=tuple(sorted((name, _sorted(values)) for name, values in (tags or {}).items())),
            since=since,
            until=until,
            limit=limit,
        )

    def matches(self, event: Event) -> bool:
        """Whether the event fulfils every condition; ``limit`` is none."""
        return (
            (self.since is None or event.created_at >= self.since)
            and (self.until is None or event.created_at <= self.until)
            and (self.kinds is None or event.kind in self.kinds)
            and (self.authors is None or bytes.fromhex(event.pubkey) in self._author_set)
            and (self.ids is None or event.id_bytes in self._id_set)
            and (not self.tags or self._matches_tags(event))
        )

    def _matches_tags(self, event: Event) -> bool:
        held = event.indexed_tags()
        return all(any((name, value) in held for value in values) for name, values in self.tags)

    @cached_property
    def _id_set(self) -> frozenset[bytes]:
        return frozenset(self.ids or ())

    @cached_property
    def _author_set(self) -> frozenset[bytes]:
        return frozenset(self.authors or ())

    @property
    def is_everything(self) -> bool:
        """Whether every event matches and none is cut off."""
        return self == EVERYTHING

    def since_at_least(self, since: int | None) -> Filter:
        """This filter with its ``since`` raised to the given second; None changes nothing."""
        if since is None or (self.since is not None and self.since >= since):
            return self
        return replace(self, since=since)

    def to_json(self) -> dict[str, Any]:
        """The filter as the JSON object of NIP-01, keys in one order, hex lower case."""
        found: dict[str, Any] = {}
        if self.ids is not None:
            found["ids"] = [value.hex() for value in self.ids]
        if self.authors is not None:
            found["authors"] = [value.hex() for value in self.authors]
        if self.kinds is not None:
            found["kinds"] = list(self.kinds)
        for name, values in self.tags:
            found[f"#{name}"] = list(values)
        for bound in ("since", "until", "limit"):
            if getattr(self, bound) is not None:
                found[bound] = getattr(self, bound)
        return found

    def encode(self) -> bytes:
        """Canonical compact JSON: the same bytes for equal filters."""
        return msgspec.json.encode(self.to_json())

    @cached_property
    def key(self) -> bytes:
        """32 bytes that stand for this filter: SHA-256 of :meth:`encode`."""
        return sha256(self.encode()).digest()


def _sorted(values: Iterable[T]) -> tuple[T, ...]:
    return tuple(sorted(set(values)))  # type: ignore[type-var]


def _canonical(values: Iterable[T] | None) -> tuple[T, ...] | None:
    return None if values is None else _sorted(values)


EVERYTHING = Filter()
"""The filter without conditions."""


def decode(data: bytes | str | msgspec.Raw) -> Filter:
    """The filter in JSON ``data``; a list of exactly one filter is taken as that filter.

    :raises InvalidFilter: not JSON, not a filter, or a field that negd does not know.
    """
    try:
        value = msgspec.json.decode(data)
    except DECODE_ERRORS as error:
        raise InvalidFilter(f"filter is not JSON: {describe(error)}") from None
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    return from_json(value)


def from_json(value: object) -> Filter:
    """The filter in a decoded JSON object.

    :raises InvalidFilter: as :func:`decode`.
    """
    if not isinstance(value, dict):
        raise InvalidFilter("filter is not an object")
    fields: dict[str, Any] = {}
    tags: dict[str, Iterable[str]] = {}
    for name, given in value.items():
        if len(name) == 2 and name[0] == "#" and is_tag_letter(name[1]):
            tags[name[1]] = _list(name, given, _text)
        elif name in _READERS:
            fields[name] = _READERS[name](name, given)
        else:
            raise InvalidFilter(f"unknown filter field {name[:64]!r}")
    return Filter.build(tags=tags, **fields)


def _list(name: str, given: object, read: Callable[[str, object], T]) -> list[T]:
    if not isinstance(given, list):
        raise InvalidFilter(f"filter field {name} is not a list")
    return [read(name, value) for value in given]


def _text(name: str, value: object) -> str:
    if not isinstance(value, str):
        raise InvalidFilter(f"filter field {name} holds something that is not a string")
    return value


def _hex32(name: str, value: object) -> bytes:
    if not isinstance(value, str) or len(value) != 64 or not is_lower_hex(value):
        raise InvalidFilter(f"filter field {name} holds something that is not 64 lower-case hex")
    return bytes.fromhex(value)


def _integer(limit: int) -> Callable[[str, object], int]:
    def read(name: str, value: object) -> int:
        if type(value) is not int or not 0 <= value <= limit:
            raise InvalidFilter(f"filter field {name} is not a number from 0 to {limit}")
        return value

    return read


_READERS: dict[str, Callable[[str, object], Any]] = {
    "ids": lambda name, given: _list(name, given, _hex32),
    "authors": lambda name, given: _list(name, given, _hex32),
    "kinds": lambda name, given: _list(name, given, _integer(MAX_KIND)),
    "since": _integer(_MAX_U64),
    "until": _integer(_MAX_U64),
    "limit": _integer(_MAX_U64),
}
