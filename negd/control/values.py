"""The values of negd.interfaces as messages of ``negd.control.v1``: fields have the same names."""

from __future__ import annotations

from collections.abc import MutableMapping, MutableSequence
from typing import Any

from google.protobuf.message import Message
from msgspec import convert, to_builtins

from negd.control.gen.negd.control.v1 import service_pb2 as proto
from negd.interfaces import (
    Direction,
    LedgerEntry,
    PeerDescription,
    PeerState,
    Residue,
    SyncProgress,
)
from negd.nostr import filter as filters


def progress_to_proto(progress: SyncProgress, error: str) -> proto.SyncProgress:
    """A sync's progress, with what went wrong or nothing."""
    return proto.SyncProgress(**to_builtins(progress), error=error)


def progress_from_proto(told: proto.SyncProgress) -> SyncProgress:
    """The progress without the error."""
    return convert(_fields(told), SyncProgress)


def peer_to_proto(peer: PeerDescription) -> proto.Peer:
    """All about a peer."""
    return proto.Peer(
        url=peer.url,
        listed=peer.listed,
        direction=peer.direction.value,
        filter=peer.wanted.encode().decode(),
        interval=peer.interval,
        tail=peer.tail,
        proxy=peer.proxy,
        compression=peer.compression,
        max_rate=peer.max_rate,
        max_events=peer.max_events,
        linked=peer.linked,
        elsewhere=peer.elsewhere,
        tail_refused=peer.tail_refused,
        state=to_builtins(peer.state),
        residues={residue.value: count for residue, count in peer.residues.items()},
        entries=[
            proto.LedgerEntry(id=event_id, **to_builtins(entry))
            for event_id, entry in peer.entries.items()
        ],
    )


def peer_from_proto(found: proto.Peer) -> PeerDescription:
    """All about a peer.

    :raises ValueError: a word that this release does not know.
    :raises msgspec.ValidationError: the same, in the state or the ledger.
    :raises negd.errors.RemoteError: the filter is none.
    """
    return PeerDescription(
        url=found.url,
        listed=found.listed,
        direction=Direction(found.direction),
        wanted=filters.decode(found.filter),
        interval=found.interval,
        tail=found.tail,
        proxy=found.proxy,
        compression=found.compression,
        max_rate=found.max_rate,
        max_events=found.max_events,
        linked=found.linked,
        elsewhere=found.elsewhere,
        tail_refused=found.tail_refused,
        state=convert(_fields(found.state), PeerState),
        residues={Residue(word): count for word, count in found.residues.items()},
        entries={entry.id: convert(_fields(entry), LedgerEntry) for entry in found.entries},
    )


def _fields(message: Message) -> dict[str, Any]:
    """A message's fields, and those of messages in it, by their names; an absent one is None."""
    fields: dict[str, Any] = {}
    for field in message.DESCRIPTOR.fields:
        absent = field.has_presence and not message.HasField(field.name)
        held = None if absent else getattr(message, field.name)
        if isinstance(held, Message):
            held = _fields(held)
        elif isinstance(held, MutableSequence):
            held = list(held)
        elif isinstance(held, MutableMapping):
            held = dict(held)
        fields[field.name] = held
    return fields
