"""From gRPC's pool threads to the reactor thread and back.

gRPC calls its handlers in threads and lets them block; everything of negd's lives in the reactor
thread and must not.  A *run* is one coroutine in the reactor thread that one pool thread waits
for.  It ends once, with whatever comes first: its outcome, the deadline, the end of the gRPC call
(the client cancelled or went away), or the end of the service.  In all but the first case the
coroutine is cancelled.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Coroutine, Iterator
from threading import Condition, Lock
from typing import Any, Generic, Protocol, TypeVar

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorFromThreads
from twisted.python.failure import Failure

from negd.errors import NegdError

T = TypeVar("T")
P = TypeVar("P")

Work = Callable[[], Coroutine[Deferred[Any], Any, T]]
"""Starts a coroutine; called in the reactor thread."""

Told = Callable[[Callable[[P], None]], Coroutine[Deferred[Any], Any, T]]
"""As :data:`Work`; the coroutine tells its progress through the argument."""

MAX_PROGRESS = 32
"""Progress waiting for a slow reader; beyond it the oldest is dropped."""


class Expired(NegdError):
    """The reactor did not answer before the deadline."""


class Stopping(NegdError):
    """The daemon is stopping."""


class Abandoned(NegdError):
    """The client cancelled the call or went away; nobody reads the answer."""


class Call(Protocol):
    """What of a ``grpc.ServicerContext`` the bridge needs."""

    def add_callback(self, callback: Callable[[], None], /) -> bool:
        """Call back when the gRPC call ends; false if it has ended."""


class Bridge:
    """Runs coroutines in the reactor thread for pool threads.

    :param deadline: seconds that :meth:`call` waits at most.
    """

    def __init__(self, reactor: IReactorFromThreads, deadline: float) -> None:
        self._reactor = reactor
        self._deadline = deadline
        self._lock = Lock()
        self._streams: set[_Run[Any, Any]] = set()
        self._draining = False

    def call(self, call: Call, work: Work[T]) -> T:
        """The result of a coroutine. Blocks; for pool threads.

        :raises Expired: it took longer than the deadline.
        :raises Abandoned: the gRPC call ended first.
        :raises Stopping: :meth:`drain` was called.
        :raises Exception: what the coroutine raised.
        """
        run: _Run[Any, T] = _Run(self._reactor)
        if self._draining:
            raise Stopping("the daemon is stopping")
        run.start(call, work)
        return run.wait(self._deadline)

    def stream(self, call: Call, work: Told[P, T]) -> Iterator[P | T]:
        """What a coroutine tells, then its result. Blocks between; for pool threads.

        A slow reader gets the newest of what was told; the reactor never waits for it.

        :raises: as :meth:`call`, but for the deadline: there is none.
        """
        run: _Run[P, T] = _Run(self._reactor)
        with self._lock:
            if self._draining:
                raise Stopping("the daemon is stopping")
            self._streams.add(run)
        try:
            run.start(call, lambda: work(run.tell))
            yield from run.told()
            yield run.wait(None)
        finally:
            run.end(Abandoned("the call has ended"))
            with self._lock:
                self._streams.discard(run)

    def drain(self) -> None:
        """Start nothing more and end the streams; calls under way may finish."""
        with self._lock:
            self._draining = True
            streams = list(self._streams)
        for run in streams:
            run.end(Stopping("the daemon is stopping"))


class _Run(Generic[P, T]):
    """One coroutine in the reactor thread, and the pool thread that waits for it."""

    def __init__(self, reactor: IReactorFromThreads) -> None:
        self._reactor = reactor
        self._changed = Condition()
        self._told: deque[P] = deque(maxlen=MAX_PROGRESS)
        self._outcome: Callable[[], T] | None = None
        self._deferred: Deferred[T] | None = None  # touched in the reactor thread only

    # --- in the pool thread ---------------------------------------------------------------------

    def start(self, call: Call, work: Work[T]) -> None:
        """Have the coroutine started, and ended with the gRPC call."""
        if call.add_callback(lambda: self.end(Abandoned("the call has ended"))):
            self._reactor.callFromThread(self._begin, work)
        else:
            self._settle_with(Abandoned("the call has ended"))

    def wait(self, seconds: float | None) -> T:
        """The coroutine's result, or what ended the run; None waits for ever."""
        with self._changed:
            settled = self._changed.wait_for(lambda: self._outcome is not None, seconds)
        if not settled:
            self.end(Expired("no answer before the deadline"))
        assert self._outcome is not None
        return self._outcome()

    def told(self) -> Iterator[P]:
        """Progress as it comes, until the run has ended."""
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._told or self._outcome is not None)
                if not self._told:
                    return
                progress = self._told.popleft()
            yield progress

    # --- in any thread --------------------------------------------------------------------------

    def end(self, error: NegdError) -> None:
        """End the run with an error and cancel the coroutine; nothing if it has ended."""
        if self._settle_with(error):
            self._reactor.callFromThread(self._cancel)

    def _settle_with(self, error: BaseException) -> bool:
        def raise_error() -> T:
            raise error

        return self._settle(raise_error)

    def _settle(self, outcome: Callable[[], T]) -> bool:
        """Take the first outcome; false if there was one."""
        with self._changed:
            if self._outcome is not None:
                return False
            self._outcome = outcome
            self._changed.notify_all()
            return True

    # --- in the reactor thread ------------------------------------------------------------------

    def tell(self, progress: P) -> None:
        """Queue progress for the pool thread."""
        with self._changed:
            self._told.append(progress)
            self._changed.notify_all()

    def _begin(self, work: Work[T]) -> None:
        if self._outcome is None:
            self._deferred = Deferred.fromCoroutine(work())
            self._deferred.addCallbacks(self._succeed, self._fail)

    def _succeed(self, result: T) -> None:
        self._settle(lambda: result)

    def _fail(self, failure: Failure) -> None:
        assert failure.value is not None
        self._settle_with(failure.value)

    def _cancel(self) -> None:
        if self._deferred is not None:
            self._deferred.cancel()
