"""``negctl verify``: read a whole store, say whether it is sound, and mend it where it is not."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from negd.cli.arguments import add_store
from negd.cli.meter import meter
from negd.cli.output import complain, count

if TYPE_CHECKING:
    from negd.errors import DamagedStore
    from negd.interfaces import IStorage, VerifyReport

NAMED = 100
"""Problems that are printed; further ones are counted."""


def add_to(commands: Any, remote: argparse.ArgumentParser) -> None:
    """Declare the command."""
    parser = commands.add_parser(
        "verify", help="check every event of a store, and that its indexes agree"
    )
    add_store(parser)
    parser.add_argument(
        "--repair",
        action="store_true",
        help="make the indexes agree with the events, remove what is no valid event, "
        "and save what is left of a damaged store",
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Check, and print the problems; any problem that is there at the end makes a failure."""
    from negd.cli.stores import run_on_store

    async def work(reactor: Any, storage: IStorage) -> int:
        report = await _look(storage, args.repair)
        for problem in report.problems[:NAMED]:
            print(problem)
        if report.problems and args.repair:
            print(f"found {count(len(report.problems), 'problem')}, repaired {report.repaired:,}")
            _tell(report.notes)
            report = await _look(storage, repair=False)
        if report.problems:
            found = count(len(report.problems), "problem")
            complain(f"{found} in {count(report.events, 'event')} of {args.store}")
            return 1
        print(f"verified {count(report.events, 'event')}: sound")
        return 0

    async def mend(reactor: Any, error: DamagedStore) -> None:
        print(error.text)
        _tell(await _salvage(args.store, reactor))

    return run_on_store(
        args.store,
        work,
        read_only=not args.repair,
        missing_ok=False,
        mend=mend if args.repair else None,
    )


def _tell(notes: list[str]) -> None:
    for line in notes:
        print(line)


async def _salvage(store: str, reactor: Any) -> list[str]:
    from negd.storage import salvage_store

    shown = meter("salvage", "copies of events")
    try:
        return await salvage_store(store, reactor, shown.show)
    finally:
        shown.close()


async def _look(storage: IStorage, repair: bool) -> VerifyReport:
    shown = meter("repair" if repair else "verify", "events")
    try:
        report: VerifyReport = await storage.events.verify(shown.show, repair)
        return report
    finally:
        shown.close()
