"""Events that people wrote, through import, sync and export: each has its outcome, none changes.

They are 532 lines of ../shared/events/real.jsonl beside the checkout, some expired, some deleted
or replaced by others of them.
"""

from __future__ import annotations

import json
import os
import re
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from negd.control.client import ControlClient
from negd.nostr.event import Event, check, decode
from negd.testing.model import NaiveRelay
from negd.testing.processes import negctl
from tests.integration.conftest import MakeDaemon

REAL = Path(
    os.environ.get("NEGD_REAL_EVENTS", Path(__file__).parents[3] / "shared/events/real.jsonl")
)
pytestmark = pytest.mark.skipif(not REAL.exists(), reason=f"no real events at {REAL}")


def real_events() -> list[Event]:
    return [decode(line) for line in REAL.read_bytes().splitlines()]


def by_id(lines: set[str]) -> dict[str, dict[str, Any]]:
    return {event["id"]: event for event in map(json.loads, lines)}


def test_they_come_out_as_they_went_in(make_daemon: MakeDaemon) -> None:
    model = NaiveRelay(time.time())
    outcomes = Counter(model.offer(event).value for event in real_events())
    kept = {event_id.hex() for event_id in model.kept()}

    first, second = make_daemon("first"), make_daemon("second")
    done = negctl("import", str(REAL), "--store", first.store, folder=first.folder)
    assert done.returncode == 0, done.stderr
    told = {word: int(count) for word, count in re.findall(r"(\w+) +(\d+)$", done.stdout, re.M)}
    assert {word: count for word, count in told.items() if count} == outcomes

    written = by_id(set(REAL.read_text().split("\n")) - {""})
    exported = by_id(first.export())
    assert set(exported) == kept
    assert all(event == written[event_id] for event_id, event in exported.items())

    first.start()
    second.start()
    with ControlClient(second.control) as client:
        (*_, last) = client.sync(first.url)
    assert last.complete
    assert last.fetched == len(kept)
    synced = second.export()
    assert synced == first.export()
    assert all(check(decode(line)) is None for line in synced)

    done = negctl("verify", "--store", second.store, folder=second.folder)
    assert done.returncode == 0, done.stderr
