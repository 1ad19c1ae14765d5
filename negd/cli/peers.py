"""``negctl peers``: the list of peers that the daemon keeps equal with."""

from __future__ import annotations

import argparse
import json
import time
from typing import Any

from negd.cli import show_peer
from negd.cli.arguments import add_json, add_relay
from negd.cli.output import ago, count, plain, table
from negd.cli.remote import connect
from negd.cli.status import peer_as_json


def add_to(commands: Any, remote: argparse.ArgumentParser) -> None:
    """Declare the commands."""
    parser = commands.add_parser(
        "peers", help="list, show, add or remove peers, or forget what stayed different"
    )
    actions = parser.add_subparsers(title="actions", metavar="ACTION", required=True)
    listing = actions.add_parser("list", parents=[remote], help="print the peers and their state")
    add_json(listing)
    listing.set_defaults(run=list_peers)
    show_peer.add_to(actions, remote)
    for name, run, help_text in (
        ("add", add_peer, "list a peer and start keeping equal with it"),
        ("remove", remove_peer, "stop what runs with a peer and forget it"),
        ("forget", forget_ledger, "have the next sync try again what stayed different"),
    ):
        action = actions.add_parser(name, parents=[remote], help=help_text)
        add_relay(action, "a relay, as wss://relay.example or relay.example")
        action.set_defaults(run=run)


def list_peers(args: argparse.Namespace) -> int:
    """Print the listed peers, one a line."""
    with connect(args) as client:
        listed, states = client.peers(), client.status().peers
    peers = {url: states[url] for url in listed if url in states}
    if args.json:
        print(json.dumps([peer_as_json(url, state) for url, state in peers.items()]))
    elif peers:
        now = time.time()
        rows = [
            (url, at.status.value, ago(at.last_sync, now), plain(at.last_error))
            for url, at in peers.items()
        ]
        print(table(("PEER", "STATUS", "LAST SYNC", "LAST ERROR"), rows))
    else:
        print("no peers")
    return 0


def add_peer(args: argparse.Namespace) -> int:
    """List a peer."""
    with connect(args) as client:
        # The service does not tell: adding a listed peer and removing an unknown one are no errors.
        known = args.url in client.peers()
        client.add_peer(args.url)
    print(f"already listed: {args.url}" if known else f"added {args.url}")
    return 0


def remove_peer(args: argparse.Namespace) -> int:
    """Forget a peer."""
    with connect(args) as client:
        known = args.url in client.peers()
        client.remove_peer(args.url)
    print(f"{'not listed any more' if known else 'was not listed'}: {args.url}")
    return 0


def forget_ledger(args: argparse.Namespace) -> int:
    """Empty a peer's ledger."""
    with connect(args) as client:
        forgotten = client.forget_ledger(args.url)
    again = ": the next sync tries them again" if forgotten else ""
    print(f"forgot {count(forgotten, 'difference')} with {args.url}{again}")
    return 0
