"""Work in threads: results and failures come back, and stopping loses none of it."""

from __future__ import annotations

import threading

from twisted.internet import reactor
from twisted.internet.defer import CancelledError, Deferred
from twisted.trial.unittest import TestCase

from negd.sync.offload import Stopped, ThreadOffload


class ThreadOffloadTests(TestCase):
    def setUp(self) -> None:
        self.offload = ThreadOffload(reactor, 2, "testing")

        self.addCleanup(lambda: Deferred.fromCoroutine(self.offload.stop()))

    async def test_work_is_done_elsewhere_and_its_result_comes_back(self) -> None:
        thread = await self.offload(threading.current_thread)
        self.assertTrue(thread.name.startswith("testing"))
        self.assertEqual(await self.offload(divmod, 7, 3), (2, 1))

    async def test_its_failure_comes_back_too(self) -> None:
        with self.assertRaises(ZeroDivisionError):
            await self.offload(divmod, 7, 0)

    async def test_stopping_waits_for_what_runs_and_what_is_in_line(self) -> None:
        done: list[int] = []
        release = threading.Event()

        def take_a_while(number: int) -> None:
            release.wait()
            done.append(number)

        for number in range(8):
            self.offload(take_a_while, number)
        stopped = Deferred.fromCoroutine(self.offload.stop())
        self.assertFalse(stopped.called)
        self.assertEqual(done, [])
        release.set()
        await stopped
        self.assertEqual(sorted(done), list(range(8)))
        with self.assertRaises(Stopped):
            await self.offload(int)

    async def test_a_caller_that_gives_up_is_let_go_at_once(self) -> None:
        release = threading.Event()
        waiting: Deferred[bool] = self.offload(release.wait)
        waiting.cancel()
        try:
            with self.assertRaises(CancelledError):
                await waiting
        finally:
            release.set()

    async def test_threads_end_when_they_are_stopped(self) -> None:
        threads = [await self.offload(threading.current_thread) for _ in range(4)]
        await self.offload.stop()
        for thread in threads:
            self.assertFalse(thread.is_alive())
