"""Calls that a thread hands to the reactor: in order, and never many without a turn of others."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.interfaces import IReactorFromThreads
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer

from negd.storage.lmdb import turns as module
from negd.storage.lmdb.turns import Turns


@implementer(IReactorFromThreads)
class OneByOne:
    """A reactor that does one call from threads a turn."""

    def __init__(self) -> None:
        self.calls: list[Callable[[], Any]] = []

    def callFromThread(self, callable: Callable[..., Any], *args: Any, **kwargs: Any) -> None:
        self.calls.append(lambda: callable(*args, **kwargs))

    def turn(self) -> None:
        self.calls.pop(0)()


class TurnsTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.reactor, self.done = OneByOne(), list[int]()
        self.turns = Turns(self.reactor)

    def numbers(self, *numbers: int) -> list[Callable[[], None]]:
        return [lambda number=number: self.done.append(number) for number in numbers]  # type: ignore[misc]

    def test_what_takes_no_time_is_done_in_one_turn(self) -> None:
        self.patch(module, "_TURN", 60.0)
        self.turns.add(self.numbers(1, 2, 3))
        self.reactor.turn()
        assert (self.done, self.reactor.calls) == ([1, 2, 3], [])

    def test_others_have_their_turn_between(self) -> None:
        self.patch(module, "_TURN", 0.0)
        self.turns.add(self.numbers(1, 2, 3))
        self.reactor.turn()
        assert self.done == [1]
        self.reactor.callFromThread(self.done.append, 100)
        self.reactor.turn()
        self.reactor.turn()
        assert self.done == [1, 2, 100]

    def test_what_comes_later_is_done_later(self) -> None:
        self.patch(module, "_TURN", 0.0)
        self.turns.add(self.numbers(1, 2))
        self.turns.add(self.numbers(3))
        while self.reactor.calls:
            self.reactor.turn()
        assert self.done == [1, 2, 3]

    def test_one_that_fails_takes_no_other_with_it(self) -> None:
        self.turns.add([lambda: 1 / 0, *self.numbers(2)])
        while self.reactor.calls:
            self.reactor.turn()
        assert self.done == [2]
        assert len(self.flushLoggedErrors(ZeroDivisionError)) == 1
