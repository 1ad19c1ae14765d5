"""Long reading that leaves the interpreter to others for most of the time."""

from __future__ import annotations

import time
from collections.abc import Callable
from threading import Event
from typing import TypeAlias

from negd.errors import StorageError

_WORK, _REST = 0.002, 0.006
"""Seconds. Without rests, what else the process reads meanwhile takes three times as long."""


Pause: TypeAlias = Callable[[], None]
"""Called between small pieces of work."""


def at_once() -> None:
    """No pause."""


class Pace:
    """A pause that rests; :meth:`stop` ends the work from another thread."""

    def __init__(self) -> None:
        self._stopped = Event()
        self._began = time.monotonic()

    @property
    def is_stopped(self) -> bool:
        return self._stopped.is_set()

    def stop(self) -> None:
        """Have the work end."""
        self._stopped.set()

    def __call__(self) -> None:
        """Rest where it is time to.

        :raises StorageError: the work is to end.
        """
        if time.monotonic() - self._began > _WORK:
            if self._stopped.wait(_REST):
                raise StorageError("the store is being closed")
            self._began = time.monotonic()
