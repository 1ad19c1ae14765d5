"""The command line of negctl."""

from __future__ import annotations

import argparse
import gc
import os
import sys
from collections.abc import Sequence
from typing import NoReturn

from negd import __version__
from negd.cli import (
    compact_store,
    export_events,
    import_events,
    peers,
    sessions,
    status,
    sync,
    trigger,
    verify_store,
)
from negd.cli.output import complain
from negd.errors import ConfigError, NegdError

COMMANDS = (
    status,
    peers,
    sync,
    trigger,
    sessions,
    import_events,
    export_events,
    verify_store,
    compact_store,
)

DEFAULT_CONTROL = "127.0.0.1:50064"

_THRESHOLD = 50_000
"""Objects made, and not gone, after which garbage is looked for. Nearly all that a command makes
by then it has imported, and keeps: Python's 700 cost a start a seventh of its time."""

_STDERR = 2

MISUSE = 2
"""What argparse ends with, too."""

INTERRUPTED = 130
"""What a shell makes of SIGINT: 128 and the signal's number."""


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one line."""

    def error(self, message: str) -> NoReturn:
        complain(f"{message} (see {self.prog} --help)")
        self.exit(MISUSE)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; its exit status: 0 for success only, 1 for a failure, 2 for misuse.

    :param argv: the arguments; None takes those of the process.
    :raises SystemExit: for ``--help``, ``--version`` and misuse.
    """
    gc.set_threshold(_THRESHOLD)
    _fill_closed_descriptors()
    if sys.stdout is None:
        complain("standard output is closed")
        return 1
    args = make_parser(os.environ.get("NEGD_CONTROL") or DEFAULT_CONTROL).parse_args(argv)
    try:
        code: int = args.run(args)
        sys.stdout.flush()
    except ConfigError as error:  # what the arguments say; the daemon's refusals are others
        complain(error.text)
        return MISUSE
    except NegdError as error:
        complain(error.text)
    except KeyboardInterrupt:
        complain("interrupted")
        return INTERRUPTED
    except OSError as error:
        if error.filename or not isinstance(error, BrokenPipeError):
            complain(f"{error.filename or 'cannot go on'}: {error.strerror or error}")
    except Exception as error:
        complain(f"internal error: {error!r}")
    else:
        return code
    finally:
        _forget_output()
    return 1


def make_parser(control: str) -> argparse.ArgumentParser:
    """:param control: where the daemon is, unless an option says otherwise."""
    parser = _Parser(prog="negctl", description="Control a negd, or work on its event store.")
    parser.add_argument("--version", action="version", version=f"negctl {__version__}")
    where = "where the daemon listens: HOST:PORT or unix:PATH"
    parser.add_argument(
        "--control",
        metavar="ADDRESS",
        default=control,
        help=f"{where} (default: {control}; environment: NEGD_CONTROL)",
    )
    # The same option after the command, where it beats the one before it.
    remote = _Parser(add_help=False)
    remote.add_argument(
        "--control",
        metavar="ADDRESS",
        default=argparse.SUPPRESS,
        help=f"{where} (default: {control})",
    )
    commands = parser.add_subparsers(
        title="commands", metavar="COMMAND", required=True, parser_class=_Parser
    )
    for command in COMMANDS:
        command.add_to(commands, remote)
    return parser


def _fill_closed_descriptors() -> None:
    """Let no store be opened where standard streams belong: what is said would get into it."""
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= _STDERR:
        pass
    os.close(descriptor)
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w")  # noqa: SIM115


def _forget_output() -> None:
    """Keep the interpreter from complaining at exit of what cannot be written."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
