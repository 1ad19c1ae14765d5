"""``negctl peers``: the list of peers that the daemon keeps equal with."""

from __future__ import annotations

import argparse
import json
from typing import Any

from negd.cli.arguments import add_json
from negd.cli.remote import connect


def add_to(commands: Any, remote: argparse.ArgumentParser) -> None:
    """Declare the commands."""
    parser = commands.add_parser("peers", help="list, add or remove peers")
    actions = parser.add_subparsers(title="actions", metavar="ACTION", required=True)
    listing = actions.add_parser("list", parents=[remote], help="print the peers' URLs")
    add_json(listing)
    listing.set_defaults(run=list_peers)
    for name, run, help_text in (
        ("add", add_peer, "list a peer and start keeping equal with it"),
        ("remove", remove_peer, "stop what runs with a peer and forget it"),
    ):
        action = actions.add_parser(name, parents=[remote], help=help_text)
        action.add_argument("url", metavar="URL", help="a relay, as wss://relay.example")
        action.set_defaults(run=run)


def list_peers(args: argparse.Namespace) -> int:
    """Print the listed URLs, one a line."""
    with connect(args) as client:
        urls = client.peers()
    if args.json:
        print(json.dumps(urls))
    else:
        print("".join(f"{url}\n" for url in urls), end="")
    return 0


def add_peer(args: argparse.Namespace) -> int:
    """List a peer."""
    with connect(args) as client:
        client.add_peer(args.url)
    print(f"added {args.url}")
    return 0


def remove_peer(args: argparse.Namespace) -> int:
    """Forget a peer."""
    with connect(args) as client:
        client.remove_peer(args.url)
    print(f"removed {args.url}")
    return 0
