"""``negctl compact``: give the room that a store does not use back to the system."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from negd.cli.arguments import add_store
from negd.cli.meter import meter

if TYPE_CHECKING:
    from negd.interfaces import IStorage


def add_to(commands: Any, remote: argparse.ArgumentParser) -> None:
    """Declare the command."""
    parser = commands.add_parser("compact", help="give room that a store does not use back")
    add_store(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Compact, and say what it brought."""
    from negd.cli.stores import run_on_store

    async def work(reactor: Any, storage: IStorage) -> int:
        shown = meter("compact", "events")
        try:
            report = await storage.events.compact(shown.show)
        finally:
            shown.close()
        if report.after < report.before:
            print(f"compacted {args.store}: {report.before:,} bytes before, {report.after:,} now")
        else:
            print(f"{args.store} has nothing to give back")
        return 0

    return run_on_store(args.store, work, read_only=False, missing_ok=False)
