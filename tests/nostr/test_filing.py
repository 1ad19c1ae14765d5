"""A filing says of an event what the event says, wherever it was made."""

from __future__ import annotations

import tracemalloc

import msgspec
from hypothesis import given

from negd.nostr.event import Event, from_fields
from negd.nostr.filing import Filing, event_in, filing_of, tag_key
from negd.nostr.lifecycle import address_of, expiration_of, is_expired
from negd.nostr.signing import Signer
from tests.nostr.test_packed import events

alice = Signer(b"\x01" * 32)
filings = msgspec.msgpack.Decoder(Filing)


@given(event=events)
def test_it_says_what_the_event_says_on_the_other_side_of_a_socket_too(event: Event) -> None:
    here = Filing.of(event)
    there = filings.decode(msgspec.msgpack.encode(here))
    assert there == here
    for filing in (here, there):
        assert (filing.event, filing.json) == (event, event.encode())
        assert (filing.id_bytes, filing.author.hex()) == (event.id_bytes, event.pubkey)
        assert (filing.record, filing.kind) == (event.record, event.kind)
        assert filing.expiration == expiration_of(event)
        address = address_of(event)
        assert filing.address == (None if address is None else address.key)


def test_its_tags_are_those_that_filters_can_ask_for() -> None:
    event = alice.sign(created_at=1, tags=[["t", "x"], ["t", "x", "y"], ["e", "z"], ["tt", "x"]])
    assert Filing.of(event).tags == [tag_key("e", "z"), tag_key("t", "x")]


def test_long_tags_do_not_fill_the_memory() -> None:
    tracemalloc.start()
    try:
        for n in range(300):
            assert len(tag_key("t", f"{n:050000}")) == 17
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert held < 1_000_000


def test_it_tells_when_it_has_expired() -> None:
    event = alice.sign(created_at=1, tags=[["expiration", "50"]])
    for now in (49, 49.9, 50, 51):
        assert Filing.of(event).is_expired(now) == is_expired(event, now)
    assert not Filing.of(alice.sign(created_at=1)).is_expired(2**64)


def test_addresses_differ_where_kind_author_or_identifier_do() -> None:
    places = [
        from_fields(pubkey=author * 64, created_at=1, kind=kind, tags=(("d", d),), content="")
        for author in "ab"
        for kind in (30000, 30001)
        for d in ("", "x", "xy")
    ]
    assert len({Filing.of(event).address for event in places}) == len(places)


def test_an_event_that_is_at_hand_is_not_decoded_again() -> None:
    event = alice.sign(created_at=1)
    filing = filing_of(event)
    assert filing.event is event
    assert event_in(filing) is event_in(event) is event
    assert filing_of(filing) is filing
