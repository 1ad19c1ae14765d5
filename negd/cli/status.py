"""``negctl status``: the daemon and its peers at a glance."""

from __future__ import annotations

import argparse
import json
import time
from typing import TYPE_CHECKING, Any

from negd.cli.arguments import add_json
from negd.cli.output import ago, count, plain, table
from negd.cli.remote import connect

if TYPE_CHECKING:
    from negd.control.client import Status
    from negd.interfaces import PeerState

_HEAD = ("PEER", "STATUS", "LAST SYNC", "EVENTS", "FAILURES", "LAST ERROR")
_NUMBERS = ("EVENTS", "FAILURES")


def add_to(commands: Any, remote: argparse.ArgumentParser) -> None:
    """Declare the command."""
    parser = commands.add_parser(
        "status", parents=[remote], help="show how the daemon and its peers are"
    )
    add_json(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Ask and print."""
    with connect(args) as client:
        ready, status, sessions = client.ready(), client.status(), len(client.sessions())
    if args.json:
        print(json.dumps(_as_json(ready, status, sessions)))
    else:
        print(_as_text(str(client.address), ready, status, sessions, time.time()))
    return 0


def _as_text(address: str, ready: bool, status: Status, sessions: int, now: float) -> str:
    lines = [
        f"negd at {address} is {'ready' if ready else 'not ready'}; "
        f"background sync is {'on' if status.active else 'off'}",
        f"{count(status.listed, 'peer')}, {count(sessions, 'session')}, "
        f"last sync {ago(status.last_sync, now)}",
    ]
    if status.peers:
        rows = [_row(url, state, now) for url, state in status.peers.items()]
        lines += ["", table(_HEAD, rows, _NUMBERS)]
    return "\n".join(lines)


def _row(url: str, state: PeerState, now: float) -> tuple[str, ...]:
    return (
        url,
        state.status.value,
        ago(state.last_sync, now),
        f"{state.events_synced:,}",
        f"{state.consecutive_failures:,}",
        plain(state.last_error),
    )


def _as_json(ready: bool, status: Status, sessions: int) -> dict[str, object]:
    return {
        "ready": ready,
        "active": status.active,
        "last_sync": status.last_sync,
        "peer_count": status.listed,
        "session_count": sessions,
        "peers": [peer_as_json(url, state) for url, state in status.peers.items()],
    }


def peer_as_json(url: str, state: PeerState) -> dict[str, object]:
    """What is told of each peer, for scripts."""
    return {
        "url": url,
        "status": state.status.value,
        "last_sync": state.last_sync,
        "events_synced": state.events_synced,
        "consecutive_failures": state.consecutive_failures,
        "last_error": state.last_error,
    }
