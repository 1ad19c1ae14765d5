"""Arguments that several commands take."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from negd.errors import ConfigError, NegdError

if TYPE_CHECKING:
    from negd.nostr.filter import Filter


def add_filter(parser: argparse.ArgumentParser, meaning: str) -> None:
    """``--filter JSON``."""
    parser.add_argument(
        "--filter",
        metavar="JSON",
        type=_filter,
        help=f"a NIP-01 filter that limits {meaning} (default: everything)",
    )


def add_store(parser: argparse.ArgumentParser) -> None:
    """``--store STORE``."""
    parser.add_argument(
        "--store",
        metavar="STORE",
        required=True,
        help="the store, as lmdb:/var/lib/negd; twistd -n negd --help-stores lists the kinds",
    )


def add_relay(parser: argparse.ArgumentParser, meaning: str, **more: Any) -> None:
    """``URL``, which is in its canonical form from then on."""
    parser.add_argument("url", metavar="URL", type=_relay, help=meaning, **more)


def add_json(parser: argparse.ArgumentParser) -> None:
    """``--json``."""
    parser.add_argument("--json", action="store_true", help="print JSON, for scripts")


def seconds(text: str) -> int:
    """A Unix time.

    :raises argparse.ArgumentTypeError: it is none.
    """
    if not (text.isascii() and text.isdigit()) or int(text) >= 2**63:
        raise argparse.ArgumentTypeError(f"{text!r} is not a Unix time in seconds")
    return int(text)


def wanted(args: argparse.Namespace) -> Filter:
    """The filter that was given, or the one that matches everything."""
    from negd.nostr.filter import EVERYTHING

    given: Filter | None = args.filter
    return EVERYTHING if given is None else given


def _relay(text: str) -> str:
    from negd.peers.urls import canonical

    try:
        return canonical(text)
    except ConfigError as error:
        raise argparse.ArgumentTypeError(
            f"{error.text}; a bare host is taken as wss://HOST"
        ) from None


def _filter(text: str) -> Filter:
    from negd.nostr.filter import decode

    try:
        return decode(text)
    except NegdError as error:
        raise argparse.ArgumentTypeError(error.text) from None
