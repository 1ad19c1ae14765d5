"""What syncs with one peer may cost: bytes a second, events a sync."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf

from negd.errors import PeerError


@dataclass(frozen=True, slots=True)
class Budget:
    """Limits of what moves; 0 is none.

    :ivar rate: bytes a second that a link carries, each way.
    :ivar events: events that one sync moves, both ways together.
    """

    rate: int = 0
    events: int = 0


UNLIMITED = Budget()


class BudgetSpent(PeerError):
    """A sync has moved as many events as it may, and there are more."""

    def __init__(self, events: int) -> None:
        super().__init__(f"budget spent: {events} events moved, the rest waits for the next sync")


class TurnOver(PeerError):
    """A sync has made room for others that wait, and there is more to move."""

    def __init__(self) -> None:
        super().__init__("others had to wait for too long, the rest moves when they had their turn")


class Allowance:
    """The events that one sync may still move.

    :param most: in all; 0 for no limit.
    """

    def __init__(self, most: int = 0) -> None:
        self._left = most or inf

    @property
    def is_spent(self) -> bool:
        """Whether nothing may move any more."""
        return self._left <= 0

    def grant(self, wanted: int) -> int:
        """How many of so many events may move."""
        granted = 0 if self.is_spent else int(min(wanted, self._left))
        self._left -= granted
        return granted

    def give_back(self, count: int) -> None:
        """So many of the events granted did not move."""
        self._left += count

    def withdraw(self) -> None:
        """Nothing more may move, whatever is given back."""
        self._left = -inf
