"""Events checked in processes: the same verdicts, in order, whatever becomes of the processes."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from socket import socketpair
from typing import Any

import msgspec
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock, deferLater
from twisted.logger import capturedLogs, formatEvent
from twisted.trial.unittest import SynchronousTestCase, TestCase

from negd.interfaces import Use
from negd.nostr.filing import Filing, filing_of
from negd.nostr.signing import Signer
from negd.sync.checker import ask, check_lines
from negd.sync.checking import FEW, CheckerProcess, Checkers, check_here
from negd.sync.offload import Stopped

alice = Signer(b"\x01" * 32)
GOOD = [alice.sign(created_at=1000 + n) for n in range(100)]
FORGED = msgspec.structs.replace(GOOD[0], sig="0" * 128)
CHANGED = msgspec.structs.replace(GOOD[0], content="other")
MIXED = [*GOOD[:50], FORGED, *GOOD[50:], CHANGED]
SIGNATURE, ID = "signature does not match", "id does not match the event"
FILED = list(map(filing_of, GOOD))
CHECKED = [*FILED[:50], SIGNATURE, *FILED[50:], ID]


class CheckTests(SynchronousTestCase):
    def test_each_line_is_filed_or_has_its_fault(self) -> None:
        lines = [GOOD[0].encode(), FORGED.encode(), b"", CHANGED.encode(), b"[]"]
        good, forged, empty, changed, array = check_lines(b"\n".join(lines))
        self.assertEqual((good, forged, changed), (Filing.of(GOOD[0]), SIGNATURE, ID))
        for fault in (empty, array):
            self.assertIn("not an event", str(fault))

    def test_what_is_no_answer_is_taken_for_none(self) -> None:
        for answer in (b"", b"\x90", b"\x93\xa0\xa0\xa0", b"\x92\x01\x02", b"[1,2]"):
            ours, theirs = socketpair()
            with ours, theirs:
                theirs.sendall(len(answer).to_bytes(4, "big") + answer)
                with self.assertRaises(OSError):
                    ask(ours, b"two\nlines")

    def test_checking_at_once_says_the_same(self) -> None:
        self.assertEqual(self.successResultOf(check_here(MIXED)), CHECKED)


class ImportTests(SynchronousTestCase):
    def test_a_process_is_small(self) -> None:
        heavy = "{'twisted', 'numpy', 'lmdb', 'grpc', 'zope'} & {*sys.modules}"
        code = f"import sys, negd.sync.checker; sys.exit(', '.join({heavy}) or None)"
        subprocess.run([sys.executable, "-c", code], check=True)


class HurriedReactor(Clock):
    """A clock of the test's own, and the real reactor's thread."""

    def callFromThread(self, call: Callable[..., object], *args: object) -> None:
        real: Any = reactor
        real.callFromThread(call, *args)


class CheckersTests(TestCase):
    timeout = 60

    def setUp(self) -> None:
        self.started: list[CheckerProcess] = []

    def checkers(self, count: int = 1, start: Callable[[], CheckerProcess] | None = None) -> Any:
        checkers = Checkers(reactor, count, start or self.start)
        self.addCleanup(lambda: Deferred.fromCoroutine(checkers.stop()))
        return checkers

    def start(self) -> CheckerProcess:
        self.started.append(CheckerProcess())
        return self.started[-1]

    async def at_work(self, count: int = 1) -> Any:
        """Checkers whose processes have all started."""
        checkers = self.checkers(count)
        while checkers.idle < count:
            self.assertEqual(await checkers(MIXED), CHECKED)  # in threads, until they have
        return checkers

    async def test_many_are_judged_in_order_by_several_processes(self) -> None:
        checkers = await self.at_work(2)
        self.assertEqual(await checkers(MIXED), CHECKED)
        self.assertEqual(len(self.started), 2)

    async def test_processes_may_be_started_before_there_is_work(self) -> None:
        checkers = self.checkers(2)
        checkers.start()
        while checkers.idle < 2:
            await deferLater(reactor, 0.01)
        self.assertEqual(await checkers(MIXED), CHECKED)
        self.assertEqual(len(self.started), 2)

    async def test_a_process_that_starts_is_not_waited_for(self) -> None:
        began = threading.Event()

        def start() -> CheckerProcess:
            began.wait()
            return self.start()

        checkers = self.checkers(2, start)
        self.addCleanup(began.set)
        for _ in range(3):
            self.assertEqual(await checkers(MIXED), CHECKED)
        self.assertEqual(self.started, [])

    async def test_none_are_judged(self) -> None:
        self.assertEqual(await self.checkers()([]), [])
        self.assertEqual(await self.checkers().lines([]), [])

    async def test_few_wait_for_no_process(self) -> None:
        checkers = self.checkers()
        few = [*GOOD[: FEW - 2], FORGED]
        self.assertEqual(await checkers(few), [*FILED[: FEW - 2], SIGNATURE])
        self.assertEqual(self.started, [])

    async def test_lines_become_events_or_what_is_wrong_with_them(self) -> None:
        lines = [b" " + GOOD[0].encode() + b"\r", FORGED.encode(), GOOD[1].encode()]
        for checkers in (self.checkers(), await self.at_work()):
            judged = await checkers.lines(lines)
            self.assertEqual(judged, [Filing.of(GOOD[0]), SIGNATURE, Filing.of(GOOD[1])])

    async def test_a_process_killed_at_its_work_is_replaced_and_nothing_is_lost(self) -> None:
        checkers = await self.at_work()
        self.assertEqual(checkers.processes, Use(1, 1))
        os.kill(self.started[0].pid, signal.SIGSTOP)
        judged = checkers(MIXED)
        os.kill(self.started[0].pid, signal.SIGKILL)
        self.assertEqual(await judged, CHECKED)
        while not checkers.idle:
            self.assertEqual(await checkers(MIXED), CHECKED)
        self.assertEqual(len(self.started), 2)

    async def test_a_process_that_died_idle_is_not_told_as_alive(self) -> None:
        checkers = await self.at_work(2)
        os.kill(self.started[0].pid, signal.SIGKILL)
        while checkers.processes != Use(1, 2):
            await deferLater(reactor, 0.01)
        while checkers.processes != Use(2, 2):
            self.assertEqual(await checkers(MIXED), CHECKED)

    async def test_signals_to_the_whole_group_do_not_end_a_process(self) -> None:
        checkers = await self.at_work()
        for number in (signal.SIGINT, signal.SIGTERM):
            os.kill(self.started[0].pid, number)
        self.assertEqual(await checkers(MIXED), CHECKED)
        self.assertEqual(len(self.started), 1)
        self.assertNotEqual(os.getpgid(self.started[0].pid), os.getpgid(0))

    async def test_where_processes_do_not_work_threads_do_it_for_a_while(self) -> None:
        clock, tried = HurriedReactor(), 0

        def fail() -> CheckerProcess:
            nonlocal tried
            tried += 1
            raise OSError("no more processes")

        checkers = Checkers(clock, 1, fail)
        self.addCleanup(lambda: Deferred.fromCoroutine(checkers.stop()))
        while not tried:
            self.assertEqual(await checkers(MIXED), CHECKED)
        for _ in range(3):
            self.assertEqual(await checkers(MIXED), CHECKED)
        self.assertEqual(tried, 1)
        self.assertEqual(checkers.processes, Use(0, 1))
        clock.advance(60)
        while tried < 2:
            self.assertEqual(await checkers(MIXED), CHECKED)

    async def test_where_the_program_cannot_run_threads_do_it(self) -> None:
        self.patch(sys, "executable", "/bin/false")
        checkers = self.checkers()
        with capturedLogs() as told:
            while not told:
                self.assertEqual(await checkers(MIXED), CHECKED)
        self.assertEqual(await checkers(MIXED), CHECKED)
        self.assertEqual(len(self.started), 1)
        line = formatEvent(told[0])
        self.assertIn("do not work, threads do it for 60 s: ", line)
        self.assertIn("(exit status 1)", line)

    def test_a_process_works_where_it_may_not_be_nice(self) -> None:
        code = (
            "import os\ndef deny(_): raise PermissionError('not here')\nos.nice = deny\n"
            "from negd.sync.checker import main\nmain()"
        )
        ours, theirs = socketpair()
        with ours:
            with theirs:
                process = subprocess.Popen([sys.executable, "-c", code], stdin=theirs.fileno())
            (answer,) = ask(ours, GOOD[0].encode())
            assert isinstance(answer, Filing)
            self.assertEqual(answer.keep(GOOD[0]), FILED[0])
        self.assertEqual(process.wait(30), 0)

    async def test_stopping_finishes_what_was_begun_and_leaves_no_process(self) -> None:
        checkers = await self.at_work(2)
        judged = [checkers(MIXED) for _ in range(4)]
        await checkers.stop()
        for checked in judged:
            self.assertEqual(self.successResultOf(checked), CHECKED)
        for process in self.started:
            with self.assertRaises(ProcessLookupError):
                os.kill(process.pid, 0)
        with self.assertRaises(Stopped):
            await checkers.lines([GOOD[0].encode()])

    def test_processes_end_with_the_one_that_started_them_however_it_ends(self) -> None:
        code = (
            "import time\nfrom negd.sync.checking import CheckerProcess\n"
            "process = CheckerProcess()\nprocess.check(b'')\nprint(process.pid, flush=True)\n"
            "time.sleep(60)"
        )
        with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as parent:
            assert parent.stdout is not None
            process = os.pidfd_open(int(parent.stdout.readline()))
            parent.kill()
        try:
            self.assertTrue(select.select([process], [], [], 30)[0], "it still runs")
        finally:
            os.close(process)
