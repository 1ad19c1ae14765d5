"""What a store does with an event, over the few steps in which stores differ.

The rules themselves are in :mod:`negd.nostr.lifecycle`; here is their order, once for all stores
that decide one event at a time.
"""

from __future__ import annotations

from typing import Protocol

from negd.interfaces import Outcome
from negd.nostr.filing import Filing
from negd.nostr.kinds import DELETION, is_ephemeral
from negd.nostr.lifecycle import deletions_of, replaces


class Shelf(Protocol):
    """The steps, each on what the steps before have left.

    Addresses are :attr:`negd.nostr.lifecycle.Address.key`.
    """

    def held(self, event_id: bytes) -> Filing | None:
        """The stored event of that id."""

    def holder(self, address: bytes) -> Filing | None:
        """The stored event at an address."""

    def insert(self, filing: Filing) -> bool:
        """Store an event; False and nothing done where it is stored already."""

    def remove(self, filing: Filing) -> None:
        """Take a stored event away, with all its index entries."""

    def forbid_id(self, event_id: bytes, author: bytes) -> None:
        """Remember that this author asked for the deletion of that event."""

    def forbid_address(self, address: bytes, until: int) -> None:
        """Remember that versions up to that second are deleted, and further ones if they are."""

    def is_forbidden(self, filing: Filing) -> bool:
        """Whether the event's author asked for its deletion."""


def take(shelf: Shelf, filing: Filing, now: float) -> Outcome:
    """Store an event if the rules allow it, and do what it asks."""
    if filing.is_expired(now):
        return Outcome.EXPIRED
    kind, address = filing.kind, filing.address
    if is_ephemeral(kind):
        return Outcome.EPHEMERAL
    if kind != DELETION and shelf.is_forbidden(filing):
        return Outcome.DELETED
    if address is not None:
        holder = shelf.holder(address)
        if holder is not None:
            if holder.record == filing.record:
                return Outcome.DUPLICATE
            if not holder.is_expired(now) and not replaces(filing.record, holder.record):
                return Outcome.SUPERSEDED
            shelf.remove(holder)
    if not shelf.insert(filing):
        return Outcome.DUPLICATE
    if kind == DELETION:
        _obey(shelf, filing)
    return Outcome.STORED


def _obey(shelf: Shelf, deletion: Filing) -> None:
    """Delete what is there, and keep it and what is not there yet from coming (NIP-09).

    Every id is remembered, whatever is held under it, though that matters for the author's own
    events only: so it can be told later from the deletion alone whether anything is forgotten.
    """
    asked, author = deletions_of(deletion.event), deletion.author
    for event_id in asked.ids:
        shelf.forbid_id(event_id, author)
        held = shelf.held(event_id)
        if held is not None and is_deletable(held, author):
            shelf.remove(held)
    until = deletion.record[:8]
    for address in asked.addresses:
        shelf.forbid_address(address.key, int.from_bytes(until, "big"))
        holder = shelf.holder(address.key)
        if holder is not None and holder.record[:8] <= until:
            shelf.remove(holder)


def is_deletable(held: Filing, author: bytes) -> bool:
    """Whether a deletion of that author that names the event removes it."""
    return held.author == author and held.kind != DELETION
