"""An event as the server keeps it: what scripts need of it, then its JSON.

The scripts know no JSON and no rules about tags: which lists an event is in, what its address is
and what a deletion asks for is read here, by the rules of :mod:`negd.nostr.lifecycle`, and sent
along.
"""

from __future__ import annotations

from hashlib import sha256
from struct import Struct

from negd.nostr.event import Event
from negd.nostr.lifecycle import Address, address_of, deletions_of, expiration_of

MEMBER_SIZE = 42
"""Bytes of a list's member: record and kind."""

_DIGEST = 16
_ADDRESS = 20
_SIZE = Struct(">I")


def value_of(event: Event, json: bytes) -> bytes:
    """What is stored under the event's id.

    Member of its lists (42 bytes), author (32), then each behind its size (u32): expiration (8
    bytes or none), address, keys of its tags, ids and addresses that it asks to delete; JSON.
    """
    address, expiration, asked = address_of(event), expiration_of(event), deletions_of(event)
    parts = (
        b"" if expiration is None else number(expiration),
        b"" if address is None else address_key(address),
        b"".join(sorted(tag_key(letter, value) for letter, value in event.indexed_tags())),
        b"".join(sorted(asked.ids)),
        b"".join(sorted(map(address_key, asked.addresses))),
    )
    member = event.record + event.kind.to_bytes(2, "big")
    sized = b"".join(_SIZE.pack(len(part)) + part for part in parts)
    return member + bytes.fromhex(event.pubkey) + sized + json


def json_in(value: bytes) -> bytes:
    """The JSON in a stored value."""
    at = MEMBER_SIZE + 32
    for _ in range(5):
        (size,) = _SIZE.unpack_from(value, at)
        at += _SIZE.size + size
    return value[at:]


def number(value: int) -> bytes:
    """A second as it stands in keys and values."""
    return value.to_bytes(8, "big")


def kind_list(kind: int) -> bytes:
    """The list of a kind."""
    return b"k:" + kind.to_bytes(2, "big")


def author_list(author: bytes) -> bytes:
    """The list of an author."""
    return b"a:" + author


def tag_list(letter: str, value: str) -> bytes:
    """The list of a tag."""
    return b"t:" + tag_key(letter, value)


def tag_key(letter: str, value: str) -> bytes:
    """17 bytes for a tag's letter and value."""
    return letter.encode() + sha256(value.encode()).digest()[:_DIGEST]


def address_key(address: Address) -> bytes:
    """20 bytes for an address."""
    kind = address.kind.to_bytes(2, "big")
    place = kind + bytes.fromhex(address.pubkey) + address.identifier.encode()
    return sha256(place).digest()[:_ADDRESS]
