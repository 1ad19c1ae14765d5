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
    """The peer will not reconcile: its events have to be read page by page.

    :ivar is_lasting: whether it does not speak NIP-77, or has it switched off; else it will not
        this time.
    """

    def __init__(self, text: str, is_lasting: bool = True) -> None:
        super().__init__(text)
        self.is_lasting = is_lasting


class FrameTooLarge(PeerError):
    """The peer does not read negentropy messages of that size."""


class Postponed(PeerError):
    """The peer may reconcile some other time.

    :ivar said: its own words.
    """

    def __init__(self, text: str, said: str) -> None:
        super().__init__(text)
        self.said = said


class AuthRequired(Postponed):
    """The peer wants to know who asks (NIP-42)."""


class TooMuch(Postponed):
    """The peer asks for patience: it reconciles with too many, or was asked too often."""


_AUTH = re.compile(r"^(auth-required|restricted):", re.IGNORECASE)

_DUPLICATE = re.compile(r"^duplicate\b|event already exists|already have", re.IGNORECASE)

_DELETED = re.compile(r"^deleted\b|(has been|was) deleted", re.IGNORECASE)

_FRAME = re.compile(
    r"(message|frame|payload|packet|msg)\b.{0,20}\b(too (big|large|long)|exceeds)"
    r"|max\w* (message|frame|payload|msg) (size|length)|\(1009: ",
    re.IGNORECASE,
)

_TOO_MANY = re.compile(
    r"too[ _-]many[ _-](query[ _-])?(results|events|records)|matches (too many|more than)"
    r"|too[ _-](big|large|broad)|query too|(exceed\w*|over|beyond)\b.{0,20}\b(max|limit)"
    r"|max\w* (records|events|results) exceeded",
    re.IGNORECASE,
)
_NUMBER = r"(\d{1,18})(?!\d)"
_STATED_LIMIT = re.compile(
    rf">\s*{_NUMBER}|limit\D{{0,4}}{_NUMBER}|max\w*\D{{0,4}}{_NUMBER}", re.IGNORECASE
)

# What servers without NIP-77 say in a notice, and what those say that have it switched off.
_UNABLE = re.compile(
    r"negentropy.*(disabled|not supported|missing elements)|nip-?77 disabled"
    r"|unknown (cmd|command|message|envelope)|bad msg|could not parse|unrecogni[sz]ed"
    r"|unsupported|invalid (message|command)|failed to parse|unknown subscription handle",
    re.IGNORECASE,
)

_RATE = r"^rate-limited:|rate.?limit|slow(ing)? down|too (fast|quick)"

_RATE_LIMITED = re.compile(rf"{_RATE}|concurrent|sessions", re.IGNORECASE)

_PATIENCE = re.compile(
    rf"{_RATE}|max\w* subscriptions|"
    r"too many (concurrent |open |active )?(neg\w* )?"
    r"(req\b|reqs\b|requests|subscriptions|subs\b|messages|sessions)|try (again )?later",
    re.IGNORECASE,
)

_NUMBER_OPEN = re.compile(r"too many|max\w*|concurrent", re.IGNORECASE)

# A notice about something else is none of a negotiation's business. NEG-OPEN is the only command of
# ours that relays do not know.
_PLAINLY_ABOUT_US = re.compile(
    r"neg(entropy|-|\b)|nip-?77|unknown (cmd|command|message|envelope)", re.IGNORECASE
)
_ABOUT_US = re.compile(
    rf"{_PLAINLY_ABOUT_US.pattern}|{_UNABLE.pattern}|{_FRAME.pattern}|{_TOO_MANY.pattern}",
    re.IGNORECASE,
)

_ABOUT_ANOTHER = re.compile(r"\b(event|content|tags?|note|reqs?)\b", re.IGNORECASE)

_ABOUT_A_REQUEST = re.compile(r"\breqs?\b|\bfilters?\b|too many ids", re.IGNORECASE)

_FOR_LESS = re.compile(
    r"too (many|large|big|long|broad)|\bmax\w*\b.{0,20}\d|limit exceeded"
    r"|exceed\w*.{0,30}(ids|filter|items)",
    re.IGNORECASE,
)


def holds_it(text: str) -> bool:
    """Whether an event was refused as the peer has it already."""
    return _DUPLICATE.search(text) is not None


def has_deleted_it(text: str) -> bool:
    """Whether an event was refused for a deletion, which stands; a newer version may go."""
    return _DELETED.search(text) is not None


def asks_who_we_are(text: str) -> bool:
    """Whether a refusal may end once we have authenticated."""
    return _AUTH.match(text) is not None


def asks_for_patience(text: str) -> bool:
    """Whether a refusal is for the rate or the number of what was asked, not for what it was."""
    return _PATIENCE.search(text) is not None


def is_about_number(text: str) -> bool:
    """Whether a refusal is for how many requests are open, not for how often they come."""
    return asks_for_patience(text) and _NUMBER_OPEN.search(text) is not None


def asks_for_less(text: str) -> bool:
    """Whether a REQ was refused for how much it asks for."""
    return not asks_for_patience(text) and _FOR_LESS.search(text) is not None


def concerns_a_request(text: str) -> bool:
    """Whether a notice, which names no subscription, answers a REQ."""
    return asks_for_patience(text) or _ABOUT_A_REQUEST.search(text) is not None


def concerns_negotiation(notice: Notice) -> bool:
    """Whether a notice, which names no subscription, may answer a message of a negotiation."""
    text = notice.text
    if _PLAINLY_ABOUT_US.search(text):
        return True
    return _ABOUT_US.search(text) is not None and _ABOUT_ANOTHER.search(text) is None


def is_ambiguous(notice: Notice) -> bool:
    """Whether such a notice may as well be about something else."""
    return _PLAINLY_ABOUT_US.search(notice.text) is None


def is_about_a_frame(text: str) -> bool:
    """Whether a refusal, or the end of a link (RFC 6455's code 1009), is for a message's size."""
    return _FRAME.search(text) is not None


def refusal_of(
    answer: NegErr | Closed | Notice, has_begun: bool, has_ended: bool = False
) -> PeerError:
    """The error that a peer's refusal to reconcile stands for.

    :param has_begun: whether it had answered before. One that never did, and says neither that
        the set or the message is too large nor that some other time may be better, is taken for
        one without NIP-77, in whatever words.
    :param has_ended: whether it is known to reconcile, from other times: then only words that say
        so are taken for that.
    """
    text = answer.text or type(answer).__name__.upper()
    said = f"the peer will not reconcile: {text}"
    stated = answer.limit if isinstance(answer, NegErr) else None
    if asks_who_we_are(text):
        return AuthRequired(said, text)
    if stated is None and is_about_a_frame(text):
        return FrameTooLarge(said)
    is_about_size = _TOO_MANY.search(text) is not None and not _RATE_LIMITED.search(text)
    if stated is not None or is_about_size:
        return TooManyRecords(said, stated or limit_in(text))
    if asks_for_patience(text) or _RATE_LIMITED.search(text):
        return TooMuch(said, text)
    is_unable = _UNABLE.search(text) is not None
    if has_begun or (has_ended and not is_unable):
        return PeerError(said)
    return NoReconciliation(said, is_unable or not _is_a_failure(text))


def _is_a_failure(text: str) -> bool:
    """Whether something went wrong at the peer (NIP-01's ``error:``), which says nothing else."""
    return text.startswith("error:")


def limit_in(text: str) -> int | None:
    """The limit that a text states, as in ``query matches too many records (9 > 5)``."""
    found = _STATED_LIMIT.search(text)
    return None if found is None else int(next(filter(None, found.groups())))
