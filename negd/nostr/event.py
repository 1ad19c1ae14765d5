"""Events: decoding, checking and serialising them (NIP-01)."""

from __future__ import annotations

from functools import lru_cache
from hashlib import sha256
from string import ascii_letters
from typing import Annotated, Any

import msgspec
from coincurve import PublicKeyXOnly

from negd.errors import RemoteError
from negd.nostr.kinds import MAX_KIND

MAX_TIMESTAMP = 2**63 - 1
"""The last second an event can carry; later ones do not fit stores that sign their integers."""

_KEYS = 4096
"""Authors whose keys are kept as points: to find the point again takes 6 us an event."""

Hex32 = Annotated[str, msgspec.Meta(min_length=64, max_length=64)]
Hex64 = Annotated[str, msgspec.Meta(min_length=128, max_length=128)]
Timestamp = Annotated[int, msgspec.Meta(ge=0, le=MAX_TIMESTAMP)]
Kind = Annotated[int, msgspec.Meta(ge=0, le=MAX_KIND)]

# What the JSON decoder raises on bytes that are no JSON of the wanted shape.
DECODE_ERRORS = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)


class InvalidEvent(RemoteError):
    """The JSON is not an event, or its id or signature is wrong."""


class Event(msgspec.Struct, frozen=True, gc=False):
    """One event as it stands on the wire; hex is lower case.

    Unknown fields of the JSON are dropped: the id does not cover them.  Build one from untrusted
    bytes with :func:`decode` only; the constructor checks nothing.
    """

    id: Hex32
    pubkey: Hex32
    created_at: Timestamp
    kind: Kind
    tags: tuple[tuple[str, ...], ...]
    content: str
    sig: Hex64

    @property
    def id_bytes(self) -> bytes:
        """The 32-byte id."""
        return bytes.fromhex(self.id)

    @property
    def record(self) -> bytes:
        """The 40-byte record: ``created_at`` as big-endian u64, then the id."""
        return self.created_at.to_bytes(8, "big") + bytes.fromhex(self.id)

    def encode(self) -> bytes:
        """Compact JSON, fields in the order of NIP-01."""
        return _encoder.encode(self)

    def tag_value(self, name: str) -> str | None:
        """The first value of the first tag of that name; None where there is none."""
        for tag in self.tags:
            if len(tag) > 1 and tag[0] == name:
                return tag[1]
        return None

    def indexed_tags(self) -> set[tuple[str, str]]:
        """The (letter, value) pairs that filters can ask for: single-letter tags' first values."""
        return {(tag[0], tag[1]) for tag in self.tags if len(tag) > 1 and tag[0] in _LETTERS}


_LETTERS = frozenset(ascii_letters)
_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(Event)


def is_tag_letter(name: str) -> bool:
    """True for a to z and A to Z: the tag names that are indexed (NIP-01)."""
    return name in _LETTERS


def decode(data: bytes | str | msgspec.Raw) -> Event:
    """The event in ``data``, its structure checked, its id and signature not yet.

    :raises InvalidEvent: not JSON, a field missing or of the wrong type or size, hex that is
        not lower case.
    """
    try:
        event = _decoder.decode(data)
    except DECODE_ERRORS as error:
        raise InvalidEvent(f"not an event: {describe(error)}") from None
    if is_lower_hex(event.id + event.pubkey + event.sig):
        return event
    raise InvalidEvent("not an event: id, pubkey or sig is not lower-case hex")


def describe(error: BaseException) -> str:
    """A decoder's complaint in words for a remote, without its inner names."""
    if isinstance(error, UnicodeDecodeError):
        return "not UTF-8"
    if isinstance(error, RecursionError):
        return "nested too deeply"
    return str(error).replace("`", "'")


def is_lower_hex(text: str) -> bool:
    """True where ``text`` is bytes in lower-case hex, nothing before, between or after."""
    try:
        return bytes.fromhex(text).hex() == text
    except ValueError:
        return False


def serialise(event: Event) -> bytes:
    """The bytes whose SHA-256 is the event's id (NIP-01), as nearly all software writes them.

    Control characters without a short escape come as ``\\u00xx``: so JSON demands, and so the
    events in circulation were hashed.
    """
    return _encoder.encode(
        (0, event.pubkey, event.created_at, event.kind, event.tags, event.content)
    )


_CONTROLS = {
    f"\\u{code:04x}".encode(): bytes([code])
    for code in range(0x20)
    if chr(code) not in "\b\t\n\f\r"
}


def _serialise_verbatim(event: Event) -> bytes:
    """As :func:`serialise`, but with control characters verbatim, which is NIP-01 to the letter."""
    parts = serialise(event).split(b"\\\\")
    for escape, raw in _CONTROLS.items():
        parts = [part.replace(escape, raw) for part in parts]
    return b"\\\\".join(parts)


def id_matches(event: Event) -> bool:
    """True where the id is the hash of the event, in either reading of NIP-01's escapes."""
    data = serialise(event)
    if sha256(data).hexdigest() == event.id:
        return True
    return b"\\u00" in data and sha256(_serialise_verbatim(event)).hexdigest() == event.id


def signature_matches(event: Event) -> bool:
    """True where the signature is the author's over the id (BIP-340). 35 us; frees the GIL."""
    try:
        return _key(event.pubkey).verify(bytes.fromhex(event.sig), event.id_bytes)
    except ValueError:  # the pubkey is no point of the curve
        return False


@lru_cache(_KEYS)
def _key(pubkey: str) -> PublicKeyXOnly:
    return PublicKeyXOnly(bytes.fromhex(pubkey))


def check(event: Event) -> str | None:
    """What is wrong with the event's id or signature, in words; None where nothing is."""
    if not id_matches(event):
        return "id does not match the event"
    if not signature_matches(event):
        return "signature does not match"
    return None


def from_fields(**fields: Any) -> Event:
    """An event of these fields with its id computed; ``sig`` is zeros unless it is given."""
    fields.setdefault("sig", "0" * 128)
    unhashed = Event(id="0" * 64, **fields)
    return msgspec.structs.replace(unhashed, id=sha256(serialise(unhashed)).hexdigest())
