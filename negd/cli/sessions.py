"""``negctl sessions``: the reconciliations that clients hold open with the daemon."""

from __future__ import annotations

import argparse
import json
import time
from typing import TYPE_CHECKING, Any

from negd.cli.arguments import add_json
from negd.cli.output import span, table
from negd.cli.remote import connect

if TYPE_CHECKING:
    from negd.interfaces import SessionInfo

_HEAD = ("ID", "CONNECTION", "AGE", "IDLE", "ROUNDS")
_NUMBERS = ("AGE", "IDLE", "ROUNDS")


def add_to(commands: Any, remote: argparse.ArgumentParser) -> None:
    """Declare the commands."""
    parser = commands.add_parser("sessions", help="list or close clients' sessions")
    actions = parser.add_subparsers(title="actions", metavar="ACTION", required=True)
    listing = actions.add_parser("list", parents=[remote], help="show the live sessions")
    add_json(listing)
    listing.set_defaults(run=list_sessions)
    closing = actions.add_parser("close", parents=[remote], help="end a session")
    closing.add_argument("id", metavar="ID", help="the subscription id")
    closing.add_argument(
        "--connection", metavar="C", default="", help="of this connection only (default: of all)"
    )
    closing.set_defaults(run=close_session)


def list_sessions(args: argparse.Namespace) -> int:
    """Print them, oldest first."""
    with connect(args) as client:
        sessions = client.sessions()
    if args.json:
        print(json.dumps([_as_json(session) for session in sessions]))
    elif sessions:
        now = time.time()
        print(table(_HEAD, [_row(session, now) for session in sessions], _NUMBERS))
    else:
        print("no sessions")
    return 0


def _row(session: SessionInfo, now: float) -> tuple[str, ...]:
    return (
        session.subscription,
        session.connection,
        span(now - session.created_at),
        span(now - session.last_activity),
        f"{session.rounds:,}",
    )


def _as_json(session: SessionInfo) -> dict[str, object]:
    return {
        "subscription_id": session.subscription,
        "connection_id": session.connection,
        "created_at": session.created_at,
        "last_activity": session.last_activity,
        "rounds": session.rounds,
    }


def close_session(args: argparse.Namespace) -> int:
    """End a session."""
    with connect(args) as client:
        # The service does not tell: closing an unknown session is no error.
        known = any(
            live.subscription == args.id and args.connection in ("", live.connection)
            for live in client.sessions()
        )
        client.close_session(args.id, args.connection)
    print(f"{'not open any more' if known else 'was not open'}: {args.id}")
    return 0
