"""How far syncs have come through the pages of a peer that does not reconcile.

A link may end, and the next sync goes on where it did.  What ends it may be just there: an event
that the peer chokes on, or that is too long for us to read.  Then smaller pages come closer to it,
and in the end a few seconds are stepped over.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from negd.nostr.filter import Filter
from negd.sync.windows import Window, whole

_SPREAD = 60
"""Seconds before a run from which on a later one looks for what is new: clocks differ."""

_SMALLER = 5
"""How much smaller the pages are that are asked for after each run in vain."""

_SHRINKS = 4
"""Runs in vain, in a row, after which a page is of one event; more of them step over seconds."""

_MOST_STEPS = 20
"""Of these, each of which steps over twice as many, ten days in the end; then all pages are read
again."""

_MOST_WITH_A_LINK = 3
"""Runs in vain, in a row, whose links do not end: then it is not the place that is wrong."""


@dataclass(frozen=True, slots=True)
class Reached:
    """Where a run has left off.

    :ivar left: windows whose pages are still to be read, in this order.
    :ivar as_of: the second at which it began.
    :ivar in_vain: runs that began here and got no further, less one for each that did.
    :ivar sent_later: ids found before, and not sent yet.
    """

    left: list[Window]
    as_of: int
    in_vain: int = 0
    sent_later: list[bytes] = field(default_factory=list)

    @classmethod
    def after(
        cls,
        left: list[Window],
        begun: list[Window],
        before: Reached | None,
        as_of: int,
        is_lost: bool,
    ) -> Reached | None:
        """Where the next run is to go on; None where it is to begin anew.

        :param begun: the windows that this one was to read.
        :param before: where it began, if not anew.
        :param is_lost: whether its link has ended.
        """
        in_vain = 0 if before is None else before.in_vain
        if left != begun:  # what ended the last one is near, or was passed
            return cls(left, as_of, max(0, min(in_vain, _SHRINKS) - 1))
        in_vain += 1
        if is_lost:
            return cls(left, as_of, in_vain) if in_vain <= _SHRINKS + _MOST_STEPS else None
        is_new = before is None or in_vain >= _MOST_WITH_A_LINK
        return None if is_new else cls(left, as_of, in_vain)

    @property
    def stepped_over(self) -> Window | None:
        """Seconds that the next run leaves out."""
        if self.in_vain <= _SHRINKS or not self.left:
            return None
        first = self.left[0]
        until = min(first.until, self.as_of)
        return Window(max(first.since, until + 1 - 2 ** (self.in_vain - _SHRINKS - 1)), until)

    def windows(self, wanted: Filter) -> list[Window]:
        """What is to be read next: what the run has left, then what is newer than it.

        In this order, as there may always be more news than fits into one link's life.
        """
        left, skipped = self.left, self.stepped_over
        if skipped is not None:
            first = replace(left[0], until=skipped.since - 1)
            left = [*([first] if first.since <= first.until else []), *left[1:]]
        until = whole(wanted).until
        since = max(whole(wanted).since, self.as_of - _SPREAD)
        if since > until or any(window.until == until for window in left):
            return left
        return [*left, Window(since, until)]

    def page_size(self, size: int) -> int:
        """Events of a first page, where so many are asked for at other times."""
        for _ in range(min(self.in_vain, _SHRINKS)):
            size = max(1, size // _SMALLER)
        return size
