"""Coroutines that end together, and such as are not left half done."""

from __future__ import annotations

import pytest
from twisted.internet.defer import CancelledError, Deferred

from negd.errors import PeerError
from negd.sync.together import seen_through, together
from negd.testing.nodes import failure_of


class Slow:
    """Work that ends some time after it was cancelled, when ``last`` fires."""

    def __init__(self) -> None:
        self.last: Deferred[None] = Deferred()
        self.has_ended = False

    async def run(self) -> None:
        try:
            await Deferred()
        finally:
            self.last.addCallback(self._end)
            await seen_through(self.last)

    def _end(self, _: None) -> None:
        self.has_ended = True


async def fail(when: Deferred[None]) -> None:
    await when
    raise PeerError("gone")


def test_a_failure_is_raised_when_all_have_ended() -> None:
    slow, when = Slow(), Deferred[None]()
    done = Deferred.fromCoroutine(together(slow.run(), fail(when)))
    when.callback(None)
    assert not done.called
    slow.last.callback(None)
    assert str(failure_of(done)) == "gone"


def test_being_cancelled_waits_for_all_to_end_however_often() -> None:
    first, second = Slow(), Slow()
    inner = together(first.run(), second.run())
    done = Deferred.fromCoroutine(together(inner, wait()))
    results: list[object] = []
    done.addBoth(results.append)
    for _ in range(3):
        done.cancel()
    first.last.callback(None)
    assert results == []
    done.cancel()
    second.last.callback(None)
    assert first.has_ended and second.has_ended
    (failure,) = results
    assert failure.check(CancelledError)  # type: ignore[attr-defined]


async def wait() -> None:
    await Deferred()


def test_a_cancellation_is_not_lost_on_who_waits_after_a_failure() -> None:
    slow, when = Slow(), Deferred[None]()
    done = Deferred.fromCoroutine(together(slow.run(), fail(when)))
    when.callback(None)
    done.cancel()
    slow.last.callback(None)
    assert isinstance(failure_of(done), CancelledError)


def test_work_that_is_seen_through_comes_to_its_result() -> None:
    async def result_of(work: Deferred[int]) -> int:
        return await seen_through(work)

    work: Deferred[int] = Deferred()
    done = Deferred.fromCoroutine(result_of(work))
    work.callback(7)
    results: list[int] = []
    done.addCallback(results.append)
    assert results == [7]
    failing: Deferred[int] = Deferred()
    done = Deferred.fromCoroutine(result_of(failing))
    failing.errback(PeerError("no"))
    assert str(failure_of(done)) == "no"


@pytest.mark.parametrize("fails", [False, True])
def test_work_goes_on_when_the_waiting_is_cancelled(fails: bool) -> None:
    work: Deferred[int] = Deferred()
    done = Deferred.fromCoroutine(seen_through(work))
    done.cancel()
    results: list[object] = []
    done.addBoth(results.append)
    assert results == []
    if fails:
        work.errback(PeerError("no"))
    else:
        work.callback(7)
    (failure,) = results
    assert failure.check(CancelledError)  # type: ignore[attr-defined]
