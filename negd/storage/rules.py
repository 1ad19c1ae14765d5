"""What a store does with an event, over the few steps in which stores differ.

The rules themselves are in :mod:`negd.nostr.lifecycle`; here is their order, once for all stores
that decide one event at a time.
"""

from __future__ import annotations

from typing import Protocol

from negd.interfaces import Outcome
from negd.nostr.event import Event
from negd.nostr.kinds import DELETION, is_ephemeral
from negd.nostr.lifecycle import Address, address_of, deletions_of, is_expired, replaces


class Shelf(Protocol):
    """The steps, each on what the steps before have left."""

    def held(self, event_id: bytes) -> Event | None:
        """The stored event of that id."""

    def holder(self, address: Address) -> Event | None:
        """The stored event at an address."""

    def insert(self, event: Event) -> bool:
        """Store an event; False and nothing done where it is stored already."""

    def remove(self, event: Event) -> None:
        """Take a stored event away, with all its index entries."""

    def forbid_id(self, event_id: bytes, author: str) -> None:
        """Remember that this author asked for the deletion of that event."""

    def forbid_address(self, address: Address, until: int) -> None:
        """Remember that versions up to that second are deleted, and further ones if they are."""

    def is_forbidden(self, event: Event, address: Address | None) -> bool:
        """Whether the event's author asked for its deletion."""


def take(shelf: Shelf, event: Event, now: float) -> Outcome:
    """Store an event if the rules allow it, and do what it asks."""
    if is_expired(event, now):
        return Outcome.EXPIRED
    if is_ephemeral(event.kind):
        return Outcome.EPHEMERAL
    address = address_of(event)
    if event.kind != DELETION and shelf.is_forbidden(event, address):
        return Outcome.DELETED
    if address is not None:
        holder = shelf.holder(address)
        if holder is not None and holder.id == event.id:
            return Outcome.DUPLICATE
        if holder is not None and not is_expired(holder, now) and not replaces(event, holder):
            return Outcome.SUPERSEDED
        if holder is not None:
            shelf.remove(holder)
    if not shelf.insert(event):
        return Outcome.DUPLICATE
    if event.kind == DELETION:
        _obey(shelf, event)
    return Outcome.STORED


def _obey(shelf: Shelf, deletion: Event) -> None:
    """Delete what is there, and keep it and what is not there yet from coming (NIP-09)."""
    asked = deletions_of(deletion)
    for event_id in asked.ids:
        held = shelf.held(event_id)
        if held is None:
            shelf.forbid_id(event_id, deletion.pubkey)
        elif held.pubkey == deletion.pubkey and held.kind != DELETION:
            shelf.forbid_id(event_id, deletion.pubkey)
            shelf.remove(held)
    for address in asked.addresses:
        shelf.forbid_address(address, deletion.created_at)
        holder = shelf.holder(address)
        if holder is not None and holder.created_at <= deletion.created_at:
            shelf.remove(holder)
