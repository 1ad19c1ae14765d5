"""negd's values survive the way through its own messages, every field of them."""

from __future__ import annotations

from dataclasses import fields, replace

import pytest
from msgspec import ValidationError

from negd.control.gen.negd.control.v1 import service_pb2 as proto
from negd.control.values import (
    peer_from_proto,
    peer_to_proto,
    progress_from_proto,
    progress_to_proto,
)
from negd.interfaces import (
    Direction,
    Fault,
    LedgerEntry,
    PeerDescription,
    PeerProfile,
    PeerState,
    PeerStatus,
    Residue,
    SyncProgress,
)
from negd.nostr.document import RelayDocument
from negd.nostr.filter import EVERYTHING, Filter

DOCUMENT = RelayDocument("strfry", "1.0", (1, 77), 5, 6, 7, True, True)
PROFILE = PeerProfile(
    nip77=False,
    found_at=5.5,
    refusal="unknown cmd",
    max_records=0,
    ids_per_request=20,
    document=DOCUMENT,
    described_at=6.5,
    requests_in_flight=3,
    frame_limit=4096,
    faults={fault.value: n + 1 for n, fault in enumerate(Fault)},
)
STATE = PeerState(1, 2, PeerStatus.ERROR, "no answer", 3, 4.25, PROFILE, True)
ENTRIES = {
    bytes([n]) * 32: LedgerEntry(residue, f"no: \u2028 {n}", n + 1, 7.5 + n, "0a" * n)
    for n, residue in enumerate(Residue)
}
PEER = PeerDescription(
    url="wss://peer.example",
    listed=True,
    direction=Direction.DOWN,
    wanted=Filter.build(kinds=[1], tags={"t": ["ç"]}, limit=0),
    interval=0.5,
    tail=True,
    linked=True,
    elsewhere=True,
    tail_refused="blocked: no",
    state=STATE,
    residues=dict.fromkeys(Residue, 2**40),
    entries=ENTRIES,
    proxy="socks5://127.0.0.1:9050",
    compression=True,
    max_rate=2**40,
    max_events=7,
)


def names(value: type) -> set[str]:
    return {field.name for field in fields(value)}


@pytest.mark.parametrize(
    ("message", "value", "differing"),
    [
        (proto.SyncProgress, SyncProgress, {"error"}),
        (proto.PeerProfile, PeerProfile, set()),
        (proto.RelayDocument, RelayDocument, set()),
        (proto.PeerState, PeerState, set()),
        (proto.LedgerEntry, LedgerEntry, {"id"}),
        (proto.Peer, PeerDescription, {"filter", "wanted"}),
    ],
)
def test_messages_have_the_fields_of_the_values(
    message: type, value: type, differing: set[str]
) -> None:
    """A field that a value gains is to be told: add it to the proto."""
    told = set(message.DESCRIPTOR.fields_by_name)  # type: ignore[attr-defined]
    assert told ^ names(value) == differing


@pytest.mark.parametrize(
    "peer",
    [
        PEER,
        replace(PEER, state=PeerState(), residues={}, entries={}, wanted=EVERYTHING, listed=False),
        replace(PEER, wanted=Filter(ids=())),
        *(replace(PEER, direction=direction) for direction in Direction),
        *(replace(PEER, state=replace(STATE, status=status)) for status in PeerStatus),
        *(
            replace(PEER, state=replace(STATE, profile=replace(PROFILE, nip77=nip77)))
            for nip77 in (True, None)
        ),
        replace(PEER, state=replace(STATE, profile=PeerProfile(document=RelayDocument()))),
    ],
)
def test_all_about_a_peer_arrives(peer: PeerDescription) -> None:
    sent = proto.Peer.FromString(peer_to_proto(peer).SerializeToString())
    assert peer_from_proto(sent) == peer
    assert list(peer_from_proto(sent).entries) == list(peer.entries)


def test_all_of_a_progress_arrives() -> None:
    counts = names(SyncProgress) - {"peer", "complete", "reasons"}
    progress = SyncProgress("wss://peer.example", reasons={"blocked: no": 7}, complete=True)
    progress = progress.plus(**{name: n + 1 for n, name in enumerate(sorted(counts))})
    sent = proto.SyncProgress.FromString(progress_to_proto(progress, "oh").SerializeToString())
    assert sent.error == "oh"
    assert progress_from_proto(sent) == progress


def test_a_word_of_a_later_release_is_not_guessed_at() -> None:
    for change in (
        proto.Peer(direction="sideways"),
        proto.Peer(residues={"forgotten": 1}),
        proto.Peer(state=proto.PeerState(status="asleep")),
        proto.Peer(entries=[proto.LedgerEntry(residue="forgotten")]),
    ):
        sent = peer_to_proto(PEER)
        sent.MergeFrom(change)
        with pytest.raises((ValueError, ValidationError)):
            peer_from_proto(sent)
