"""Events: what is taken for one, what its id and signature must be (NIP-01)."""

from __future__ import annotations

import json
from hashlib import sha256

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from negd.nostr import event as events
from negd.nostr.event import Event, InvalidEvent, check, decode, from_fields
from negd.nostr.signing import Signer

signer = Signer(b"\x01" * 32)

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
tags = st.lists(st.lists(texts, max_size=4), max_size=5)


@given(st.integers(0, 2**63 - 1), st.integers(0, 65535), tags, texts)
def test_a_signed_event_survives_the_wire(
    created_at: int, kind: int, tags: list[list[str]], content: str
) -> None:
    event = signer.sign(created_at=created_at, kind=kind, tags=tags, content=content)
    assert decode(event.encode()) == event
    assert check(decode(event.encode())) is None
    assert event.record == created_at.to_bytes(8, "big") + bytes.fromhex(event.id)


@given(st.integers(0, 2**63 - 1), tags, texts)
def test_ids_are_those_that_json_libraries_compute(
    created_at: int, tags: list[list[str]], content: str
) -> None:
    event = signer.sign(created_at=created_at, tags=tags, content=content)
    fields = [0, event.pubkey, created_at, 1, tags, content]
    naive = json.dumps(fields, ensure_ascii=False, separators=(",", ":"))
    assert event.id == sha256(naive.encode()).hexdigest()


def test_control_characters_may_be_hashed_verbatim_as_nip01_says() -> None:
    content = "bell \x07, a backslash before u: \\u0007, tab \t"
    event = from_fields(pubkey=signer.pubkey, created_at=1, kind=1, tags=(), content=content)
    verbatim = f'[0,"{signer.pubkey}",1,1,[],"bell \x07, a backslash before u: \\\\u0007, tab \\t"]'
    other = msgspec.structs.replace(event, id=sha256(verbatim.encode()).hexdigest())
    assert other.id != event.id
    assert events.id_matches(event)
    assert events.id_matches(other)


def test_odd_but_valid_json_is_the_same_event() -> None:
    event = signer.sign(created_at=5, content='\u2028 😀 é / " \\ \n')
    escaped = json.dumps(json.loads(event.encode()), ensure_ascii=True, indent=1)
    assert decode(escaped) == event
    assert check(decode(escaped)) is None


@pytest.mark.parametrize("field", ["id", "pubkey", "content", "created_at", "kind", "tags"])
def test_any_change_is_noticed(field: str) -> None:
    event = signer.sign(created_at=7, content="x", tags=[["e", "y"]])
    changes = {
        "id": "0" * 64,
        "pubkey": Signer(b"\x02" * 32).pubkey,
        "content": "z",
        "created_at": 8,
        "kind": 2,
        "tags": (),
    }
    assert check(msgspec.structs.replace(event, **{field: changes[field]})) == (
        "id does not match the event"
    )


def test_a_signature_of_another_is_noticed() -> None:
    event = signer.sign(created_at=7)
    forged = msgspec.structs.replace(event, sig=Signer(b"\x02" * 32).sign(created_at=7).sig)
    assert check(forged) == "signature does not match"
    no_point = from_fields(pubkey="f" * 64, created_at=1, kind=1, tags=(), content="")
    assert check(no_point) == "signature does not match"


VALID = json.loads(signer.sign(created_at=7, tags=[["e", "y"]]).encode())


@pytest.mark.parametrize(
    "change",
    [
        {"id": VALID["id"].upper()},
        {"id": VALID["id"][:-1] + " "},
        {"id": VALID["id"][:62]},
        {"pubkey": None},
        {"sig": "00"},
        {"created_at": -1},
        {"created_at": 2**63},
        {"created_at": 1.5},
        {"created_at": "7"},
        {"created_at": True},
        {"kind": 65536},
        {"tags": "x"},
        {"tags": [["e", 1]]},
        {"tags": ["e"]},
        {"content": None},
    ],
)
def test_what_is_not_an_event_is_refused(change: dict[str, object]) -> None:
    with pytest.raises(InvalidEvent, match="not an event"):
        decode(json.dumps({**VALID, **change}))


@pytest.mark.parametrize("field", sorted(VALID))
def test_a_missing_field_is_refused(field: str) -> None:
    rest = {name: value for name, value in VALID.items() if name != field}
    with pytest.raises(InvalidEvent, match=field):
        decode(json.dumps(rest))


@pytest.mark.parametrize("data", [b"", b"[]", b"null", b"{", b"\xff", b'{"a":' * 5000, b"1"])
def test_what_is_not_json_is_refused(data: bytes) -> None:
    with pytest.raises(InvalidEvent):
        decode(data)


@given(st.binary(max_size=200))
def test_no_bytes_raise_anything_else(data: bytes) -> None:
    with pytest.raises(InvalidEvent):
        decode(data)


def test_indexed_tags_are_single_letters_with_a_value() -> None:
    event = Event(
        id="0" * 64,
        pubkey="0" * 64,
        created_at=1,
        kind=1,
        tags=(("e", "a", "more"), ("E", "b"), ("ee", "c"), ("e",), (), ("1", "d"), ("é", "f")),
        content="",
        sig="0" * 128,
    )
    assert event.indexed_tags() == {("e", "a"), ("E", "b")}
