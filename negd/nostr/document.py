"""What relays say of themselves (NIP-11), as far as a sync can use it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import msgspec

from negd.nostr.event import DECODE_ERRORS
from negd.nostr.words import printable

MEDIA_TYPE = "application/nostr+json"
"""What to ask for, and how the answer is labelled."""

_LONGEST_TEXT = 100
_MOST_NIPS = 200
_LARGEST_LIMIT = 2**53


@dataclass(frozen=True, slots=True)
class RelayDocument:
    """A relay's word on its kind and its limits: a hint, never a promise.

    :ivar max_message_length: bytes of the longest message it reads.
    :ivar max_subscriptions: subscriptions a connection may have open.
    :ivar max_limit: events it returns to one filter at most.
    """

    software: str = ""
    version: str = ""
    supported_nips: tuple[int, ...] = ()
    max_message_length: int | None = None
    max_subscriptions: int | None = None
    max_limit: int | None = None
    auth_required: bool = False
    payment_required: bool = False


def decode(data: bytes) -> RelayDocument | None:
    """The document in JSON text; None where it is no JSON object.

    Many documents hold something odd: a field that is not of its type counts as left out.
    """
    try:
        fields = msgspec.json.decode(data)
    except DECODE_ERRORS:
        return None
    if not isinstance(fields, dict):
        return None
    limitation = fields.get("limitation")
    limits = limitation if isinstance(limitation, dict) else {}
    return RelayDocument(
        software=_text(fields.get("software")),
        version=_text(fields.get("version")),
        supported_nips=_numbers(fields.get("supported_nips")),
        max_message_length=_limit(limits.get("max_message_length")),
        max_subscriptions=_limit(limits.get("max_subscriptions")),
        max_limit=_limit(limits.get("max_limit")),
        auth_required=limits.get("auth_required") is True,
        payment_required=limits.get("payment_required") is True,
    )


def _text(value: Any) -> str:
    return printable(value, _LONGEST_TEXT) if isinstance(value, str) else ""


def _numbers(value: Any) -> tuple[int, ...]:
    """Whole numbers, each once; other things in the list are left out."""
    listed = value if isinstance(value, list) else []
    return tuple(sorted({n for n in listed if type(n) is int and 0 <= n < 2**16}))[:_MOST_NIPS]


def _limit(value: Any) -> int | None:
    return value if type(value) is int and 0 < value <= _LARGEST_LIMIT else None
