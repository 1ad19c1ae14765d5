"""``make demo``: two daemons on this machine, each with its part of some events, become equal.

Everything is real but the events: ``twistd negd`` twice as processes, their stores on disk, and
``negctl`` to drive them.  Nothing stays behind.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

from negd.nostr.event import Event
from negd.testing.events import sample_events
from negd.testing.processes import DaemonProcess

COUNT = 6000
"""Events signed: a third only alice gets, a third only bob, and a third both."""


def main() -> None:
    """Run the demo; exit status 1 where the two do not end equal."""
    with tempfile.TemporaryDirectory(prefix="negd-demo-") as folder:
        alice = DaemonProcess(Path(folder, "alice"))
        bob = DaemonProcess(Path(folder, "bob"))
        say(f"signing {COUNT} sample events")
        events = list(sample_events(COUNT))
        put("alice", alice, [event for number, event in enumerate(events) if number % 3 != 1])
        put("bob", bob, [event for number, event in enumerate(events) if number % 3 != 2])
        with alice, bob:
            say(f"alice serves on {alice.url}, bob on {bob.url}")
            sync(alice, bob)
            if not compare(alice, bob):
                sys.exit(1)
    say("both daemons stopped, their folders removed")


def put(name: str, daemon: DaemonProcess, events: list[Event]) -> None:
    """Import a part of the events."""
    daemon.hold(events)
    say(f"{name} is given {len(events)} events and keeps {len(daemon.export())} of them")


def sync(alice: DaemonProcess, bob: DaemonProcess) -> None:
    """Have alice sync with bob; ``negctl`` shows how it goes and what moved."""
    say(f"negctl --control {alice.control} sync {bob.url}")
    began = time.monotonic()
    if alice.negctl("sync", bob.url, shown=True).returncode:
        sys.exit(1)
    say(f"that took {time.monotonic() - began:.1f} s")


def compare(alice: DaemonProcess, bob: DaemonProcess) -> bool:
    """Export both; whether they hold the same events."""
    ours, theirs = alice.export(), bob.export()
    if ours == theirs:
        say(f"negctl export: both hold the same {len(ours)} events")
        return True
    say(f"negctl export: {len(ours - theirs)} only at alice, {len(theirs - ours)} only at bob")
    return False


def say(text: str) -> None:
    """One line of the story."""
    print(f"-- {text}", flush=True)


if __name__ == "__main__":
    main()
