"""The file in which an import notes bad lines."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


class Rejects:
    """A file that is made anew, and closed at the end of the context.

    :raises OSError: as all methods do where the file cannot be written; it names the file.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        with self._named():
            self._file = open(path, "w", encoding="utf-8")  # noqa: SIM115

    def write(self, text: str) -> None:
        """Write some text, sooner or later."""
        with self._named():
            self._file.write(text)

    def __enter__(self) -> Rejects:
        return self

    def __exit__(self, *_: object) -> None:
        with self._named():
            self._file.close()

    @contextmanager
    def _named(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise OSError(error.errno, error.strerror, self._path) from error
