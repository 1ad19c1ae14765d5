"""hypothesis strategies: events that get in each other's way, and filters that find some.

Events draw from small pools of authors, kinds, seconds and tag values, so that replacement, ties,
deletion and matches are common. All are signed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

from hypothesis import strategies as st

from negd.nostr.event import MAX_TIMESTAMP, Event
from negd.nostr.filter import Filter
from negd.nostr.signing import Signer

T = TypeVar("T")

AUTHORS = tuple(Signer(bytes([number]) * 32) for number in (1, 2, 3))
KINDS = (0, 1, 3, 5, 7, 1063, 10002, 20001, 30000, 30023, 40000, 65535)
SECONDS = (0, 1, 999, 1000, 1001, 5000, 2**32, MAX_TIMESTAMP)
_VALUES = ("", "x", "nostr", "🤙", "a:b", "v" * 600, "00" * 32)

texts = st.text(max_size=40) | st.sampled_from(
    ["", "\u2028\u2029", '"\\/\b\f\n\r\t', "\x00\x1f\x7f", "👩‍👩‍👧", "\ufeff", "\\u0000"]
)
"""Strings that JSON writes in more than one way."""

signers = st.sampled_from(AUTHORS)
seconds = st.sampled_from(SECONDS)
tag_values = st.sampled_from(_VALUES)


@st.composite
def tags(draw: st.DrawFn, expirations: Sequence[int] = ()) -> list[list[str]]:
    """Some tags: indexed, not indexed, odd, and at most one expiration."""
    found = draw(
        st.lists(
            st.builds(lambda name, value: [name, value], st.sampled_from("dtepDT"), tag_values)
            | st.lists(texts, min_size=1, max_size=4)
            | st.just(["t"]),
            max_size=4,
        )
    )
    if expirations:
        expiring = draw(st.booleans())
        if expiring:
            found.append(["expiration", str(draw(st.sampled_from(expirations)))])
    return found


@st.composite
def events(draw: st.DrawFn, expirations: Sequence[int] = ()) -> Event:
    """One event.

    :param expirations: seconds for NIP-40 tags; without any no event expires.
    """
    return draw(signers).sign(
        created_at=draw(seconds),
        kind=draw(st.sampled_from(KINDS)),
        tags=draw(tags(expirations)),
        content=draw(texts),
    )


@st.composite
def deletions(draw: st.DrawFn, targets: Sequence[Event]) -> Event:
    """A deletion of some of the events, by id or by address, of its author's or not."""
    named = draw(st.lists(st.sampled_from(targets), min_size=1, max_size=3))
    asked = [draw(st.sampled_from([["e", event.id], ["a", _coordinate(event)]])) for event in named]
    second = draw(st.sampled_from([event.created_at for event in named]) | seconds)
    return draw(signers).sign(created_at=second, kind=5, tags=asked)


def _coordinate(event: Event) -> str:
    return f"{event.kind}:{event.pubkey}:{event.tag_value('d') or ''}"


@st.composite
def histories(draw: st.DrawFn, expirations: Sequence[int] = (), most: int = 12) -> list[Event]:
    """Events in some order of arrival: deletions before and after what they delete, repeats."""
    found = draw(st.lists(events(expirations), min_size=1, max_size=most))
    removals = draw(st.lists(deletions(found), max_size=4))
    repeats = draw(st.lists(st.sampled_from(found), max_size=3))
    return draw(st.permutations([*found, *removals, *repeats]))


@st.composite
def filters(draw: st.DrawFn, about: Sequence[Event] = ()) -> Filter:
    """A filter with any set of conditions.

    :param about: events whose ids it may name.
    """
    ids = [event.id_bytes for event in about] + [bytes(32)]
    authors = [bytes.fromhex(signer.pubkey) for signer in AUTHORS]
    letters = st.sampled_from("dtepDTx")
    return Filter.build(
        ids=draw(_sometimes(st.lists(st.sampled_from(ids), max_size=len(ids)), weight=4)),
        authors=draw(_sometimes(st.lists(st.sampled_from(authors), max_size=3))),
        kinds=draw(_sometimes(st.lists(st.sampled_from(KINDS), max_size=6))),
        tags=draw(st.dictionaries(letters, st.lists(tag_values, max_size=4), max_size=2)),
        since=draw(_sometimes(seconds | st.just(2**64 - 1))),
        until=draw(_sometimes(seconds | st.just(2**64 - 1))),
        limit=draw(_sometimes(st.integers(0, 8))),
    )


def _sometimes(strategy: st.SearchStrategy[T], weight: int = 2) -> st.SearchStrategy[T | None]:
    """None, or once in ``weight`` draws a value."""
    return st.integers(1, weight).flatmap(lambda n: st.none() if n > 1 else strategy)
