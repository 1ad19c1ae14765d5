"""What a peer sent is stored, and counted, whatever becomes of the sync meanwhile."""

from __future__ import annotations

import json
from collections.abc import Sequence

import pytest
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import deferLater

from negd.errors import PeerError
from negd.interfaces import Direction, Residue, SyncProgress, Verdict
from negd.nostr.filing import Filing
from negd.nostr.signing import Signer
from negd.settings import SyncSettings
from negd.storage.memory import MemoryBook
from negd.testing.links import ConversationPeer, drive, settle
from negd.testing.nodes import THEIRS, World, failure_of

alice = Signer(b"\x01" * 32)
events = [alice.sign(created_at=1000 + n, content=str(n)) for n in range(60)]
older, newer = (alice.sign(created_at=900 + n, kind=0) for n in range(2))


def store_slowly(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have our store take a second for each batch."""
    store = world.ours.storage.events
    ingest = store.ingest

    async def slowly(filings: Sequence[Filing]) -> list[Verdict]:
        await deferLater(world.clock, 1)
        return await ingest(filings)

    monkeypatch.setattr(store, "ingest", slowly)


class Halting(ConversationPeer):
    """A relay that answers a single REQ."""

    has_answered = False

    def received(self, text: bytes) -> None:
        if json.loads(text)[0] == "REQ":
            if self.has_answered:
                return
            self.has_answered = True
        super().received(text)


@pytest.mark.parametrize("is_cancelled", [False, True])
def test_what_is_being_stored_when_a_sync_ends_is_counted(
    is_cancelled: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = World(SyncSettings(fetch_batch=20, fetch_in_flight=2))
    world.theirs.hold([older, *events])
    world.ours.hold([newer])
    peer = Halting(world.theirs.backend)
    world.dialer.peers[THEIRS] = lambda: peer
    store_slowly(world, monkeypatch)
    book, told = MemoryBook(), list[SyncProgress]()
    run = world.run_of(direction=Direction.DOWN, book=book, report=told.append)
    done = Deferred.fromCoroutine(run.run())
    settle(world.clock)
    assert run.progress.fetched == 0
    if is_cancelled:
        done.cancel()
    else:
        peer.abort("gone")
    settle(world.clock)
    assert run.progress.fetched == 0
    world.clock.advance(1)
    count = len(told)
    assert isinstance(failure_of(done), CancelledError if is_cancelled else PeerError)
    assert len(world.ours.held()) == 1 + 19
    assert (run.progress.fetched, run.progress.refused) == (19, 1)
    entries = drive(world.clock, book.entries(THEIRS, Residue.OURS_REJECTED, 9))
    assert set(entries) == {older.id_bytes}
    world.clock.pump([1] * 60)
    assert len(told) == count
