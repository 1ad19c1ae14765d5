"""Work that would hold up the reactor goes to threads, through one small door."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from threading import Thread
from typing import Any, Protocol, TypeVar

from twisted.internet.defer import Deferred, DeferredList, maybeDeferred
from twisted.python.failure import Failure

from negd.errors import NegdError

T = TypeVar("T")


class Stopped(NegdError):
    """The threads that were to do it have been stopped."""


class Offload(Protocol):
    """Calls a function somewhere else; the Deferred fires in the reactor thread."""

    def __call__(self, work: Callable[..., T], /, *args: Any) -> Deferred[T]: ...


class ThreadOffload:
    """An :class:`Offload` over threads of its own, which start when they are needed.

    :param reactor: an IReactorFromThreads.
    :param threads: how many calls run at a time; more wait in line.
    """

    def __init__(self, reactor: Any, threads: int, name: str) -> None:
        self._reactor = reactor
        self._executor = ThreadPoolExecutor(threads, name)
        self._running: set[Deferred[Any]] = set()
        self._stopped = False

    def __call__(self, work: Callable[..., T], /, *args: Any) -> Deferred[T]:
        """The result of ``work(*args)``; cancelling lets go of it, and the call runs on.

        Fails with :class:`Stopped` once :meth:`stop` was called.
        """
        done: Deferred[T] = Deferred(lambda _: None)
        if self._stopped:
            done.errback(Stopped("its threads have been stopped"))
            return done
        running: Deferred[T] = Deferred()
        self._running.add(running)
        running.addBoth(self._finish, running, done)
        self._executor.submit(work, *args).add_done_callback(
            lambda future: self._reactor.callFromThread(_fire, running, future)
        )
        return done

    def _finish(self, result: T | Failure, running: Deferred[T], done: Deferred[T]) -> None:
        self._running.discard(running)
        if not done.called:
            done.callback(result)

    async def stop(self) -> None:
        """Let the calls that run or wait finish; returns when the threads have ended."""
        self._stopped = True
        await DeferredList(list(self._running))
        ended: Deferred[None] = Deferred(lambda _: None)
        # Joining threads takes no long time, but the reactor's thread is not the one to wait.
        Thread(target=self._join, args=(ended,), daemon=True).start()
        await ended

    def _join(self, ended: Deferred[None]) -> None:
        self._executor.shutdown()
        self._reactor.callFromThread(_tell, ended)


def _tell(ended: Deferred[None]) -> None:
    if not ended.called:
        ended.callback(None)


def _fire(running: Deferred[T], future: Future[T]) -> None:
    error = future.exception()
    running.callback(future.result() if error is None else Failure(error))


def inline(work: Callable[..., T], /, *args: Any) -> Deferred[T]:
    """An :class:`Offload` that calls at once, for tests and tools without a reactor."""
    return maybeDeferred(work, *args)
