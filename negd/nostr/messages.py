"""The JSON arrays of the socket, both ways (NIP-01, NIP-42, NIP-77).

:func:`decode_client` reads what clients send to relays, :func:`decode_relay` what relays send to
clients.  The ``encode_*`` functions build text directly, as UTF-8 bytes: events are copied in as
they are stored, and the hex of large negentropy messages passes through no JSON encoder.
"""

from __future__ import annotations

from binascii import Error as HexError
from binascii import hexlify, unhexlify
from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

import msgspec

from negd.errors import RemoteError
from negd.nostr import event as events
from negd.nostr import filter as filters
from negd.nostr.event import DECODE_ERRORS, Event, describe
from negd.nostr.filter import Filter
from negd.nostr.words import printable

MAX_SUBSCRIPTION = 64
"""The most characters in a subscription id (NIP-01)."""

_LARGEST_LIMIT = 2**53
"""Of records that a relay can rightly speak of."""


class InvalidMessage(RemoteError):
    """A message that cannot be read.

    :ivar label: the message's first element, where it could be read; else empty.
    :ivar subject: the subscription id (or the event's id, hex) it was about; else empty.
    """

    def __init__(self, text: str, label: str = "", subject: str = "") -> None:
        super().__init__(text)
        self.label = label
        self.subject = subject

    @property
    def event_id(self) -> str:
        """Hex of the event's id, where it was an event and so much could be read; else empty."""
        return self.subject if self.label == "EVENT" else ""


class _Message(msgspec.Struct, frozen=True, gc=False):
    """Base of the messages below; ``subscription`` is the id the sender chose."""


class Publish(_Message, frozen=True):
    """``["EVENT", event]``, client to relay."""

    event: Event


class Request(_Message, frozen=True):
    """``["REQ", subscription, filter...]``."""

    subscription: str
    filters: tuple[Filter, ...]


class Close(_Message, frozen=True):
    """``["CLOSE", subscription]``."""

    subscription: str


class Auth(_Message, frozen=True):
    """``["AUTH", event]``, client to relay (NIP-42)."""

    event: Event


class NegOpen(_Message, frozen=True):
    """``["NEG-OPEN", subscription, filter, hex]`` (NIP-77)."""

    subscription: str
    filter: Filter
    message: bytes


class NegMsg(_Message, frozen=True):
    """``["NEG-MSG", subscription, hex]``, both ways (NIP-77)."""

    subscription: str
    message: bytes


class NegClose(_Message, frozen=True):
    """``["NEG-CLOSE", subscription]`` (NIP-77)."""

    subscription: str


class Delivered(_Message, frozen=True):
    """``["EVENT", subscription, event]``, relay to client; ``size`` is in bytes of the event."""

    subscription: str
    event: Event
    size: int = 0


class Ok(_Message, frozen=True):
    """``["OK", event id, accepted, text]``; ``event_id`` in hex."""

    event_id: str
    accepted: bool
    text: str


class Eose(_Message, frozen=True):
    """``["EOSE", subscription]``: stored events are through."""

    subscription: str


class Closed(_Message, frozen=True):
    """``["CLOSED", subscription, text]``."""

    subscription: str
    text: str


class Notice(_Message, frozen=True):
    """``["NOTICE", text]``."""

    text: str


class Challenge(_Message, frozen=True):
    """``["AUTH", challenge]``, relay to client (NIP-42)."""

    challenge: str


class NegErr(_Message, frozen=True):
    """``["NEG-ERR", subscription, text, limit?]`` (NIP-77), ``NEG-ERROR`` of some servers too.

    :ivar limit: the most records the server will take, where it said a number.
    """

    subscription: str
    text: str
    limit: int | None = None


class Unrecognised(_Message, frozen=True):
    """A relay's message with a label that is not known here; ``label`` is cut to 64."""

    label: str


ClientMessage = Publish | Request | Close | Auth | NegOpen | NegMsg | NegClose
RelayMessage = Delivered | Ok | Eose | Closed | Notice | Challenge | NegMsg | NegErr | Unrecognised

M = TypeVar("M")

_parts = msgspec.json.Decoder(list[msgspec.Raw])
_string = msgspec.json.Decoder(str)
_words = msgspec.json.Decoder(str | None)


