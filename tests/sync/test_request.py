"""One REQ: what comes of it, and that nothing of it stays."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest

from negd.nostr.filter import EVERYTHING
from negd.nostr.signing import Signer
from negd.sync.contact import get_in_touch
from negd.sync.request import Requests
from negd.testing.links import drive
from negd.testing.nodes import THEIRS, World

alice = Signer(b"\x01" * 32)
events = [alice.sign(created_at=1000 + n) for n in range(20)]


@pytest.fixture
def no_garbage() -> Iterator[None]:
    gc.collect()
    gc.disable()
    yield
    gc.enable()


@pytest.mark.usefixtures("no_garbage")
def test_a_request_leaves_nothing_to_the_garbage_collector_on_either_side() -> None:
    """A sync makes thousands of them, each with hundreds of events."""
    world = World()
    world.theirs.hold(events)
    peer = drive(world.clock, get_in_touch(world.ours.parts, THEIRS))
    requests = Requests(peer, 30, 1 << 20)
    first = drive(world.clock, requests.ask(EVERYTHING, lambda _: True, 0))
    assert set(first.events) == {event.id_bytes for event in events}
    gc.collect()
    drive(world.clock, requests.ask(EVERYTHING, lambda _: True, 0))
    assert gc.collect() == 0
