"""What a peer means when it will not reconcile: the words of many servers, read in one place.

Collected from public servers: a notice that names no subscription, ``CLOSED``, ``NEG-ERR`` with
and without the id, and texts that follow no standard.
"""

from __future__ import annotations

import re

from negd.errors import PeerError
from negd.nostr.messages import Closed, NegErr, Notice


class TooManyRecords(PeerError):
    """The peer will not reconcile so large a set; a smaller part of it may do.

    :ivar limit: the most records it takes, where it said so.
    """

    def __init__(self, text: str, limit: int | None) -> None:
        super().__init__(text)
        self.limit = limit


class NoReconciliation(PeerError):
    """The peer does not speak NIP-77, or has it switched off."""


class FrameTooLarge(PeerError):
    """The peer does not read negentropy messages of that size."""


class AuthRequired(PeerError):
    """The peer wants to know who asks (NIP-42).

    :ivar said: its own words.
    """

    def __init__(self, text: str, said: str) -> None:
        super().__init__(text)
        self.said = said


_AUTH = re.compile(r"^(auth-required|restricted):", re.IGNORECASE)

_FRAME = re.compile(
    r"(message|frame|payload|packet|msg)\b.{0,20}\b(too (big|large|long)|exceeds)"
    r"|max\w* (message|frame|payload|msg) (size|length)|\(1009: ",
    re.IGNORECASE,
)

_TOO_MANY = re.compile(
    r"too many (query results|events|records)|matches too many|too (big|large)|query too",
    re.IGNORECASE,
)
_NUMBER = r"(\d{1,18})(?!\d)"
_STATED_LIMIT = re.compile(
    rf">\s*{_NUMBER}|limit\D{{0,4}}{_NUMBER}|max\w*\D{{0,4}}{_NUMBER}", re.IGNORECASE
)

# What servers without NIP-77 say to a NEG-OPEN, and what those say that have it switched off.
_UNABLE = re.compile(
    r"negentropy.*(disabled|not supported|missing elements)|nip-?77 disabled"
    r"|unknown (cmd|command|message|envelope)|bad msg|could not parse|unrecogni[sz]ed"
    r"|unsupported|invalid (message|command)|failed to parse|unknown subscription handle",
    re.IGNORECASE,
)

_PATIENCE = re.compile(
    r"^rate-limited:|rate.?limit|slow(ing)? down|too (fast|quick)|too many (concurrent |open |"
    r"active )?(req\b|reqs\b|requests|subscriptions|subs\b|messages)|max\w* subscriptions",
    re.IGNORECASE,
)

# A notice about something else is none of a negotiation's business.
_ABOUT_US = re.compile(
    rf"neg(entropy|-|\b)|nip-?77|{_UNABLE.pattern}|{_FRAME.pattern}", re.IGNORECASE
)


def asks_who_we_are(text: str) -> bool:
    """Whether a refusal may end once we have authenticated."""
    return _AUTH.match(text) is not None


def asks_for_patience(text: str) -> bool:
    """Whether a refusal is for the rate or the number of what was asked, not for what it was."""
    return _PATIENCE.search(text) is not None


def concerns_negotiation(notice: Notice) -> bool:
    """Whether a notice, which names no subscription, answers a NEG-OPEN."""
    return _ABOUT_US.search(notice.text) is not None


def is_about_a_frame(text: str) -> bool:
    """Whether a refusal, or the end of a link (RFC 6455's code 1009), is for a message's size."""
    return _FRAME.search(text) is not None


def refusal_of(answer: NegErr | Closed | Notice) -> PeerError:
    """The error that a peer's refusal to reconcile stands for."""
    text = answer.text or type(answer).__name__.upper()
    said = f"the peer will not reconcile: {text}"
    stated = answer.limit if isinstance(answer, NegErr) else None
    if asks_who_we_are(text):
        return AuthRequired(said, text)
    if stated is None and is_about_a_frame(text):
        return FrameTooLarge(said)
    if stated is not None or _TOO_MANY.search(text):
        return TooManyRecords(said, stated or _limit_in(text))
    if _UNABLE.search(text):
        return NoReconciliation(said)
    return PeerError(said)


def _limit_in(text: str) -> int | None:
    """The limit that a text states, as in ``query matches too many records (9 > 5)``."""
    found = _STATED_LIMIT.search(text)
    return None if found is None else int(next(filter(None, found.groups())))
