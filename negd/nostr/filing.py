"""What stores take in: an event in bytes, with everything that it is filed under.

To work this out costs a third of what checking a signature does, so it is done where that is done:
beside the process that stores, which has one interpreter for all it does.
"""

from __future__ import annotations

from functools import lru_cache
from hashlib import sha256

import msgspec

from negd.nostr.event import Event
from negd.nostr.lifecycle import address_of, expiration_of
from negd.nostr.packed import AUTHOR, event_of, pack, unpack

_DIGEST = 16

_SHORT = 128
"""Characters of a tag's value up to which its key is remembered: 16,384 of them take 6 MB."""


class Filing(msgspec.Struct, array_like=True, gc=False):
    """An event on its way into a store; what it says of the event is taken as right.

    :ivar packed: see :mod:`negd.nostr.packed`.
    :ivar record: ``created_at`` (8 bytes), then the id.
    :ivar tags: the keys of its tags, see :func:`tag_key`, each once, in order.
    :ivar address: the :attr:`negd.nostr.lifecycle.Address.key` that it occupies; None for a kind
        that occupies none.
    :ivar expiration: the Unix second from which it is expired; None where it never is.
    """

    packed: bytes
    record: bytes
    kind: int
    tags: list[bytes]
    address: bytes | None
    expiration: int | None
    _event: Event | None = None

    @classmethod
    def of(cls, event: Event) -> Filing:
        """File an event."""
        address = address_of(event)
        return cls(
            pack(event),
            event.record,
            event.kind,
            sorted([tag_key(letter, value) for letter, value in event.indexed_tags()]),
            None if address is None else address.key,
            expiration_of(event),
        )

    @property
    def id_bytes(self) -> bytes:
        """The event's id, 32 bytes."""
        return self.record[8:]

    @property
    def author(self) -> bytes:
        """The event's author, 32 bytes."""
        return self.packed[AUTHOR]

    @property
    def json(self) -> bytes:
        """The event's JSON, as :meth:`Event.encode` gives it."""
        return unpack(self.packed)

    @property
    def event(self) -> Event:
        """The event itself, decoded where it is not at hand."""
        return event_of(self.packed) if self._event is None else self._event

    def keep(self, event: Event) -> Filing:
        """Have the event at hand, which is this one; returns the filing."""
        self._event = event
        return self

    def is_expired(self, now: float) -> bool:
        """Whether the event's expiration has come (NIP-40)."""
        return self.expiration is not None and self.expiration <= now


def filing_of(event: Event | Filing) -> Filing:
    """The event as a filing."""
    return event if isinstance(event, Filing) else Filing.of(event).keep(event)


def event_in(event: Event | Filing) -> Event:
    """The event decoded."""
    return event.event if isinstance(event, Filing) else event


def tag_key(letter: str, value: str) -> bytes:
    """17 bytes for a tag's letter and value."""
    return _remembered(letter, value) if len(value) <= _SHORT else _hashed(letter, value)


def _hashed(letter: str, value: str) -> bytes:
    return letter.encode() + sha256(value.encode()).digest()[:_DIGEST]


_remembered = lru_cache(maxsize=1 << 14)(_hashed)
