"""What the calls of both services share: done in the reactor thread, faults told by status."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any, Protocol, TypeVar

import grpc
from twisted.internet.defer import Deferred
from twisted.logger import Logger

from negd.control.bridge import Abandoned, Bridge, Expired, Stopping
from negd.errors import ConfigError, LimitReached, NegdError, RemoteError, Unknown

Request = TypeVar("Request")
Response = TypeVar("Response")

_STATUSES: list[tuple[type[NegdError], grpc.StatusCode]] = [
    (ConfigError, grpc.StatusCode.INVALID_ARGUMENT),
    (RemoteError, grpc.StatusCode.INVALID_ARGUMENT),
    (Unknown, grpc.StatusCode.NOT_FOUND),
    (LimitReached, grpc.StatusCode.RESOURCE_EXHAUSTED),
    (Expired, grpc.StatusCode.DEADLINE_EXCEEDED),
    (Stopping, grpc.StatusCode.UNAVAILABLE),
    (Abandoned, grpc.StatusCode.CANCELLED),
    (NegdError, grpc.StatusCode.INTERNAL),
]

_log = Logger()


class Bridged(Protocol):
    """A servicer, as :func:`in_reactor` sees it."""

    @property
    def bridge(self) -> Bridge:
        """The way to the reactor thread."""


Servicer = TypeVar("Servicer", bound=Bridged)


def in_reactor(
    method: Callable[[Servicer, Request], Coroutine[Deferred[Any], Any, Response]],
) -> Callable[[Servicer, Request, grpc.ServicerContext], Response]:
    """A gRPC handler that has ``method`` run in the reactor thread."""

    @wraps(method)
    def handler(self: Servicer, request: Request, context: grpc.ServicerContext) -> Response:
        with faults(context):
            return self.bridge.call(context, lambda: method(self, request))

    return handler


@contextmanager
def faults(context: grpc.ServicerContext) -> Iterator[None]:
    """Answer what is raised with a status and one line; a surprise goes to the log."""
    try:
        yield
    except NegdError as error:
        status = next(status for kind, status in _STATUSES if isinstance(error, kind))
        context.abort(status, error.text)
    except Exception:
        _log.failure("a call of the control service failed")
        context.abort(grpc.StatusCode.INTERNAL, "internal error, see the log")
