"""Checking events: few in a thread, many in processes, which do not compete for the interpreter.

A signature takes 35 us in C without the interpreter, but each of these calls gives it up and has
to win it back from a reactor and a store that compute: threads alone kept little more than one
processor busy.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from socket import socketpair
from subprocess import DEVNULL, Popen, TimeoutExpired
from typing import Any

from twisted.internet.defer import Deferred, gatherResults, maybeDeferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from negd.interfaces import Use
from negd.nostr.event import Event
from negd.nostr.filing import Filing
from negd.sync.checker import Checked, ask, check_lines, checked, lines_of
from negd.sync.offload import Stopped, ThreadOffload

Check = Callable[[Sequence[Event]], Deferred[Checked]]
"""Files events, and says of each whose id or signature is wrong what it is."""

FEW = 32
"""Events below which it takes longer to ask a process than to check them here."""

_MANY = 256
"""Events that a process is asked about at a time."""

_ENOUGH = 4
"""Processes that check more than one interpreter can take in."""

_PATIENCE = 60.0
"""Seconds after which a process that does not answer is given up; it should take some 10 ms."""

_LAST = 1.0
"""Seconds for which one that does not work may end by itself, and so say why."""

_PAUSE = 60.0
"""Seconds for which threads do the work where processes do not come to work."""


def check_here(events: Sequence[Event]) -> Deferred[Checked]:
    """A :data:`Check` that is done when it returns, for tests and tools without a reactor."""
    return maybeDeferred(_check_here, events)


class CheckerProcess:
    """A :mod:`negd.sync.checker` and the socket to it, for one thread at a time.

    :raises OSError: it cannot be started.
    """

    def __init__(self) -> None:
        ours, theirs = socketpair()
        with theirs:
            try:
                self._process = Popen(
                    [sys.executable, "-P", "-m", "negd.sync.checker"],
                    stdin=theirs.fileno(),
                    stdout=DEVNULL,
                    env={
                        **os.environ,
                        "PYTHONPATH": os.pathsep.join(map(os.path.abspath, sys.path)),
                    },
                    start_new_session=True,
                )
            except BaseException:
                ours.close()
                raise
        ours.settimeout(_PATIENCE)
        self._socket = ours

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    @property
    def is_alive(self) -> bool:
        """Whether it runs."""
        return self._process.poll() is None

    def check(self, text: bytes) -> Checked:
        """See :func:`negd.sync.checker.check_lines`.

        :raises OSError: it has died or does not answer.
        """
        return ask(self._socket, text)

    def end(self, patience: float = 0) -> int:
        """End it, whatever it does: it has nothing to lose.

        :param patience: seconds for which it may end by itself.
        :returns: its exit status; minus a signal's number where that has ended it.
        """
        self._socket.close()
        with suppress(TimeoutExpired):
            return self._process.wait(patience)
        self._process.kill()
        return self._process.wait()


class Checkers:
    """A :data:`Check` on several processors.

    A process is not waited for while it starts, which takes as long as checking some thousand
    events: these are checked in threads.  One that dies is replaced when there is work for it: no
    event is taken for valid, none is lost.

    :param reactor: an IReactorFromThreads and IReactorTime.
    :param count: of processes, and of threads that check few events or wait for processes; 0 takes
        one per processor, four at most.
    """

    _log = Logger()

    def __init__(
        self, reactor: Any, count: int = 0, start: Callable[[], CheckerProcess] = CheckerProcess
    ) -> None:
        self._reactor = reactor
        self._count = count or min(_ENOUGH, os.cpu_count() or 1)
        self._start = start
        self._offload = ThreadOffload(reactor, self._count, "checking")
        self._starting = ThreadOffload(reactor, self._count, "starting")
        self._begun = 0
        self._idle: list[CheckerProcess] = []
        self._paused_until = 0.0

    @property
    def idle(self) -> int:
        """How many processes wait for work."""
        return len(self._idle)

    @property
    def processes(self) -> Use:
        """Those that are alive, or about to be."""
        dead = sum(not process.is_alive for process in list(self._idle))
        return Use(self._begun - dead, self._count)

    def start(self) -> None:
        """Have processes ready before there is work for them: a sync of a thousand events takes
        half as long again where they start beside it."""
        for _ in range(self._count):
            self._start_another()

    def __call__(self, events: Sequence[Event]) -> Deferred[Checked]:
        """Each event filed, or what is wrong with its id or signature.

        Fails with :class:`negd.sync.offload.Stopped` once :meth:`stop` was called.
        """
        size = min(_MANY, max(FEW, -(-len(events) // self._count)))
        shares = [events[at : at + size] for at in range(0, len(events), size)]
        checked = gatherResults(
            [self._offload(self._check, share) for share in shares], consumeErrors=True
        )
        return checked.addCallback(lambda parts: [one for part in parts for one in part])

    def lines(self, lines: Sequence[bytes]) -> Deferred[Checked]:
        """The event on each line, filed, or what is wrong with it.

        Fails as :meth:`__call__` does.
        """
        return self._offload(self._check_lines, lines)

    async def stop(self) -> None:
        """Finish what was begun, and end threads and processes."""
        await self._offload.stop()
        await self._starting.stop()
        while self._idle:
            self._idle.pop().end()

    # --- in the reactor's thread ----------------------------------------------------------------

    def _start_another(self) -> None:
        """Start a process, unless there are enough or they do not work."""
        if self._begun < self._count and self._reactor.seconds() >= self._paused_until:
            self._begun += 1
            started = self._starting(_started, self._start)
            started.addCallbacks(self._idle.append, self._note_no_start)

    def _note_no_start(self, failure: Failure) -> None:
        self._begun -= 1
        if failure.check(Stopped):
            return
        self._paused_until = self._reactor.seconds() + _PAUSE
        self._log.error(
            "processes to check events do not work, threads do it for {s:.0f} s: {error}",
            s=_PAUSE,
            error=failure.value,
        )

    def _replace(self, error: OSError) -> None:
        self._begun -= 1
        self._log.warn("a process that checks events is replaced: {error}", error=error)
        self._start_another()

    # --- in threads -----------------------------------------------------------------------------

    def _check(self, events: Sequence[Event]) -> Checked:
        if len(events) < FEW:
            return _check_here(events)
        return _kept(self._ask(lines_of(events)), events)

    def _check_lines(self, lines: Sequence[bytes]) -> Checked:
        return self._ask(b"\n".join(lines)) if lines else []

    def _ask(self, text: bytes) -> Checked:
        """Have lines checked by a process; here, where none is at hand."""
        try:
            process = self._idle.pop()
        except IndexError:
            self._reactor.callFromThread(self._start_another)
            return check_lines(text)
        try:
            answer = process.check(text)
        except OSError as error:
            process.end()
            self._reactor.callFromThread(self._replace, error)
            return check_lines(text)
        self._idle.append(process)
        return answer


def _check_here(events: Sequence[Event]) -> Checked:
    return _kept(map(checked, events), events)


def _kept(answer: Iterable[Filing | str], events: Sequence[Event]) -> Checked:
    """The filings, with their events at hand."""
    return [
        one if isinstance(one, str) else one.keep(event)
        for one, event in zip(answer, events, strict=True)
    ]


def _started(start: Callable[[], CheckerProcess]) -> CheckerProcess:
    """A process that has shown that it works.

    :raises OSError: it cannot be started, or does not answer.
    """
    process = start()
    try:
        process.check(b"")
    except OSError as error:
        raise ConnectionError(f"{error} (exit status {process.end(_LAST)})") from None
    except BaseException:
        process.end()
        raise
    return process
