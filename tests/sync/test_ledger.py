"""The ledger of one run: what is explained is left alone until its time comes."""

from __future__ import annotations

import pytest

from negd.interfaces import LedgerEntry, Residue
from negd.nostr.signing import Signer
from negd.settings import SyncSettings
from negd.storage.memory import MemoryBook
from negd.sync.ledger import Ledger
from negd.testing.links import drive
from negd.testing.nodes import World

URL = "wss://peer.example"
ids = [bytes([n]) * 32 for n in range(4)]


@pytest.fixture
def world() -> World:
    return World(SyncSettings(ledger_retry=100))


def test_a_difference_is_left_alone_and_tried_again_ever_later(world: World) -> None:
    clock, book = world.clock, MemoryBook()
    waits = []
    for _ in range(9):
        ledger = Ledger(world.ours.parts, book, URL)
        assert drive(clock, ledger.unexplained(ids)) == ids
        ledger.note(ids[0], Residue.UNFETCHABLE, "not returned")
        drive(clock, ledger.write(at_least=1))
        assert drive(clock, Ledger(world.ours.parts, book, URL).unexplained(ids)) == ids[1:]
        entry = drive(clock, book.ledger(URL, ids))[ids[0]]
        waits.append(entry.retry_at - clock.seconds())
        clock.advance(waits[-1])
    assert waits == [100, 200, 400, 800, 1600, 3200, 6400, 6400, 6400]


def test_a_difference_that_is_gone_is_struck_out(world: World) -> None:
    clock, book = world.clock, MemoryBook()
    entry = LedgerEntry(Residue.THEIRS_REJECTED, "blocked: no", 3, 0)
    drive(clock, book.write_ledger(URL, {ids[0]: entry}, []))
    ledger = Ledger(world.ours.parts, book, URL)
    drive(clock, ledger.unexplained(ids))
    ledger.settle(ids[0])
    ledger.settle(ids[1])
    drive(clock, ledger.write(at_least=1))
    assert drive(clock, book.ledger(URL, ids)) == {}


def test_what_was_noted_too_soon_is_taken_back_written_or_not(world: World) -> None:
    for at_least in (1, 1000):
        clock, book = world.clock, MemoryBook()
        ledger = Ledger(world.ours.parts, book, URL)
        for event_id in ids[:2]:
            ledger.note(event_id, Residue.THEIRS_REJECTED, "no OK came")
        drive(clock, ledger.write(at_least))
        ledger.withdraw(ids[0], Residue.THEIRS_REJECTED, "no OK came")
        ledger.settle(ids[0])
        ledger.withdraw(ids[1], Residue.THEIRS_REJECTED, "no OK came")
        assert not ledger.reasons
        ledger.note(ids[1], Residue.THEIRS_REJECTED, "blocked: no")
        drive(clock, ledger.write(at_least=1))
        entry = LedgerEntry(Residue.THEIRS_REJECTED, "blocked: no", 1, clock.seconds() + 100)
        assert drive(clock, book.ledger(URL, ids)) == {ids[1]: entry}


def test_few_entries_wait_to_be_written_with_others(world: World) -> None:
    clock, book = world.clock, MemoryBook()
    ledger = Ledger(world.ours.parts, book, URL)
    ledger.note(ids[0], Residue.OURS_REJECTED, "x" * 1000)
    drive(clock, ledger.write())
    assert drive(clock, book.ledger(URL, ids)) == {}
    drive(clock, ledger.write(at_least=1))
    assert len(drive(clock, book.ledger(URL, ids))[ids[0]].text) == 200


def test_what_is_noted_is_written_at_once_where_that_is_wanted(world: World) -> None:
    clock, book = world.clock, MemoryBook()
    ledger = Ledger(world.ours.parts, book, URL)
    ledger.write_at = 1
    ledger.note(ids[0], Residue.OURS_REJECTED, "x")
    drive(clock, ledger.write())
    assert set(drive(clock, book.ledger(URL, ids))) == {ids[0]}


def test_what_is_being_tried_is_not_left_alone(world: World) -> None:
    clock, book = world.clock, MemoryBook()
    entry = LedgerEntry(Residue.THEIRS_REJECTED, "no OK came", 3, 0)
    drive(clock, book.write_ledger(URL, {ids[0]: entry}, []))
    ledger = Ledger(world.ours.parts, book, URL)
    assert drive(clock, ledger.unexplained(ids)) == ids
    for event_id in ids[:2]:
        ledger.note(event_id, Residue.THEIRS_REJECTED, "no OK came")
    drive(clock, ledger.write(at_least=1))
    assert drive(clock, ledger.unexplained(ids)) == ids[2:]
    for event_id in ids[:2]:
        ledger.withdraw(event_id, Residue.THEIRS_REJECTED, "no OK came")
    assert drive(clock, ledger.unexplained(ids)) == ids
    for event_id in ids[:2]:
        ledger.note(event_id, Residue.THEIRS_REJECTED, "blocked: no")
    drive(clock, ledger.write(at_least=1))
    assert {entry.tries for entry in drive(clock, book.ledger(URL, ids)).values()} == {1}
    assert drive(clock, ledger.unexplained(ids)) == ids[2:]


def test_what_was_noted_elsewhere_during_a_run_is_not_struck_out(world: World) -> None:
    clock, book = world.clock, MemoryBook()
    entry = LedgerEntry(Residue.THEIRS_REJECTED, "blocked: no", 1, 0)
    drive(clock, book.write_ledger(URL, dict.fromkeys(ids[:2], entry), []))
    ledger, tail = (Ledger(world.ours.parts, book, URL, is_whole) for is_whole in (True, False))
    drive(clock, ledger.begin())
    for event_id in ids[1:3]:
        tail.note(event_id, Residue.THEIRS_REJECTED, "blocked: no")
    drive(clock, tail.write(at_least=1))
    drive(clock, ledger.strike_out_the_rest())
    assert set(drive(clock, book.ledger(URL, ids))) == set(ids[1:3])


def test_nothing_is_remembered_of_a_peer_that_is_only_visited(world: World) -> None:
    clock = world.clock
    ledger = Ledger(world.ours.parts, None, URL)
    ledger.note(ids[0], Residue.OURS_REJECTED, "x")
    drive(clock, ledger.write(at_least=1))
    assert drive(clock, ledger.unexplained(ids)) == ids


def test_what_lost_to_a_newer_version_is_left_alone_while_that_is_held(world: World) -> None:
    clock, book = world.clock, MemoryBook()
    alice = Signer(b"\x01" * 32)
    newer = alice.sign(created_at=2000, kind=0)
    world.ours.hold([newer])
    ledger = Ledger(world.ours.parts, book, URL)
    for event_id in ids[:2]:
        ledger.note(event_id, Residue.OURS_REJECTED, "replaced", lost_to=newer.id_bytes)
    ledger.note(ids[2], Residue.OURS_REJECTED, "deleted", is_settled=True)
    drive(clock, ledger.write(at_least=1))
    clock.advance(29 * 24 * 3600)
    assert drive(clock, Ledger(world.ours.parts, book, URL).unexplained(ids)) == ids[3:]
    world.ours.hold([alice.sign(created_at=3000, kind=5, tags=[["e", newer.id]])])
    assert drive(clock, Ledger(world.ours.parts, book, URL).unexplained(ids)) == [*ids[:2], ids[3]]
