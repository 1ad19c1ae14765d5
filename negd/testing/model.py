"""A relay in its plainest form: what NIP-01, NIP-09 and NIP-40 keep, written straight from them.

The oracle that stores and whole daemons are held against. It shares no rule with the code that it
judges, keeps everything in plain containers and makes no attempt to be quick.
"""

from __future__ import annotations

from negd.interfaces import Outcome
from negd.nostr.event import Event


class NaiveRelay:
    """Takes events one by one.

    :ivar now: the Unix second it is; set it to let time pass.
    """

    def __init__(self, now: float) -> None:
        self.now = now
        self._kept: dict[bytes, Event] = {}
        self._mortal: list[Event] = []
        self._deletions: list[Event] = []

    def offer(self, event: Event) -> Outcome:
        """What becomes of the event."""
        self._expire()
        if _has_expired(event, self.now):
            return Outcome.EXPIRED
        if 20000 <= event.kind < 30000:
            return Outcome.EPHEMERAL
        if event.id_bytes in self._kept:
            return Outcome.DUPLICATE
        if any(_deletes(deletion, event) for deletion in self._deletions):
            return Outcome.DELETED
        rivals = self._rivals(event)
        if any(_rank(rival) > _rank(event) for rival in rivals):
            return Outcome.SUPERSEDED
        for rival in rivals:
            del self._kept[rival.id_bytes]
        self._kept[event.id_bytes] = event
        if any(tag[0] == "expiration" for tag in event.tags if tag):
            self._mortal.append(event)
        if event.kind == 5:
            self._deletions.append(event)
            gone = [kept for kept in self._kept.values() if _deletes(event, kept)]
            for kept in gone:
                del self._kept[kept.id_bytes]
        return Outcome.STORED

    def kept(self) -> dict[bytes, Event]:
        """What is served now, by id."""
        self._expire()
        return dict(self._kept)

    def _rivals(self, event: Event) -> list[Event]:
        if not (_replaceable(event.kind) or _addressable(event.kind)):
            return []
        return [kept for kept in self._kept.values() if _same_place(kept, event)]

    def _expire(self) -> None:
        for event in self._mortal:
            if _has_expired(event, self.now):
                self._kept.pop(event.id_bytes, None)


def _has_expired(event: Event, now: float) -> bool:
    for tag in event.tags:
        if len(tag) >= 2 and tag[0] == "expiration":
            return tag[1].isascii() and tag[1].isdigit() and int(tag[1]) <= now
    return False


def _replaceable(kind: int) -> bool:
    return kind in (0, 3) or 10000 <= kind < 20000


def _addressable(kind: int) -> bool:
    return 30000 <= kind < 40000


def _identifier(event: Event) -> str:
    values = [tag[1] for tag in event.tags if len(tag) >= 2 and tag[0] == "d"]
    return values[0] if values else ""


def _same_place(one: Event, other: Event) -> bool:
    """Whether only one of the two may be kept."""
    if one.kind != other.kind or one.pubkey != other.pubkey:
        return False
    if _addressable(one.kind):
        return _identifier(one) == _identifier(other)
    return _replaceable(one.kind)


def _rank(event: Event) -> tuple[int, int]:
    """Of two at one place the higher rank is kept: the later, in one second the lower id."""
    return event.created_at, -int(event.id, 16)


def _deletes(deletion: Event, event: Event) -> bool:
    if event.pubkey != deletion.pubkey or event.kind == 5:
        return False
    for tag in deletion.tags:
        if tag[:1] == ("e",) and tag[1:2] == (event.id,):
            return True
        if tag[:1] == ("a",) and len(tag) >= 2 and event.created_at <= deletion.created_at:
            if _names(tag[1], event):
                return True
    return False


def _names(coordinate: str, event: Event) -> bool:
    """Whether ``kind:pubkey:identifier`` is where the event is kept."""
    kind, pubkey, identifier, *_ = [*coordinate.split(":", 2), "", ""]
    if kind != str(event.kind) or pubkey != event.pubkey:
        return False
    if _addressable(event.kind):
        return identifier == _identifier(event)
    return _replaceable(event.kind)
