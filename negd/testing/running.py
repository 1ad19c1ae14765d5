"""What runs between a start and a stop."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Self


class Running(ABC):
    """A server, or a process with one: a context manager that starts and stops it."""

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @abstractmethod
    def start(self) -> None:
        """Serve, and return when it can be reached."""

    @abstractmethod
    def stop(self) -> object:
        """Serve no more."""
