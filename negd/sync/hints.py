"""Keeping to limits before anything breaks on them: those a peer states (NIP-11), and a rate."""

from __future__ import annotations

import msgspec

from negd.nostr.document import RelayDocument
from negd.reconcile import SMALLEST_FRAME_LIMIT
from negd.settings import SyncSettings

_ENVELOPE = 200
"""Bytes of a message beside its ids or its negentropy: labels, names, brackets."""

_ID = 67
"""Bytes of an id in a REQ: 64 digits, quotes and a comma."""

_EVENT = 1000
"""Bytes of an event in its message, about."""

_UNDER_WAY = 10.0
"""Seconds that what is under way may take: an answer behind it is waited for only so long."""

PAGE = 500
"""Events asked for at a time, of no certain ids: what most servers give at most."""

_SMALLEST_PAGE = 5
"""Events of a smallest page that can be meant."""

_SHORTEST = 4096
"""Bytes of a longest message that can be meant: a smaller one would take hardly any event."""

_NEGD = "negd"
_NEGD_WINDOW = 4000
"""EVENTs that negd itself may be sent unanswered: it stops reading, and drops none.

An event takes a fifth of a second to be checked and committed with others, so fewer would wait for
each other."""

_NEGD_IN_FLIGHT = 16
"""REQs that negd itself may be asked at a time."""


def suited(settings: SyncSettings, document: RelayDocument | None) -> SyncSettings:
    """The settings for a peer that says this of itself."""
    if document is None:
        return settings
    in_flight, batch, frame = settings.fetch_in_flight, settings.fetch_batch, settings.frame_limit
    window = settings.upload_window
    if document.software == _NEGD:
        in_flight, window = max(in_flight, _NEGD_IN_FLIGHT), max(window, _NEGD_WINDOW)
    if document.max_subscriptions is not None:  # one of them is the tail's
        in_flight = min(in_flight, document.max_subscriptions - 1)
    if document.max_limit is not None:
        batch = min(batch, document.max_limit)
    if (length := longest(document)) is not None:
        room = length - _ENVELOPE
        batch = min(batch, room // _ID)
        frame = min(frame, max(SMALLEST_FRAME_LIMIT, room // 2))  # hex doubles it
    return msgspec.structs.replace(
        settings,
        fetch_in_flight=max(1, in_flight),
        fetch_batch=max(1, batch),
        frame_limit=frame,
        upload_window=window,
    )


def longest(document: RelayDocument | None) -> int | None:
    """Bytes of the longest message that a peer reads; None where it does not say, or cannot mean.

    A slip in a document must not keep every event from the peer.
    """
    stated = None if document is None else document.max_message_length
    return None if stated is None or stated < _SHORTEST else stated


def page_size(document: RelayDocument | None) -> int:
    """Events of a page that a peer may be asked for."""
    stated = None if document is None else document.max_limit
    return PAGE if stated is None or stated < _SMALLEST_PAGE else min(PAGE, stated)


def paced(settings: SyncSettings, rate: int) -> SyncSettings:
    """The settings for a link that carries ``rate`` bytes a second, each way; 0 is no limit."""
    if not rate:
        return settings
    room = int(rate * _UNDER_WAY)
    events = max(1, room // _EVENT)
    batch = min(settings.fetch_batch, events)
    return msgspec.structs.replace(
        settings,
        fetch_batch=batch,
        fetch_in_flight=max(1, min(settings.fetch_in_flight, events // batch)),
        frame_limit=min(settings.frame_limit, max(SMALLEST_FRAME_LIMIT, room // 2)),
        upload_window=min(settings.upload_window, events),
    )
