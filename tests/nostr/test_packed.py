"""Packed events come out byte for byte as they went in."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from negd.nostr.event import MAX_TIMESTAMP, Event, InvalidEvent, from_fields
from negd.nostr.kinds import MAX_KIND
from negd.nostr.packed import AUTHOR, event_of, kind_of, pack, record_of, unpack
from negd.testing.events import sample_events

text = st.text(st.characters(exclude_categories=["Cs"]))
events = st.builds(
    from_fields,
    pubkey=st.binary(min_size=32, max_size=32).map(bytes.hex),
    created_at=st.integers(0, MAX_TIMESTAMP),
    kind=st.integers(0, MAX_KIND),
    tags=st.lists(st.lists(text, max_size=3).map(tuple), max_size=4).map(tuple),
    content=text | st.sampled_from([',"tags":', '"tags":[],"content":"', '","sig":"']),
    sig=st.binary(min_size=64, max_size=64).map(bytes.hex),
)


@given(event=events)
def test_event_survives(event: Event) -> None:
    packed = pack(event)
    assert unpack(packed) == event.encode()
    assert event_of(packed) == event
    assert packed[AUTHOR].hex() == event.pubkey
    assert kind_of(packed) == event.kind
    assert record_of(packed) == event.record


@given(packed=st.binary(max_size=400))
def test_what_is_no_event_is_refused(packed: bytes) -> None:
    with pytest.raises(InvalidEvent):
        event_of(packed)


def test_events_take_less_room_than_their_json() -> None:
    sample = list(sample_events(300))
    json = sum(len(event.encode()) for event in sample)
    assert sum(len(pack(event)) for event in sample) < 0.8 * json
