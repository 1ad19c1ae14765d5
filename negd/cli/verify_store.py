"""``negctl verify``: read a whole store and say whether it is sound."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from negd.cli.arguments import add_store
from negd.cli.meter import meter
from negd.cli.output import complain, count

if TYPE_CHECKING:
    from negd.interfaces import IStorage

NAMED = 100
"""Problems that are printed; further ones are counted."""


def add_to(commands: Any, remote: argparse.ArgumentParser) -> None:
    """Declare the command."""
    parser = commands.add_parser(
        "verify", help="check every event of a store, and that its indexes agree"
    )
    add_store(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Check, and print the problems; any problem makes a failure."""
    from negd.cli.stores import run_on_store

    async def work(reactor: Any, storage: IStorage) -> int:
        shown = meter("verify", "events")
        try:
            report = await storage.events.verify(shown.show)
        finally:
            shown.close()
        for problem in report.problems[:NAMED]:
            print(problem)
        if report.problems:
            found = count(len(report.problems), "problem")
            complain(f"{found} in {count(report.events, 'event')} of {args.store}")
            return 1
        print(f"verified {count(report.events, 'event')}: sound")
        return 0

    return run_on_store(args.store, work, read_only=True)