def decode_client(text: bytes | str) -> ClientMessage:
    """What a client sent to a relay.

    :raises InvalidMessage: with label and subject as far as they could be read.
    """
    label, parts = _split(text)
    reader = _CLIENT.get(label)
    if reader is None:
        raise InvalidMessage(f"unknown message {label[:64]!r}", label)
    return _read(reader, label, parts)


def decode_relay(text: bytes | str) -> RelayMessage:
    """What a relay sent to a client; its words for people are as :func:`printable` keeps them.

    :raises InvalidMessage: a known label with elements that cannot be read.
    """
    label, parts = _split(text)
    reader = _RELAY.get(label)
    return Unrecognised(label[:64]) if reader is None else _read(reader, label, parts)


def _split(text: bytes | str) -> tuple[str, list[msgspec.Raw]]:
    try:
        parts = _parts.decode(text)
    except DECODE_ERRORS as error:
        raise InvalidMessage(f"message is not a JSON array: {describe(error)}") from None
    try:
        return _string.decode(parts[0]), parts
    except IndexError:
        raise InvalidMessage("message is an empty array") from None
    except DECODE_ERRORS:
        raise InvalidMessage("message does not begin with a label") from None


Reader = Callable[[list[msgspec.Raw]], msgspec.Struct]


def _read(reader: Callable[[list[msgspec.Raw]], M], label: str, parts: list[msgspec.Raw]) -> M:
    """The reader's message; its errors gain the label and what the message was about."""
    try:
        return reader(parts)
    except IndexError:
        raise InvalidMessage(
            f"{label} has too few elements", label, _subject(label, parts)
        ) from None
    except DECODE_ERRORS as error:
        raise InvalidMessage(
            f"{label} cannot be read: {describe(error)}", label, _subject(label, parts)
        ) from None
    except RemoteError as error:
        raise InvalidMessage(error.text, label, _subject(label, parts)) from None


class _IdOnly(msgspec.Struct):
    id: str


def _subject(label: str, parts: list[msgspec.Raw]) -> str:
    """What a message that cannot be read was about, for the answer; empty where unreadable."""
    try:
        if label == "EVENT":
            subject = msgspec.json.decode(parts[-1], type=_IdOnly).id
            return subject if len(subject) == 64 and events.is_lower_hex(subject.lower()) else ""
        return _subscription(parts[1])
    except (IndexError, RemoteError, *DECODE_ERRORS):
        return ""


def _subscription(part: msgspec.Raw) -> str:
    subscription = _string.decode(part)
    if not 1 <= len(subscription) <= MAX_SUBSCRIPTION:
        raise InvalidMessage(f"subscription id is not 1 to {MAX_SUBSCRIPTION} characters")
    return subscription


def _hex(part: msgspec.Raw) -> bytes:
    try:
        return unhexlify(_string.decode(part))
    except (HexError, ValueError, msgspec.ValidationError):
        raise InvalidMessage("negentropy message is not hex") from None


def _request(parts: list[msgspec.Raw]) -> Request:
    subscription = _subscription(parts[1])
    if len(parts) < 3:
        raise InvalidMessage("REQ has no filter")
    return Request(subscription, tuple(filters.decode(part) for part in parts[2:]))


def _neg_open(parts: list[msgspec.Raw]) -> NegOpen:
    if len(parts) == 5:
        raise InvalidMessage("NEG-OPEN of an old draft: send id, filter, message (NIP-77)")
    return NegOpen(_subscription(parts[1]), filters.decode(parts[2]), _hex(parts[3]))


def _neg_err(parts: list[msgspec.Raw]) -> NegErr:
    limit = msgspec.json.decode(parts[3]) if len(parts) > 3 else None
    return NegErr(
        _string.decode(parts[1]),
        _text(parts, 2),
        limit if type(limit) is int and 0 < limit <= _LARGEST_LIMIT else None,
    )


def _text(parts: list[msgspec.Raw], index: int) -> str:
    """A reason that some relays leave out, or have null for: printable, and cut."""
    return printable(_words.decode(parts[index]) or "") if len(parts) > index else ""


def _ok(parts: list[msgspec.Raw]) -> Ok:
    return Ok(_string.decode(parts[1]), msgspec.json.decode(parts[2], type=bool), _text(parts, 3))


def _neg_msg(parts: list[msgspec.Raw]) -> NegMsg:
    return NegMsg(_subscription(parts[1]), _hex(parts[2]))


