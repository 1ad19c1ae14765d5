"""Real daemons for the tests, each in a folder of its own, stopped with the test."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from negd.nostr.event import Event
from negd.nostr.kinds import DELETION, is_addressable, is_ephemeral, is_replaceable
from negd.testing.events import sample_events
from negd.testing.processes import DaemonProcess

MakeDaemon = Callable[..., DaemonProcess]


@pytest.fixture
def make_daemon(tmp_path: Path) -> Iterator[MakeDaemon]:
    """Makes a daemon, not started yet: its name, the events in its store, more for its options."""
    with ExitStack() as stack:

        def make(name: str = "negd", events: Iterable[Event] = (), **more: Any) -> DaemonProcess:
            daemon = DaemonProcess(tmp_path / name, **more)
            if events:
                daemon.hold(events)
            stack.push(daemon)
            return daemon

        yield make


def lasting_events(count: int) -> list[Event]:
    """Those of ``count`` sample events that neither replace nor delete another, and are kept."""

    def lasts(kind: int) -> bool:
        return not (
            is_replaceable(kind) or is_addressable(kind) or is_ephemeral(kind) or kind == DELETION
        )

    return [event for event in sample_events(count) if lasts(event.kind)]


def ids_of(daemon: DaemonProcess) -> set[str]:
    """The ids of what its store holds."""
    return {json.loads(line)["id"] for line in daemon.export()}
