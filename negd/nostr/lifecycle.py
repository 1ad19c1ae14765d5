"""When an event ends: replacement (NIP-01), deletion (NIP-09), expiry (NIP-40).

Pure rules over single events; every store applies these and no others, so that they agree.
"""

from __future__ import annotations

from typing import NamedTuple

from negd.nostr.event import Event, is_lower_hex
from negd.nostr.kinds import DELETION, is_addressable, is_replaceable


class Address(NamedTuple):
    """What a replaceable or addressable event occupies: at most one event is kept at each."""

    kind: int
    pubkey: str
    identifier: str
    """The first ``d`` tag's value for addressable kinds, else empty."""

    @property
    def key(self) -> bytes:
        """The same in bytes: kind (2), author (32), identifier."""
        return self.kind.to_bytes(2, "big") + bytes.fromhex(self.pubkey) + self.identifier.encode()


class Deletions(NamedTuple):
    """What one deletion event asks for, its author's own things only where that can be told.

    ``ids`` may name other authors' events: only the event itself tells, so compare its author
    with :attr:`Event.pubkey` of the deletion.
    """

    ids: frozenset[bytes]
    addresses: frozenset[Address]


NO_DELETIONS = Deletions(frozenset(), frozenset())


def address_of(event: Event) -> Address | None:
    """The address an event occupies; None for a regular or ephemeral kind."""
    if is_replaceable(event.kind):
        return Address(event.kind, event.pubkey, "")
    if is_addressable(event.kind):
        return Address(event.kind, event.pubkey, event.tag_value("d") or "")
    return None


def replaces(newcomer: bytes, holder: bytes) -> bool:
    """Whether a newcomer takes the address: later, or as late with the lower id (NIP-01).

    :param newcomer, holder: the records of the two.
    """
    if newcomer[:8] != holder[:8]:
        return newcomer > holder
    return newcomer < holder


def expiration_of(event: Event) -> int | None:
    """The Unix second from which the event is expired; None without a readable tag (NIP-40)."""
    text = event.tag_value("expiration")
    if text is None or not (text.isascii() and text.isdigit()) or len(text) > 19:
        return None
    return int(text)


def is_expired(event: Event, now: float) -> bool:
    """Whether the event's expiration has come (NIP-40)."""
    expiration = expiration_of(event)
    return expiration is not None and expiration <= now


def deletions_of(event: Event) -> Deletions:
    """What a kind-5 event asks to delete; nothing for other kinds (NIP-09).

    Addresses of other authors are left out.  An address covers versions up to the deletion's
    own ``created_at``.
    """
    if event.kind != DELETION:
        return NO_DELETIONS
    ids: set[bytes] = set()
    addresses: set[Address] = set()
    for tag in event.tags:
        if len(tag) < 2:
            continue
        if tag[0] == "e" and len(tag[1]) == 64 and is_lower_hex(tag[1]):
            ids.add(bytes.fromhex(tag[1]))
        elif tag[0] == "a" and (address := _parse_address(tag[1])) is not None:
            if address.pubkey == event.pubkey:
                addresses.add(address)
    return Deletions(frozenset(ids), frozenset(addresses))


def _parse_address(text: str) -> Address | None:
    """``kind:pubkey:identifier`` as an address; None where it is not one."""
    kind, _, rest = text.partition(":")
    pubkey, _, identifier = rest.partition(":")
    if not (kind.isascii() and kind.isdigit() and len(kind) <= 5 and len(pubkey) == 64):
        return None
    number = int(kind)
    if is_replaceable(number):
        return Address(number, pubkey, "")
    return Address(number, pubkey, identifier) if is_addressable(number) else None
