"""A daemon killed in mid-sync goes on from where it was."""

from __future__ import annotations

import os
import time

import pytest

from negd.control.client import ControlClient
from negd.errors import NegdError
from negd.testing.processes import DaemonProcess
from tests.integration.conftest import MakeDaemon, ids_of, lasting_events

COUNT = int(os.environ.get("NEGD_RESUME_EVENTS", "100000"))
"""Events of both sides together; with all of them it takes the better part of a minute."""


def ids_once_stored(daemon: DaemonProcess) -> set[str]:
    """What a running daemon holds when all that had reached it before is stored."""
    found, earlier = ids_of(daemon), set[str]()
    while daemon.metric("negd_intake_backlog") or found != earlier:
        time.sleep(0.5)
        found, earlier = ids_of(daemon), found
    return found


@pytest.mark.slow
def test_killed_in_mid_sync_it_moves_only_what_is_missing(make_daemon: MakeDaemon) -> None:
    events = lasting_events(COUNT)
    half, everything = len(events) // 2, {event.id for event in events}
    one, other = make_daemon("one", events[:half]), make_daemon("other", events[half:])
    one.start()
    other.start()
    with ControlClient(one.control) as client, pytest.raises(NegdError):
        for progress in client.sync(other.url):
            if progress.fetched and progress.sent:
                one.kill()
    here, there = ids_of(one), ids_once_stored(other)
    assert half < len(here) < len(everything) and len(events) - half < len(there)

    one.start()
    with ControlClient(one.control) as client:
        (*_, done) = client.sync(other.url)
    assert done.complete
    assert done.need == done.fetched == len(everything - here)
    assert done.have == done.sent == len(everything - there)
    assert ids_of(one) == ids_of(other) == everything
