"""Events through the database's form: nothing changes, and hashes travel in 33 bytes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from negd.nostr.event import MAX_TIMESTAMP, Event
from negd.nostr.signing import Signer
from negd.storage.orlydb.codec import Damaged, Unstorable, from_proto, to_proto
from negd.storage.orlydb.gen.orlydb.v1 import service_pb2 as proto
from negd.testing import strategies
from negd.testing.orlydb import message_of

AUTHOR = Signer(b"\1" * 32)
HASH = "ab" * 32

hashes = st.binary(min_size=32, max_size=32).map(bytes.hex)
values = hashes | hashes.map(str.upper) | hashes.map(lambda text: text[:-1]) | st.text(max_size=40)
tags = st.lists(
    st.builds(
        lambda name, rest: [name, *rest],
        st.sampled_from(("e", "p", "E", "P", "a", "t", "ee", "")),
        st.lists(values, max_size=3),
    )
    | st.just([]),
    max_size=5,
)
events = st.builds(
    lambda created_at, kind, tags, content: AUTHOR.sign(
        created_at=created_at, kind=kind, tags=tags, content=content
    ),
    st.integers(0, MAX_TIMESTAMP),
    st.integers(0, 65535),
    tags,
    strategies.texts,
)


def tagged(*tag: str) -> Event:
    return AUTHOR.sign(created_at=1, tags=[list(tag)])


def values_sent(*tag: str) -> list[bytes]:
    return list(to_proto(tagged(*tag)).tags[0].values)


@given(event=events)
def test_an_event_comes_back_as_it_was(event: Event) -> None:
    sent = to_proto(event).SerializeToString()
    assert from_proto(proto.Event.FromString(sent)) == event


@given(event=events)
def test_a_relay_would_send_the_same(event: Event) -> None:
    assert to_proto(event) == message_of(event)


@pytest.mark.parametrize("name", ["e", "p"])
def test_a_hash_in_an_e_or_p_tag_travels_as_its_bytes_and_a_nul(name: str) -> None:
    binary = bytes.fromhex(HASH) + b"\0"
    assert values_sent(name, HASH, "wss://x", HASH) == [
        name.encode(),
        binary,
        b"wss://x",
        HASH.encode(),
    ]


@pytest.mark.parametrize(
    "tag",
    [
        ("e", HASH.upper()),
        ("e", HASH[:-1]),
        ("e", HASH + "0"),
        ("p", "g" * 64),
        ("E", HASH),
        ("q", HASH),
        ("e",),
        ("e", ""),
        (HASH, "e"),
    ],
)
def test_anything_else_travels_as_text(tag: tuple[str, ...]) -> None:
    assert values_sent(*tag) == [text.encode() for text in tag]


@pytest.mark.parametrize("name", ["e", "p"])
def test_text_that_would_come_back_as_a_hash_is_not_sent(name: str) -> None:
    with pytest.raises(Unstorable, match=f"the value of its {name} tag"):
        to_proto(tagged(name, "x" * 32 + "\0"))
    assert values_sent(name, "x", "y" * 32 + "\0")[2] == b"y" * 32 + b"\0"


@pytest.mark.parametrize(
    "damage",
    [
        {"id": b"\0" * 31},
        {"pubkey": b""},
        {"sig": b"\0" * 65},
        {"created_at": -1},
        {"kind": 65536},
        {"content": b"\xff"},
        {"tags": [proto.Tag(values=[b"t", b"\xff"])]},
    ],
    ids=lambda damage: next(iter(damage)),
)
def test_what_is_no_event_is_refused(damage: dict[str, object]) -> None:
    whole = to_proto(tagged("t", "x"))
    for name in damage:
        whole.ClearField(name)
    with pytest.raises(Damaged):
        from_proto(proto.Event(**{**_fields(whole), **damage}))  # type: ignore[arg-type]


def _fields(message: proto.Event) -> dict[str, object]:
    return {descriptor.name: value for descriptor, value in message.ListFields()}
