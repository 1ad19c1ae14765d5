"""Work on a store, in a reactor of this process."""

from __future__ import annotations

import signal
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import react
from twisted.logger import ILogObserver, LogEvent, LogLevel, formatEvent, globalLogPublisher
from zope.interface import provider

from negd.cli.output import complain
from negd.errors import DamagedStore, OlderStore
from negd.interfaces import IStorage
from negd.storage import open_store

Work = Callable[[Any, IStorage], Awaitable[int]]
"""Takes the reactor and the storage; returns the exit status."""

Mend = Callable[[Any, DamagedStore], Awaitable[None]]
"""Takes the reactor and why a store cannot be opened; makes that it can."""


def run_on_store(
    store: str,
    work: Work,
    *,
    read_only: bool,
    missing_ok: bool = True,
    mend: Mend | None = None,
) -> int:
    """Open a store, work on it, close it; the exit status.

    What the store warns of goes to stderr.

    The first interrupt cancels the work and has the store closed in order; a second one kills.

    :param missing_ok: whether a store to be written to is made where there is none.
    :param mend: called where the store is too damaged to be opened, before another attempt.
    :raises KeyboardInterrupt: it was interrupted.
    :raises negd.errors.NegdError: the store cannot be opened, or failed.
    :raises Exception: what the work raised.
    """

    async def main(reactor: Any) -> int:
        if not (read_only or missing_ok):
            await _see_that_it_is_there(reactor, store)
        return await _opened(reactor, store, work, read_only, mend)

    globalLogPublisher.addObserver(_warn)
    try:
        return _result(main)
    finally:
        globalLogPublisher.removeObserver(_warn)


def _result(main: Callable[[Any], Awaitable[int]]) -> int:
    """Run a reactor until ``main``, which is called with it, has returned.

    :raises KeyboardInterrupt: it was interrupted.
    """
    code = 1
    raised: Exception | None = None

    async def run(reactor: Any) -> None:
        nonlocal code, raised
        try:
            code = await main(reactor)
        except Exception as error:
            raised = error

    def start(reactor: Any) -> Deferred[None]:
        done = Deferred.fromCoroutine(run(reactor))
        reactor.callWhenRunning(_cancel_on_signals, reactor, done)
        return done

    with suppress(SystemExit):  # react always ends so; the status is ours
        react(start)
    if isinstance(raised, CancelledError):
        raise KeyboardInterrupt
    if raised is not None:
        raise raised
    return code


@provider(ILogObserver)
def _warn(event: LogEvent) -> None:
    """Say what a store warns of; Twisted itself says what is worse."""
    if event.get("log_level") in (LogLevel.warn, LogLevel.error):
        complain(formatEvent(event) or "")


async def _opened(
    reactor: Any, store: str, work: Work, read_only: bool, mend: Mend | None = None
) -> int:
    try:
        storage = await open_store(store, reactor, read_only)
    except DamagedStore as error:
        if mend is None:
            raise
        await mend(reactor, error)
        storage = await open_store(store, reactor, read_only)
    try:
        return await work(reactor, storage)
    finally:
        await storage.close()


async def _see_that_it_is_there(reactor: Any, store: str) -> None:
    """Opening for writing would make it; opening for reading does not."""

    async def nothing(reactor: Any, storage: IStorage) -> int:
        return 0

    with suppress(OlderStore, DamagedStore):
        await _opened(reactor, store, nothing, True)


def _cancel_on_signals(reactor: Any, done: Deferred[None]) -> None:
    def interrupted(*_: object) -> None:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_DFL)
        reactor.callFromThread(done.cancel)

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, interrupted)
