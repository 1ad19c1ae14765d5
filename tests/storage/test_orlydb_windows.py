"""Windows cover every second once, in the end at a size that the database answers."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from negd.errors import StorageError
from negd.storage.orlydb.database import AnswerTooLarge
from negd.storage.orlydb.windows import TARGET, Windows
from negd.testing.threads import ThreadedClock

LATEST = 2**63 - 1


class Timeline:
    """Items at some seconds, of which an answer holds so many at most.

    :ivar asked: the bounds of every question.
    :ivar answered: the bounds of those that were answered.
    """

    def __init__(self, items: dict[int, int], most: int) -> None:
        self._items = items
        self._most = most
        self.asked: list[tuple[int, int]] = []
        self.answered: list[tuple[int, int]] = []

    async def ask(self, begin: int, end: int) -> int:
        self.asked.append((begin, end))
        found = sum(n for second, n in self._items.items() if begin <= second <= end)
        if found > self._most:
            raise AnswerTooLarge("too much")
        self.answered.append((begin, end))
        return found

    def walk(self, windows: Windows) -> int:
        """How many items all windows hold together."""

        async def all_of_them() -> int:
            found = 0
            while not windows.finished:
                found += await windows.next(self.ask, lambda size: size)
            return found

        return ThreadedClock().wait(all_of_them())


def assert_covers(timeline: Timeline, since: int, until: int) -> None:
    assert timeline.answered[0][1] == until
    assert timeline.answered[-1][0] == since
    for newer, older in zip(timeline.answered, timeline.answered[1:], strict=False):
        assert older[1] == newer[0] - 1


@given(
    items=st.dictionaries(st.integers(0, 5000) | st.just(LATEST), st.integers(1, 40), max_size=60),
    newest=st.integers(0, 5000),
    reach=st.integers(0, 5000),
    bounds=st.tuples(st.integers(0, 5000), st.integers(0, 5000) | st.just(LATEST)),
)
def test_every_second_is_in_one_window(
    items: dict[int, int], newest: int, reach: int, bounds: tuple[int, int]
) -> None:
    since, until = min(bounds), max(bounds)
    timeline = Timeline(items, most=40)
    found = timeline.walk(Windows(since, until, newest, reach))
    assert found == sum(n for second, n in items.items() if since <= second <= until)
    assert_covers(timeline, since, until)


def test_nothing_is_asked_of_no_time() -> None:
    timeline = Timeline({5: 1}, most=10)
    assert timeline.walk(Windows(6, 5, 5, 1)) == 0
    assert timeline.asked == []


def test_one_second_that_is_too_large_is_an_error() -> None:
    timeline = Timeline({1000: 11}, most=10)
    with pytest.raises(StorageError, match="too much, for the one second 1000"):
        timeline.walk(Windows(0, LATEST, 5000, 3600))


def test_an_even_store_is_listed_in_answers_of_the_wanted_size() -> None:
    year = 365 * 24 * 3600
    items = {second: 100 for second in range(0, year, 1000)}
    timeline = Timeline(items, most=800_000)
    assert timeline.walk(Windows(0, LATEST, year, 3600)) == 100 * len(items)
    assert len(timeline.asked) <= 2 * 100 * len(items) // TARGET + 8


def test_a_quiet_time_is_passed_in_few_steps() -> None:
    now = 1_700_000_000
    timeline = Timeline({0: 1, now: 1}, most=10)
    assert timeline.walk(Windows(0, LATEST, now, 3600)) == 2
    assert len(timeline.asked) < 10
