"""Filters as the database takes them.

It unites what it finds under different tag letters, so a question has one letter with one value;
the answers are combined here.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from negd.nostr.filter import Filter
from negd.nostr.kinds import DELETION, is_addressable
from negd.nostr.lifecycle import Address
from negd.storage.orlydb.gen.orlydb.v1 import service_pb2 as proto
from negd.storage.postings import EMPTY, Records, intersection

LATEST = 2**63 - 1
"""No event of the database is of a later second."""

Question = list[list[proto.Filter]]
"""One of the filters of each list, all without bounds."""


def matches_nothing(wanted: Filter) -> bool:
    """Whether a condition leaves no value, or none that the database can hold."""
    given = (wanted.ids, wanted.authors, wanted.kinds, *(values for _, values in wanted.tags))
    return () in given or (wanted.since or 0) > LATEST


def question_of(wanted: Filter) -> Question:
    """What to ask for a filter's authors, kinds and tags."""
    base = proto.Filter(authors=wanted.authors, kinds=wanted.kinds)
    if not wanted.tags:
        return [[base]]
    return [[_with_tag(base, name, value) for value in values] for name, values in wanted.tags]


def versions_at(address: Address, most: int) -> proto.Filter:
    """The newest of what may stand at an address: events of other identifiers are among it.

    An event without a ``d`` tag has the empty identifier, and no tag to find it by.
    """
    author = bytes.fromhex(address.pubkey)
    base = proto.Filter(authors=[author], kinds=[address.kind], limit=most)
    return _with_tag(base, "d", address.identifier) if address.identifier else base


def deletions_by(pubkey: str) -> proto.Filter:
    """The deletions of an author."""
    return proto.Filter(authors=[bytes.fromhex(pubkey)], kinds=[DELETION])


def deletions_of_id(pubkey: str, event_id: str) -> proto.Filter:
    """An author's deletions of an event, whose id is given in hex."""
    return _with_tag(deletions_by(pubkey), "e", event_id)


def deletions_of_address(address: Address) -> list[proto.Filter]:
    """An author's deletions of what stands at an address, in every way to write it (NIP-09)."""
    coordinates = [f"{address.kind}:{address.pubkey}:{address.identifier}"]
    if not is_addressable(address.kind):
        coordinates.append(f"{address.kind}:{address.pubkey}")
    return [_with_tag(deletions_by(address.pubkey), "a", text) for text in coordinates]


def within(begin: int, end: int, wanted: proto.Filter) -> proto.Filter:
    """The filter between two seconds, inclusive, or a little more: a bound of 0 is none to it."""
    bounded = proto.Filter()
    bounded.CopyFrom(wanted)
    if begin > 0:
        bounded.since = begin
    if end < LATEST:
        bounded.until = max(1, end)
    return bounded


def combined(answers: Sequence[Sequence[Records]]) -> Records:
    """What is in one of each list's answers. Sorted and distinct."""
    found: Records | None = None
    for united in answers:
        part = np.unique(np.concatenate(united)) if united else EMPTY
        found = part if found is None else intersection(found, part)
    return EMPTY if found is None else found


def _with_tag(base: proto.Filter, name: str, value: str) -> proto.Filter:
    asked = proto.Filter()
    asked.CopyFrom(base)
    asked.tags[name].values.append(value.encode())
    return asked
