"""The line of differences: each id once, to one taker, until all is taken."""

from __future__ import annotations

from twisted.internet.defer import CancelledError, Deferred
from twisted.trial.unittest import SynchronousTestCase

from negd.sync.differences import Differences

ids = [bytes([n]) * 32 for n in range(10)]


class DifferencesTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.line = Differences()

    def take(self, most: int) -> Deferred[list[bytes]]:
        return Deferred.fromCoroutine(self.line.take(most))

    def test_an_id_found_again_is_not_let_in_again(self) -> None:
        self.assertEqual(self.line.add(ids[:3]), 3)
        self.assertEqual(self.line.add(ids[2:5]), 2)
        self.assertEqual(self.successResultOf(self.take(10)), ids[:5])
        self.assertEqual(self.line.add(ids[:5]), 0)

    def test_takers_wait_for_ids_and_share_them(self) -> None:
        first, second = self.take(2), self.take(2)
        self.line.add(ids[:3])
        self.assertEqual(self.successResultOf(first), ids[:2])
        self.assertEqual(self.successResultOf(second), ids[2:3])

    def test_after_the_end_takers_get_the_rest_and_then_nothing(self) -> None:
        waiting = [self.take(2) for _ in range(3)]
        self.line.finish()
        for taker in waiting:
            self.assertEqual(self.successResultOf(taker), [])
        self.line.put(ids[:1])
        self.assertEqual(self.successResultOf(self.take(2)), ids[:1])
        self.assertEqual(self.successResultOf(self.take(2)), [])

    def test_a_taker_that_gives_up_takes_nothing(self) -> None:
        first, second = self.take(5), self.take(5)
        first.cancel()
        self.failureResultOf(first, CancelledError)
        self.line.add(ids)
        self.assertEqual(self.successResultOf(second), ids[:5])

    def test_room_is_waited_for_only_while_somebody_takes(self) -> None:
        self.line.add(ids)
        waiting = Deferred.fromCoroutine(self.line.drained(5))
        self.successResultOf(self.take(4))
        self.assertNoResult(waiting)
        self.line.desert()
        self.successResultOf(waiting)
        self.successResultOf(Deferred.fromCoroutine(self.line.drained(5)))

    def test_a_line_keeps_the_order_however_it_was_put_and_taken(self) -> None:
        many = [n.to_bytes(32, "big") for n in range(5000)]
        for begin in range(0, 5000, 700):
            self.line.add(many[begin : begin + 700])
        taken = self.line.take_ready(1) + self.line.take_ready(1399) + self.line.take_ready(3000)
        self.assertEqual(taken, many[:4400])
        self.line.put_back(many[:2])
        self.assertEqual(len(self.line), 602)
        self.assertEqual(self.line.take_back(), [*many[4400:], *many[:2]])
        self.assertEqual(self.line.take_ready(10), [])
