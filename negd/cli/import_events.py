"""``negctl import``: events from JSONL into a store, checked as from anywhere else."""

from __future__ import annotations

import argparse
import os
import stat
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from time import monotonic
from typing import TYPE_CHECKING, Any, BinaryIO

from negd.cli.arguments import add_store
from negd.cli.meter import meter
from negd.cli.output import complain, count
from negd.cli.rejects import Rejects
from negd.errors import NegdError

if TYPE_CHECKING:
    from negd.interfaces import IStorage


def add_to(commands: Any, remote: argparse.ArgumentParser) -> None:
    """Declare the command."""
    parser = commands.add_parser("import", help="store events from JSON lines")
    parser.add_argument("file", metavar="FILE", help="one event a line; - is standard input")
    add_store(parser)
    parser.add_argument(
        "--rejects", metavar="FILE", help="write number and fault of every bad line there"
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Import, and say what became of each event. Bad lines make a failure, duplicates do not."""
    from negd.cli.importing import Report, import_events
    from negd.cli.stores import run_on_store

    if args.store == "memory:":
        print("negctl: store memory: keeps nothing; the events are only checked", file=sys.stderr)
    name = "standard input" if args.file == "-" else args.file
    with _source(args.file) as file:
        if args.rejects is not None and _is_file_of(args.rejects, file):
            complain(f"--rejects {args.rejects} is the file that is to be imported")
            return 2

        async def work(reactor: Any, storage: IStorage) -> int:
            with _rejects(args.rejects) as rejects:
                shown = meter(f"import {name}", "B")
                report = Report(shown, rejects)
                began = monotonic()
                try:
                    await import_events(reactor, storage.events, file, report)
                finally:
                    shown.close()
                    print(report.text(name, monotonic() - began), flush=True)
                await _tell_what_is_held(args.store, storage)
                return 1 if report.bad else 0

        return run_on_store(args.store, work, read_only=False)


async def _tell_what_is_held(store: str, storage: IStorage) -> None:
    """Lines that were stored may be replaced or deleted by later ones: say what there is now."""
    if store != "memory:":
        held = (await storage.events.statistics()).events
        print(f"{store} holds {count(held, 'event')} now")


@contextmanager
def _source(name: str) -> Iterator[BinaryIO]:
    if name == "-":
        if sys.stdin is None:
            raise NegdError("standard input is closed")
        yield sys.stdin.buffer
    else:
        with open(name, "rb") as file:
            yield file


def _is_file_of(name: str, file: BinaryIO) -> bool:
    """Whether a plain file that is open has that name, among others."""
    opened = os.fstat(file.fileno())
    with suppress(OSError):  # what is the matter is told when it is opened
        return stat.S_ISREG(opened.st_mode) and os.path.samestat(opened, os.stat(name))
    return False


def _rejects(name: str | None) -> AbstractContextManager[Rejects | None]:
    return nullcontext() if name is None else Rejects(name)
