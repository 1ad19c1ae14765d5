"""What has expired and cannot be removed, as the server takes no writes: no answer has it."""

from __future__ import annotations

import numpy as np

from negd.storage.postings import EMPTY, KEY, Records

MOST = 100_000
"""Events that can be left out of answers: some 25 MB, and 20 ms for a list."""


class Unswept:
    """Expired events that the server still has.

    :ivar ids: theirs.
    :ivar low: where to look for more, as Redis writes the lower end of a range.
    """

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        """There are none."""
        self.low = b"-"
        self.ids: set[bytes] = set()
        self._found: list[bytes] = []
        self._records: Records | None = EMPTY

    def __bool__(self) -> bool:
        return self.low != b"-"

    def add(self, records: list[bytes], last: bytes) -> None:
        """Add those up to ``last``, a member of the sorted set ``expiry``."""
        self.low = b"(" + last
        self.ids.update(record[8:] for record in records)
        self._found += records
        self._records = None

    @property
    def records(self) -> Records:
        """Theirs."""
        if self._records is None:
            self._records = np.unique(np.frombuffer(b"".join(self._found), KEY))
        return self._records
