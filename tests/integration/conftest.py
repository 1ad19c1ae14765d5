"""Real daemons for the tests, each in a folder of its own, stopped with the test."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from negd.nostr.event import Event
from negd.nostr.kinds import DELETION, is_addressable, is_ephemeral, is_replaceable
from negd.testing.events import sample_events
from negd.testing.processes import DaemonProcess
from negd.testing.stores import fill, lines_in
from tests.storage.conftest import reactor, server

__all__ = ["held_by", "ids_of", "lasting_events", "make_daemon", "reactor", "server"]

MakeDaemon = Callable[..., DaemonProcess]


@pytest.fixture
def make_daemon(tmp_path: Path) -> Iterator[MakeDaemon]:
    """Makes a daemon, not started yet: its name, the events in its store, more for its options.

    What the daemons logged is shown where the test fails.
    """
    made: list[DaemonProcess] = []
    with ExitStack() as stack:

        def make(name: str = "negd", events: Iterable[Event] = (), **more: Any) -> DaemonProcess:
            daemon = DaemonProcess(tmp_path / name, **more)
            daemon.folder.mkdir(exist_ok=True)
            if events:
                fill(_store_of(daemon), events)
            stack.callback(daemon.end)
            made.append(daemon)
            return daemon

        yield make
    for daemon in made:
        if daemon.log.exists():
            print(f"--- log of {daemon.folder.name}\n{daemon.log.read_text()[-20_000:]}")


def _store_of(daemon: DaemonProcess) -> str:
    """Its store string, as one says it outside of its folder."""
    kind, _, path = daemon.store.partition(":")
    return f"{kind}:{daemon.folder / path}" if kind == "lmdb" else daemon.store


def held_by(daemon: DaemonProcess) -> set[str]:
    """The JSON of every event in its store."""
    return lines_in(_store_of(daemon))


@cache
def lasting_events(count: int) -> list[Event]:
    """Those of ``count`` sample events that neither replace nor delete another, and are kept."""

    def lasts(kind: int) -> bool:
        return not (
            is_replaceable(kind) or is_addressable(kind) or is_ephemeral(kind) or kind == DELETION
        )

    return [event for event in sample_events(count) if lasts(event.kind)]


def ids_of(daemon: DaemonProcess) -> set[str]:
    """The ids of what its store holds."""
    return {json.loads(line)["id"] for line in held_by(daemon)}
