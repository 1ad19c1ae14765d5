"""``negctl export``: a store's events as JSONL, newest first."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING, Any, BinaryIO

from negd.cli.arguments import add_filter, add_store, wanted
from negd.cli.meter import meter
from negd.cli.output import count

if TYPE_CHECKING:
    from collections.abc import Callable

    from negd.interfaces import IEventStore, IStorage
    from negd.nostr.filter import Filter

_PAGE = 500


def add_to(commands: Any, remote: argparse.ArgumentParser) -> None:
    """Declare the command."""
    parser = commands.add_parser(
        "export", help="print a store's events as JSON lines, newest first"
    )
    add_store(parser)
    add_filter(parser, "what is printed")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Print them."""
    from negd.cli.stores import run_on_store

    async def work(reactor: Any, storage: IStorage) -> int:
        shown = meter("export", "events")
        try:
            total = await storage.events.count(wanted(args))
            done = await export(
                storage.events, wanted(args), sys.stdout.buffer, lambda n: shown.show(n, total)
            )
        finally:
            shown.close()
        print(f"exported {count(done, 'event')}", file=sys.stderr)
        return 0

    return run_on_store(args.store, work, read_only=True)


async def export(
    store: IEventStore, wanted: Filter, out: BinaryIO, progress: Callable[[int], None]
) -> int:
    """Write what matches, newest first (ties: lower id first), and return how many that are.

    :raises OSError: it cannot be written.
    """
    from twisted.internet.threads import deferToThread

    done, after = 0, None
    while wanted.limit is None or done < wanted.limit:
        most = _PAGE if wanted.limit is None else min(_PAGE, wanted.limit - done)
        page = await store.query(wanted, after, most)
        await deferToThread(_write, out, page.events)
        done += len(page.events)
        progress(done)
        after = page.last
        if after is None:
            break
    return done


def _write(out: BinaryIO, events: list[bytes]) -> None:
    out.write(b"".join(event + b"\n" for event in events))
    out.flush()
