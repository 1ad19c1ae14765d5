"""An event as the server keeps it: what scripts need of it, then its JSON.

The scripts know no JSON and no rules about tags: which lists an event is in, what its address is
and what a deletion asks for is read here, by the rules of :mod:`negd.nostr.lifecycle`, and sent
along.
"""

from __future__ import annotations

from hashlib import sha256
from struct import Struct

from negd.nostr.filing import Filing, tag_key
from negd.nostr.kinds import DELETION
from negd.nostr.lifecycle import NO_DELETIONS, deletions_of

MEMBER_SIZE = 42
"""Bytes of a list's member: record and kind."""

_ADDRESS = 20
_SIZE = Struct(">I")


def value_of(filing: Filing) -> bytes:
    """What is stored under the event's id.

    Member of its lists (42 bytes), author (32), then each behind its size (u32): expiration (8
    bytes or none), address, keys of its tags, ids and addresses that it asks to delete; JSON.
    """
    expiration, address = filing.expiration, filing.address
    asked = deletions_of(filing.event) if filing.kind == DELETION else NO_DELETIONS
    parts = (
        b"" if expiration is None else number(expiration),
        b"" if address is None else address_key(address),
        b"".join(filing.tags),
        b"".join(sorted(asked.ids)),
        b"".join(sorted(address_key(address.key) for address in asked.addresses)),
    )
    member = filing.record + filing.kind.to_bytes(2, "big")
    sized = b"".join(_SIZE.pack(len(part)) + part for part in parts)
    return member + filing.author + sized + filing.json


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


def address_key(address: bytes) -> bytes:
    """20 bytes for an address, whatever the length of its identifier."""
    return sha256(address).digest()[:_ADDRESS]
