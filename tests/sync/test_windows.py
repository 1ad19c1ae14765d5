"""Windows of time: they cover what was refused, and each holds less of it."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from negd.nostr.event import MAX_TIMESTAMP
from negd.nostr.filter import EVERYTHING, Filter
from negd.reconcile import RecordSet, pack
from negd.sync.windows import Window, split, whole

NOW = 1_700_000_000
seconds = st.integers(0, NOW + 1000) | st.sampled_from([0, NOW, MAX_TIMESTAMP])


def records(stamps: list[int]) -> RecordSet:
    return RecordSet.from_records(
        b"".join(pack(at, n.to_bytes(32, "big")) for n, at in enumerate(stamps))
    )


@given(seconds, seconds, st.lists(seconds, max_size=60), st.none() | st.integers(1, 50))
def test_windows_cover_the_whole_and_do_not_overlap(
    one: int, other: int, stamps: list[int], limit: int | None
) -> None:
    window = Window(min(one, other), max(one, other))
    ours = records(stamps).window(window.since, window.until)
    parts = split(window, ours, limit, NOW)
    if window.since == window.until:
        assert parts == []
        return
    assert len(parts) >= 2
    assert (parts[0].since, parts[-1].until) == (window.since, window.until)
    for before, after in pairwise(parts):
        assert before.since <= before.until == after.since - 1


def test_a_stated_limit_is_halved_by_our_own_counts() -> None:
    ours = records(list(range(1000, 2000)))
    parts = split(whole(EVERYTHING), ours, 100, NOW)
    counts = [len(ours.window(part.since, part.until)) for part in parts]
    assert sum(counts) == 1000
    assert max(counts) <= 50


def test_where_we_hold_nothing_time_is_halved_from_now_on_down() -> None:
    window, steps = whole(EVERYTHING), 0
    while parts := split(window, RecordSet.EMPTY, None, NOW):
        window = parts[-1] if parts[-1].since < NOW else parts[0]
        steps += 1
    assert window.since == window.until <= NOW
    assert steps < 40


def test_bounds_that_limit_nothing_are_not_sent() -> None:
    assert whole(EVERYTHING).of(EVERYTHING) == EVERYTHING
    wanted = Filter(since=5, until=9)
    assert whole(wanted).of(wanted) == wanted
    assert Window(6, 7).of(wanted) == Filter(since=6, until=7)
