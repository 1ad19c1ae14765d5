"""An event as stores may keep it: what JSON says in hex and in field names, in bytes.

138 bytes of ``id``, ``sig``, ``pubkey``, ``created_at`` and ``kind``, then the JSON from the tags
to the end of the content.  That is a fifth less than the JSON, and the parts that reading needs
without the rest lie at fixed places.
"""

from __future__ import annotations

from binascii import hexlify
from struct import Struct
from struct import error as StructError

from negd.nostr.event import Event, decode

AUTHOR = slice(96, 128)
"""Where the event's author lies, 32 bytes."""

_HEAD = Struct(">32s64s32sQH")
_KIND = slice(_HEAD.size - 2, _HEAD.size)
_RECORD_TAIL = slice(_HEAD.size - 10, _HEAD.size - 2)

_TAGS = b',"tags":'
_BEFORE_TAGS = len('{"id":"","pubkey":"","created_at":,"kind":') + 128
_AFTER_CONTENT = len(',"sig":""}') + 128

_JSON = b'{"id":"%b","pubkey":"%b","created_at":%d,"kind":%d,"tags":%b,"sig":"%b"}'


def pack(event: Event) -> bytes:
    """The event in bytes."""
    json = event.encode()
    head = _HEAD.pack(
        bytes.fromhex(event.id),
        bytes.fromhex(event.sig),
        bytes.fromhex(event.pubkey),
        event.created_at,
        event.kind,
    )
    return head + json[json.index(_TAGS, _BEFORE_TAGS) + len(_TAGS) : -_AFTER_CONTENT]


def unpack(packed: bytes) -> bytes:
    """The event's JSON, byte for byte; something that is no event where ``packed`` is none."""
    try:
        event_id, signature, author, created_at, kind = _HEAD.unpack_from(packed)
    except StructError:
        return b""
    return _JSON % (
        hexlify(event_id),
        hexlify(author),
        created_at,
        kind,
        packed[_HEAD.size :],
        hexlify(signature),
    )


def event_of(packed: bytes) -> Event:
    """The event.

    :raises negd.nostr.event.InvalidEvent: it is none.
    """
    return decode(unpack(packed))


def kind_of(packed: bytes) -> int:
    """The event's kind."""
    return int.from_bytes(packed[_KIND], "big")


def record_of(packed: bytes) -> bytes:
    """The event's record."""
    return packed[_RECORD_TAIL] + packed[:32]
