"""What is learned of a peer, and how long it is believed."""

from __future__ import annotations

from twisted.internet.task import Clock

from negd.interfaces import PeerProfile
from negd.sync.lessons import DOUBT, Lessons


def lessons(profile: PeerProfile, now: float = 1_700_000_000) -> Lessons:
    clock = Clock()
    clock.advance(now)
    return Lessons(profile, clock)


def test_limits_are_forgotten_after_a_day() -> None:
    first = lessons(PeerProfile())
    first.lessen(max_records=None, ids_per_request=None)
    assert first.profile == PeerProfile()
    first.lessen(max_records=100, ids_per_request=50)
    first.lessen(frame_limit=4096)
    known = first.profile
    assert (known.max_records, known.ids_per_request, known.frame_limit) == (100, 50, 4096)
    assert lessons(known, known.limited_at + DOUBT - 1).profile == known
    assert lessons(known, known.limited_at + DOUBT).profile == PeerProfile()


def test_a_finding_of_another_clocks_future_is_doubted_too() -> None:
    unable = PeerProfile(nip77=False, found_at=1_900_000_000)
    assert not lessons(unable).is_unable
    assert lessons(unable, 1_900_000_000 - DOUBT + 1).is_unable


def test_a_peer_that_never_ends_what_it_begins_is_unable() -> None:
    seen = lessons(PeerProfile())
    for moved in (0, 0, 7, 0, 0):
        seen.broke_off("gone", moved)
        assert not seen.is_unable
    seen.broke_off("gone", 0)
    assert seen.is_unable
    assert (seen.profile.refusal, seen.profile.broken_off) == ("gone", 0)
    seen.reconciles()
    assert seen.profile.nip77 is True
    for _ in range(2):
        seen.broke_off("gone", 0)
    seen.reconciles()
    seen.broke_off("gone", 0)
    assert seen.profile.broken_off == 1
