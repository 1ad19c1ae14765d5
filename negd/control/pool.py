"""The threads that answer gRPC calls, and how many calls there are: gRPC itself does not tell."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

import grpc

T = TypeVar("T")


class CallPool(ThreadPoolExecutor):
    """Where gRPC has each call answered that it takes.

    :ivar calls: those that wait for a thread or run in one.
    """

    def __init__(self, threads: int) -> None:
        super().__init__(threads, thread_name_prefix="control")
        self.calls: set[Future[Any]] = set()

    def submit(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> Future[T]:
        """See :meth:`concurrent.futures.Executor.submit`; gRPC hands in each call once."""
        call = super().submit(fn, *args, **kwargs)
        self.calls.add(call)
        call.add_done_callback(self.calls.discard)
        return call


class RefusedCalls(grpc.ServerInterceptor):
    """Counts the calls that come while there are as many as gRPC was told to take.

    gRPC asks interceptors first, one call after another, and refuses then.

    :ivar count: since the start.
    """

    def __init__(self, pool: CallPool, most: int) -> None:
        self._pool = pool
        self._most = most
        self.count = 0

    def intercept_service(
        self, continuation: Callable[[Any], Any], handler_call_details: grpc.HandlerCallDetails
    ) -> Any:
        """Leave the call as it is."""
        handler = continuation(handler_call_details)
        if handler is not None and len(self._pool.calls) >= self._most:
            self.count += 1
        return handler
