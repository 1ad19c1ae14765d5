"""``negctl sync``: sync with one relay now, and watch it."""

from __future__ import annotations

import argparse
from contextlib import closing
from typing import TYPE_CHECKING, Any

from negd.cli.arguments import add_filter, add_relay, seconds, wanted
from negd.cli.meter import Meter, meter
from negd.cli.output import complain, count, plain
from negd.cli.remote import connect
from negd.cli.residues import MEANINGS
from negd.errors import NegdError

if TYPE_CHECKING:
    from negd.interfaces import SyncProgress


def add_to(commands: Any, remote: argparse.ArgumentParser) -> None:
    """Declare the command."""
    parser = commands.add_parser(
        "sync", parents=[remote], help="sync with a relay, listed or not, and show how it goes"
    )
    add_relay(parser, "a relay, as wss://relay.example or relay.example")
    add_filter(parser, "this run")
    parser.add_argument(
        "--since", metavar="T", type=seconds, help="only events from this Unix time on"
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Sync to the end; an interrupt cancels the sync."""
    last: SyncProgress | None = None
    failure: NegdError | None = None
    with connect(args) as client:
        shown = meter(args.url, "events")
        try:
            with closing(client.sync(args.url, wanted(args), args.since)) as progress:
                for last in progress:
                    _show(shown, last)
        except NegdError as error:
            failure = error
        finally:
            shown.close()
    if failure is not None:
        complain(f"sync with {args.url} failed: {failure.text}{_so_far(last)}")
        return 1
    if last is not None:
        print(f"synced with {args.url} in {count(last.round, 'round')}: {_moved(last)}")
        for number, text in _left(last, args.url):
            print(f"{number:>9,} {text}")
        for said, number in sorted(last.reasons.items(), key=lambda one: (-one[1], one[0])):
            print(f"{number:>9,} x {plain(said)}")
    return 0


def _show(shown: Meter, progress: SyncProgress) -> None:
    found = progress.have + progress.need
    done = progress.fetched + progress.sent + _explained(progress)
    note = (
        f"round {progress.round}, down {progress.fetched:,}/{progress.need:,}, "
        f"up {progress.sent:,}/{progress.have:,}"
    )
    shown.show(done, max(done, found), note)


def _moved(progress: SyncProgress) -> str:
    return (
        f"fetched {progress.fetched:,} of {progress.need:,}, "
        f"sent {progress.sent:,} of {progress.have:,}"
    )


def _explained(progress: SyncProgress) -> int:
    """Differences that the sync came to, and that stay."""
    in_vain = progress.refused + progress.rejected + progress.unfetchable
    return in_vain + progress.explained + progress.gone


def _left(progress: SyncProgress, url: str) -> list[tuple[int, str]]:
    """How many events did not move, and why."""
    moved = progress.fetched + progress.sent
    others = progress.have + progress.need - moved - _explained(progress)
    left = [
        (progress.already, "of those fetched were here already"),
        (progress.refused, MEANINGS["ours-rejected"]),
        (progress.unfetchable, MEANINGS["unfetchable"]),
        (progress.rejected, MEANINGS["theirs-rejected"]),
        (progress.explained, f"left alone for now, tried in vain before: negctl peers show {url}"),
        (progress.gone, "replaced or deleted here before their turn came"),
        (others, "more, against the peer's direction or for a reason the daemon does not tell"),
    ]
    return [(number, text) for number, text in left if number > 0]


def _so_far(progress: SyncProgress | None) -> str:
    return "" if progress is None else f" ({_moved(progress)} until then)"
