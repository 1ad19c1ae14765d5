"""Ids that a peer may fall silent or hang up over, until it is clear which of them it is."""

from __future__ import annotations

from collections.abc import Mapping

_PARTS = 5
"""Into how many the ids of a REQ are parted that was not answered."""

_SIZES = (20, 4, 1)
"""Ids asked for at a time over which the link has ended twice, three times, and more often."""


class Suspects:
    """Groups of ids to be asked for when all others are, ever fewer at a time.

    :ivar blamed: ids that were asked for alone, and not answered, since the peer was heard last.
    """

    def __init__(self) -> None:
        self._groups: list[list[bytes]] = []
        self.blamed: list[bytes] = []

    def __len__(self) -> int:
        """How many groups there are."""
        return len(self._groups)

    def take(self) -> list[bytes]:
        """The next group."""
        return self._groups.pop()

    def set_aside(self, times: Mapping[bytes, int]) -> None:
        """Suspect ids in the middle of whose tries the link has ended so often, twice or more."""
        for at, size in enumerate(_SIZES, 2):
            some = [i for i, lost in times.items() if min(lost, len(_SIZES) + 1) == at]
            self._group(some, size)

    def narrow_down(self, ids: list[bytes]) -> None:
        """A REQ for these was not answered: ask for fewer of them, or blame the one that it was."""
        if len(ids) > 1:
            self._group(ids, -(-len(ids) // _PARTS))
        else:
            self.blamed += ids

    def _group(self, ids: list[bytes], size: int) -> None:
        self._groups += [ids[at : at + size] for at in range(0, len(ids), size)]

    def sentence(self) -> list[bytes]:
        """Those blamed, once: the peer is heard, so that it was they."""
        blamed, self.blamed = self.blamed, []
        return blamed