_CLIENT: dict[str, Callable[[list[msgspec.Raw]], ClientMessage]] = {
    "EVENT": lambda parts: Publish(events.decode(parts[1])),
    "REQ": _request,
    "CLOSE": lambda parts: Close(_subscription(parts[1])),
    "AUTH": lambda parts: Auth(events.decode(parts[1])),
    "NEG-OPEN": _neg_open,
    "NEG-MSG": _neg_msg,
    "NEG-CLOSE": lambda parts: NegClose(_subscription(parts[1])),
}

_RELAY: dict[str, Callable[[list[msgspec.Raw]], RelayMessage]] = {
    "EVENT": lambda parts: Delivered(
        _string.decode(parts[1]), events.decode(parts[2]), len(parts[2])
    ),
    "OK": _ok,
    "EOSE": lambda parts: Eose(_string.decode(parts[1])),
    "CLOSED": lambda parts: Closed(_string.decode(parts[1]), _text(parts, 2)),
    "NOTICE": lambda parts: Notice(_text(parts, 1)),
    "AUTH": lambda parts: Challenge(_string.decode(parts[1])),
    "NEG-MSG": _neg_msg,
    "NEG-ERR": _neg_err,
    "NEG-ERROR": _neg_err,
}

_quote = msgspec.json.Encoder().encode


def encode_publish(event_json: bytes) -> bytes:
    """``["EVENT", event]`` from the event's stored JSON."""
    return b'["EVENT",' + event_json + b"]"


def encode_delivered(subscription: str, event_json: bytes) -> bytes:
    """``["EVENT", subscription, event]`` from the event's stored JSON."""
    return b'["EVENT",' + _quote(subscription) + b"," + event_json + b"]"


def encode_request(subscription: str, wanted: Iterable[Filter]) -> bytes:
    """``["REQ", subscription, filter...]``."""
    return _quote(["REQ", subscription, *(filter.to_json() for filter in wanted)])


def encode_close(subscription: str) -> bytes:
    """``["CLOSE", subscription]``."""
    return _quote(("CLOSE", subscription))


def encode_auth(event: Event) -> bytes:
    """``["AUTH", event]``, the answer to a challenge."""
    return _quote(("AUTH", event))


def encode_ok(event_id: str, accepted: bool, text: str) -> bytes:
    """``["OK", event id, accepted, text]``."""
    return _quote(("OK", event_id, accepted, text))


def encode_eose(subscription: str) -> bytes:
    """``["EOSE", subscription]``."""
    return _quote(("EOSE", subscription))


def encode_closed(subscription: str, text: str) -> bytes:
    """``["CLOSED", subscription, text]``."""
    return _quote(("CLOSED", subscription, text))


def encode_notice(text: str) -> bytes:
    """``["NOTICE", text]``."""
    return _quote(("NOTICE", text))


def encode_neg_open(subscription: str, wanted: Filter, message: bytes) -> bytes:
    """``["NEG-OPEN", subscription, filter, hex]``."""
    head = b'["NEG-OPEN",' + _quote(subscription) + b"," + wanted.encode()
    return head + b',"' + hexlify(message) + b'"]'


def encode_neg_msg(subscription: str, message: bytes) -> bytes:
    """``["NEG-MSG", subscription, hex]``."""
    return b'["NEG-MSG",' + _quote(subscription) + b',"' + hexlify(message) + b'"]'


def encode_neg_close(subscription: str) -> bytes:
    """``["NEG-CLOSE", subscription]``."""
    return _quote(("NEG-CLOSE", subscription))


def encode_neg_err(subscription: str, text: str, limit: int | None = None) -> bytes:
    """``["NEG-ERR", subscription, text, limit?]``."""
    parts: Sequence[object] = ("NEG-ERR", subscription, text)
    return _quote(parts if limit is None else (*parts, limit))


def encode_refusal(error: InvalidMessage) -> bytes:
    """The answer to a client's message that could not be read, in that message's own form."""
    if error.subject:
        if error.label == "EVENT":
            return encode_ok(error.subject, False, error.answer)
        if error.label == "REQ":
            return encode_closed(error.subject, error.answer)
        if error.label in ("NEG-OPEN", "NEG-MSG"):
            return encode_neg_err(error.subject, error.answer)
    return encode_notice(error.answer)
