"""What tells a peer that an event of its own is out of date: the newer version, the deletion.

A reconciliation of everything finds these by itself; one with a filter may not, as the deletion of
an event does not match what the event matches.
"""

from __future__ import annotations

from collections.abc import Iterator

from negd.interfaces import IEventStore, Outcome
from negd.nostr.event import Event, decode
from negd.nostr.filter import Filter
from negd.nostr.kinds import DELETION
from negd.nostr.lifecycle import address_of, replaces

_MOST = 10
"""Events of ours looked at for each one of the peer's."""


async def rejoinders(store: IEventStore, event: Event, outcome: Outcome) -> list[bytes]:
    """Ids of our events because of which we refused one of a peer.

    :raises negd.errors.StorageError: they could not be read.
    """
    found = []
    for wanted in _causes(event, outcome):
        for text in (await store.query(wanted, page=_MOST)).events:
            ours = decode(text)
            if outcome is Outcome.DELETED or _supersedes(ours, event):
                found.append(ours.id_bytes)
    return found


def _supersedes(ours: Event, theirs: Event) -> bool:
    return address_of(ours) == address_of(theirs) and replaces(ours.record, theirs.record)


def _causes(event: Event, outcome: Outcome) -> Iterator[Filter]:
    """Where to look for what we hold against an event."""
    address, author = address_of(event), bytes.fromhex(event.pubkey)
    if outcome is Outcome.SUPERSEDED:
        tags = {"d": [address.identifier]} if address is not None and address.identifier else {}
        yield Filter.build(kinds=[event.kind], authors=[author], tags=tags)
    elif outcome is Outcome.DELETED:
        yield Filter.build(kinds=[DELETION], authors=[author], tags={"e": [event.id]})
        if address is not None:
            place = f"{address.kind}:{address.pubkey}:{address.identifier}"
            yield Filter.build(kinds=[DELETION], authors=[author], tags={"a": [place]})
