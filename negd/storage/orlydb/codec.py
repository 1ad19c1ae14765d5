"""Events between negd's form and the database's, and tag values for its filters.

The database keeps the value of an ``e`` or ``p`` tag that is 32 bytes in hex as those bytes and a
NUL, and returns it so; all other text is UTF-8.
"""

from __future__ import annotations

from collections.abc import Iterable

from negd.errors import RemoteError
from negd.nostr.event import MAX_TIMESTAMP, Event, is_lower_hex
from negd.nostr.kinds import MAX_KIND
from negd.storage.orlydb.gen.orlydb.v1 import service_pb2 as proto

_BINARY = frozenset({"e", "p"})
"""Names of tags whose value may be kept as bytes."""

_SIZE = 32


class Unstorable(RemoteError):
    """The database would give the event back as another one."""


class Damaged(ValueError):
    """What the database returned is no event."""


def to_proto(event: Event) -> proto.Event:
    """The database's form.

    :raises Unstorable: an ``e`` or ``p`` tag has text that looks like the 33-byte form.
    """
    return proto.Event(
        id=event.id_bytes,
        pubkey=bytes.fromhex(event.pubkey),
        created_at=event.created_at,
        kind=event.kind,
        tags=[proto.Tag(values=_values(tag)) for tag in event.tags],
        content=event.content.encode(),
        sig=bytes.fromhex(event.sig),
    )


def _values(tag: tuple[str, ...]) -> list[bytes]:
    values = [text.encode() for text in tag]
    if len(tag) > 1 and tag[0] in _BINARY:
        if _is_hash(values[1]):
            raise Unstorable(f"the value of its {tag[0]} tag would be taken for a hash in binary")
        if len(tag[1]) == 2 * _SIZE and is_lower_hex(tag[1]):
            values[1] = bytes.fromhex(tag[1]) + b"\0"
    return values


def from_proto(message: proto.Event) -> Event:
    """negd's form.

    :raises Damaged: a size, a number or UTF-8 that no event has.
    """
    sizes = (len(message.id), len(message.pubkey), len(message.sig))
    if sizes != (_SIZE, _SIZE, 2 * _SIZE):
        raise Damaged("its id, pubkey or signature is not of the right size")
    if not (0 <= message.created_at <= MAX_TIMESTAMP and message.kind <= MAX_KIND):
        raise Damaged("its time or kind is out of range")
    try:
        return Event(
            id=message.id.hex(),
            pubkey=message.pubkey.hex(),
            created_at=message.created_at,
            kind=message.kind,
            tags=tuple(_texts(tag.values) for tag in message.tags),
            content=message.content.decode(),
            sig=message.sig.hex(),
        )
    except UnicodeDecodeError:
        raise Damaged("it holds bytes that are not UTF-8") from None


def _texts(values: Iterable[bytes]) -> tuple[str, ...]:
    found = list(values)
    if len(found) > 1 and found[0] in (b"e", b"p") and _is_hash(found[1]):
        found[1] = found[1][:_SIZE].hex().encode()
    return tuple(map(bytes.decode, found))


def _is_hash(value: bytes) -> bool:
    return len(value) == _SIZE + 1 and value[_SIZE] == 0
