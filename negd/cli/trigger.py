"""``negctl trigger``: start syncs and come back."""

from __future__ import annotations

import argparse
from typing import Any

from negd.cli.arguments import add_filter, add_relay, wanted
from negd.cli.remote import connect


def add_to(commands: Any, remote: argparse.ArgumentParser) -> None:
    """Declare the command."""
    parser = commands.add_parser(
        "trigger", parents=[remote], help="start a sync with a listed peer, or with all"
    )
    add_relay(parser, "a listed peer (default: all)", nargs="?")
    add_filter(parser, "this run")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Start it."""
    with connect(args) as client:
        client.trigger(args.url, wanted(args))
    print(f"started a sync with {args.url or 'every peer'}")
    return 0
