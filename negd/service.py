"""The daemon's life: what starts in order stops in the reverse order, each step within a bound.

``MultiService`` would stop everything at once, the storage while sessions still drain; and an
endpoint that cannot be opened would only be logged.  Here a start that fails ends the process.
"""

from __future__ import annotations

import atexit
import os
import signal
import sys
from collections.abc import Callable, Coroutine
from typing import Any

from twisted.application.service import Service
from twisted.internet.defer import CancelledError, Deferred, TimeoutError, maybeDeferred
from twisted.internet.error import ReactorNotRunning
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from negd.errors import NegdError

STOP_WITHIN = 10.0
"""Seconds that one step of stopping may take before the next one begins all the same."""


class Undoing:
    """What was started and must be stopped: last in, first out."""

    _log = Logger()

    def __init__(self, clock: IReactorTime) -> None:
        self._clock = clock
        self._steps: list[tuple[str, Callable[[], object]]] = []

    def push(self, name: str, undo: Callable[[], object]) -> None:
        """Call ``undo`` when the daemon stops, before everything pushed so far.

        What it returns is awaited, where that is a coroutine or a Deferred.
        """
        self._steps.append((name, undo))

    async def run(self) -> None:
        """Undo everything. A step that fails or takes too long is logged and left behind."""
        while self._steps:
            name, undo = self._steps.pop()
            try:
                await maybeDeferred(undo).addTimeout(STOP_WITHIN, self._clock)
            except TimeoutError:
                self._log.error("{name}: not stopped within {s} s", name=name, s=STOP_WITHIN)
            except Exception:
                self._log.failure("{name}: did not stop well", name=name)


class Daemon(Service):
    """Starts once the reactor runs; a start that fails stops the reactor.

    :param start: opens everything, in order, pushing onto the :class:`Undoing` as it goes.
    :param reactor: an IReactorCore and IReactorTime.
    :param give_up: called with the one line that says why the start failed.
    """

    _log = Logger()

    def __init__(
        self,
        start: Callable[[Undoing], Coroutine[Deferred[Any], Any, None]],
        reactor: Any,
        give_up: Callable[[str], None],
    ) -> None:
        self._start = start
        self._reactor = reactor
        self._give_up = give_up
        self._undoing = Undoing(reactor)
        self._starting: Deferred[None] | None = None

    def startService(self) -> None:
        """Start as soon as the reactor runs: twistd calls this before it does."""
        super().startService()
        self._reactor.callWhenRunning(self._begin)

    def _begin(self) -> None:
        if self.running:
            self._starting = Deferred.fromCoroutine(self._start(self._undoing))
            self._starting.addErrback(self._failed)

    def _failed(self, failure: Failure) -> None:
        if not self.running:  # stopService gave up the start
            if not failure.check(CancelledError):
                self._log.failure("the start under way ended with an error", failure)
            return
        if isinstance(failure.value, NegdError):
            text = failure.value.text
        else:
            self._log.failure("negd cannot start", failure)
            text = f"internal error: {failure.getErrorMessage()}"
        self._log.critical("negd cannot start: {text}", text=text)
        self._give_up(text)
        self._reactor.stop()

    def stopService(self) -> Deferred[None]:
        """Give up a start under way, then stop what was started, last first."""
        super().stopService()
        return Deferred.fromCoroutine(self._stop())

    async def _stop(self) -> None:
        if self._starting is not None:
            self._starting.cancel()
            await self._starting
        await self._undoing.run()
        self._log.info("negd has stopped")


def give_up(text: str) -> None:
    """Say on the real stderr why the daemon ends, and have the process end with status 1.

    twistd redirects ``sys.stderr`` to the log, and has no exit status of its own to give once
    the reactor ran.  Its last act, after the pid file is gone, is to run the exit handlers.
    """
    if sys.__stderr__ is not None:
        print(f"negd: {text}", file=sys.__stderr__, flush=True)
    atexit.register(_exit_failed)


def _exit_failed() -> None:
    for stream in (sys.__stdout__, sys.__stderr__):
        if stream is not None:
            stream.flush()
    os._exit(1)


def stop_on(number: signal.Signals, reactor: Any) -> None:
    """Let a signal stop the reactor, and the process end with status 0 then.

    With its own handler Twisted ends the process by the same signal after a clean stop, which
    those who look at exit statuses take for a crash.
    """

    def stop() -> None:
        try:
            reactor.stop()
        except ReactorNotRunning:
            pass  # it is stopping: the signal came twice

    signal.signal(number, lambda *_: reactor.callFromThread(stop))
