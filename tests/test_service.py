"""The daemon starts in order, stops in the reverse order, and never hangs doing so."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.testing import MemoryReactorClock
from twisted.trial.unittest import SynchronousTestCase

from negd.errors import StorageError
from negd.service import STOP_WITHIN, Daemon, Undoing


class DaemonTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.reactor = MemoryReactorClock()
        self.told: list[str] = []
        self.gave_up: list[str] = []
        self.stopped = False
        self.reactor.stop = self.note_stop  # type: ignore[method-assign]

    def note_stop(self) -> None:
        self.stopped = True

    def daemon(self, start: Callable[[Undoing], Coroutine[Any, Any, None]]) -> Daemon:
        daemon = Daemon(start, self.reactor, self.gave_up.append)
        daemon.startService()
        return daemon

    def tell(self, word: str) -> Callable[[], Awaitable[None]]:
        async def undo() -> None:
            self.told.append(word)

        return undo

    async def two_steps(self, undoing: Undoing) -> None:
        self.told.append("store open")
        undoing.push("store", self.tell("store closed"))
        self.told.append("port open")
        undoing.push("port", self.tell("port closed"))

    def test_nothing_starts_before_the_reactor_runs(self) -> None:
        self.daemon(self.two_steps)
        self.assertEqual(self.told, [])

    def test_it_stops_in_the_reverse_of_the_order_in_which_it_started(self) -> None:
        daemon = self.daemon(self.two_steps)
        self.reactor.run()
        self.successResultOf(daemon.stopService())
        self.assertEqual(self.told, ["store open", "port open", "port closed", "store closed"])
        self.assertFalse(self.gave_up)

    def test_a_step_begins_to_stop_when_the_one_before_it_has_stopped(self) -> None:
        draining: Deferred[None] = Deferred()

        async def start(undoing: Undoing) -> None:
            undoing.push("store", self.tell("store closed"))
            undoing.push("sessions", lambda: draining)

        daemon = self.daemon(start)
        self.reactor.run()
        stopping = daemon.stopService()
        self.assertNoResult(stopping)
        self.assertEqual(self.told, [])
        draining.callback(None)
        self.successResultOf(stopping)
        self.assertEqual(self.told, ["store closed"])

    def test_a_step_that_hangs_is_left_behind_and_named(self) -> None:
        async def start(undoing: Undoing) -> None:
            undoing.push("store", self.tell("store closed"))
            undoing.push("sessions", lambda: Deferred())

        daemon = self.daemon(start)
        self.reactor.run()
        stopping = daemon.stopService()
        self.reactor.advance(STOP_WITHIN - 0.1)
        self.assertNoResult(stopping)
        self.reactor.advance(0.2)
        self.successResultOf(stopping)
        self.assertEqual(self.told, ["store closed"])

    def test_a_step_that_fails_does_not_keep_the_others_from_stopping(self) -> None:
        async def fail() -> None:
            raise RuntimeError("no")

        async def start(undoing: Undoing) -> None:
            undoing.push("store", self.tell("store closed"))
            undoing.push("sessions", fail)

        daemon = self.daemon(start)
        self.reactor.run()
        self.successResultOf(daemon.stopService())
        self.assertEqual(self.told, ["store closed"])
        self.assertEqual(len(self.flushLoggedErrors(RuntimeError)), 1)

    def test_a_start_that_fails_ends_the_daemon_and_undoes_what_had_started(self) -> None:
        async def start(undoing: Undoing) -> None:
            undoing.push("store", self.tell("store closed"))
            raise StorageError("port 7777 is taken")

        daemon = self.daemon(start)
        self.reactor.run()
        self.assertTrue(self.stopped)
        self.assertEqual(self.gave_up, ["port 7777 is taken"])
        self.successResultOf(daemon.stopService())
        self.assertEqual(self.told, ["store closed"])

    def test_a_mistake_of_ours_ends_the_daemon_and_leaves_its_traceback_in_the_log(self) -> None:
        async def start(undoing: Undoing) -> None:
            raise ZeroDivisionError("oops")

        self.daemon(start)
        self.reactor.run()
        self.assertEqual(self.gave_up, ["internal error: oops"])
        self.assertTrue(self.stopped)
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)

    def test_stopping_gives_up_a_start_under_way(self) -> None:
        cancelled: list[object] = []
        opening: Deferred[None] = Deferred(cancelled.append)

        async def start(undoing: Undoing) -> None:
            undoing.push("store", self.tell("store closed"))
            await opening

        daemon = self.daemon(start)
        self.reactor.run()
        self.successResultOf(daemon.stopService())
        self.assertEqual(cancelled, [opening])
        self.assertEqual(self.told, ["store closed"])
        self.assertFalse(self.gave_up)

    def test_a_daemon_stopped_before_the_reactor_ran_never_starts(self) -> None:
        daemon = self.daemon(self.two_steps)
        self.successResultOf(daemon.stopService())
        self.reactor.run()
        self.assertEqual(self.told, [])
