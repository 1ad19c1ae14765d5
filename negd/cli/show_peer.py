"""``negctl peers show``: all about one peer."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from negd.cli.arguments import add_json, add_relay
from negd.cli.output import ago, count, due, fields, interval, plain, table
from negd.cli.remote import connect
from negd.cli.residues import FAULTS, MEANINGS

if TYPE_CHECKING:
    from negd.interfaces import LedgerEntry, PeerDescription, PeerProfile, PeerState, Residue
    from negd.nostr.document import RelayDocument

_DIRECTIONS = {"up": "up only", "down": "down only", "both": "up and down"}
_LONGEST_FILTER = 300
MOST_ENTRIES = 1000
"""What the service tells of each reason, however many are asked for: its own constant is not to be
had without gRPC."""

_HEAD = ("RETRY", "TRIES", "EVENT", "WHAT WAS SAID")


def add_to(actions: Any, remote: argparse.ArgumentParser) -> None:
    """Declare the command."""
    parser = actions.add_parser(
        "show", parents=[remote], help="show a peer's terms and state, and what stays different"
    )
    add_relay(parser, "a listed relay, as wss://relay.example or relay.example")
    parser.add_argument(
        "--entries",
        metavar="N",
        type=_number,
        default=3,
        help=f"events to name of each kind of difference (default: 3; {MOST_ENTRIES:,} at most)",
    )
    add_json(parser)
    parser.set_defaults(run=run)


def _number(text: str) -> int:
    if not (text.isascii() and text.isdigit()):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of events")
    if int(text) > MOST_ENTRIES:
        raise argparse.ArgumentTypeError(f"{text} is more than {MOST_ENTRIES:,}")
    return int(text)


def run(args: argparse.Namespace) -> int:
    """Ask and print."""
    with connect(args) as client:
        peer = client.show_peer(args.url, args.entries)
    print(json.dumps(_as_json(peer)) if args.json else _as_text(peer, time.time()))
    return 0


# --- for people ---------------------------------------------------------------------------------


def _as_text(peer: PeerDescription, now: float) -> str:
    listed = "is listed" if peer.listed else "is not listed, only being synced"
    link = "a link to it is open" if peer.linked else "no link to it is kept open"
    if peer.elsewhere:
        link = "another node on this store syncs it"
    state, profile = peer.state, peer.state.profile
    about = fields(list(_terms(peer)), list(_state(state, now)), list(_profile(profile, now)))
    total = sum(peer.residues.values())
    noted = f"{count(total, 'difference')} noted{', left alone until due' if total else ''}"
    most_first = sorted(peer.residues.items(), key=lambda one: (-one[1], one[0].value))
    reasons = [_residue(peer, residue, number, now) for residue, number in most_first]
    return "\n\n".join([f"{peer.url} {listed}; {link}", about, noted, *reasons])


def _terms(peer: PeerDescription) -> Iterator[tuple[str, str]]:
    wanted = plain(peer.wanted.encode().decode())
    if len(wanted) > _LONGEST_FILTER:
        wanted = f"{wanted[:_LONGEST_FILTER]}... (--json has all of it)"
    yield "direction", _DIRECTIONS[peer.direction.value]
    yield "filter", "everything" if peer.wanted.is_everything else wanted
    yield "interval", interval(peer.interval)
    if peer.tail_refused:
        yield "tail", f"ended by the peer, begins again later: {plain(peer.tail_refused)}"
    else:
        yield "tail", "on: new events move as they come" if peer.tail else "off"
    if peer.proxy:
        yield "proxy", plain(peer.proxy)
    if peer.compression:
        yield "compression", "offered"
    if peer.max_rate or peer.max_events:
        bounds = {"bytes a second": peer.max_rate, "events a sync": peer.max_events}
        yield "budget", ", ".join(f"{most:,} {what}" for what, most in bounds.items() if most)


def _state(state: PeerState, now: float) -> Iterator[tuple[str, str]]:
    error = plain(state.last_error)
    yield "status", state.status.value + (f": {error}" if error else "")
    if state.consecutive_failures:
        again = due(state.next_sync, now) or "soon"
        yield "failures", f"{state.consecutive_failures:,} in a row, tried again {again}"
    yield "last sync", ago(state.last_sync, now)
    yield "events", f"{state.events_synced:,} moved"


def _profile(profile: PeerProfile, now: float) -> Iterator[tuple[str, str]]:
    if profile.nip77 is None:
        yield "NIP-77", "not known yet"
    elif profile.nip77:
        yield "NIP-77", f"yes, as found {ago(profile.found_at, now)}"
    else:
        found = f"no, as found {ago(profile.found_at, now)}: {plain(profile.refusal)}"
        yield "NIP-77", f"{found} (synced by pages)"
    if profile.max_records is not None:
        yield "largest set", count(profile.max_records, "record")
    if profile.ids_per_request is not None:
        yield "per REQ", count(profile.ids_per_request, "event")
    if profile.requests_in_flight is not None:
        yield "at a time", count(profile.requests_in_flight, "REQ")
    if profile.frame_limit is not None:
        yield "frames", f"up to {profile.frame_limit:,} bytes"
    if profile.document is not None:
        yield from _document(profile.document)
    if profile.faults:
        yield (
            "faults",
            ", ".join(f"{n:,} {FAULTS[word]}" for word, n in sorted(profile.faults.items())),
        )


def _document(document: RelayDocument) -> Iterator[tuple[str, str]]:
    """What the peer says of itself."""
    software = plain(f"{document.software} {document.version}")
    if software:
        yield "software", software
    bounds = {
        "bytes a message": document.max_message_length,
        "subscriptions": document.max_subscriptions,
        "events a filter": document.max_limit,
    }
    said = [f"{most:,} {what}" for what, most in bounds.items() if most is not None]
    if said:
        yield "says it takes", ", ".join(said)
    wishes = {"AUTH": document.auth_required, "payment": document.payment_required}
    if any(wishes.values()):
        yield "says it wants", ", ".join(what for what, wanted in wishes.items() if wanted)


def _residue(peer: PeerDescription, residue: Residue, number: int, now: float) -> str:
    """Differences of one reason, and some of them."""
    title = f"{number:,} {MEANINGS[residue.value]}"
    entries = {i: entry for i, entry in peer.entries.items() if entry.residue is residue}
    if not entries:
        return title
    lines = table(_HEAD, [_entry(i, entry, now) for i, entry in entries.items()], ("TRIES",))
    more = number - len(entries)
    shown = [*lines.splitlines(), *([f"and {more:,} more"] if more > 0 else [])]
    return "\n".join([title, *(f"  {line}" for line in shown)])


def _entry(event_id: bytes, entry: LedgerEntry, now: float) -> tuple[str, ...]:
    retry = due(entry.retry_at, now) or "next sync"
    text = f"{entry.text} ({entry.lost_to})" if entry.lost_to else entry.text
    return retry, f"{entry.tries:,}", event_id.hex(), plain(text)


# --- for scripts --------------------------------------------------------------------------------


def _as_json(peer: PeerDescription) -> dict[str, object]:
    from msgspec import to_builtins

    return {
        "url": peer.url,
        "listed": peer.listed,
        "direction": peer.direction.value,
        "filter": peer.wanted.to_json(),
        "interval": peer.interval,
        "tail": peer.tail,
        "tail_refused": peer.tail_refused,
        "proxy": peer.proxy,
        "compression": peer.compression,
        "max_rate": peer.max_rate,
        "max_events": peer.max_events,
        "linked": peer.linked,
        "elsewhere": peer.elsewhere,
        "state": to_builtins(peer.state),
        "residues": {residue.value: number for residue, number in peer.residues.items()},
        "entries": [
            {"id": event_id.hex(), **to_builtins(entry)} for event_id, entry in peer.entries.items()
        ],
    }
