"""Cutting a reconciliation into windows of time, for a peer that takes only so many records."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from negd.nostr.event import MAX_TIMESTAMP
from negd.nostr.filter import Filter
from negd.reconcile import RecordSet

_PARTS = 2
_MOST_PARTS = 1024


@dataclass(frozen=True, slots=True)
class Window:
    """Seconds from ``since`` to ``until``, both inclusive."""

    since: int
    until: int

    def of(self, wanted: Filter) -> Filter:
        """The filter within this window; bounds that limit nothing stay out of it."""
        return replace(
            wanted,
            since=self.since or None,
            until=None if self.until >= MAX_TIMESTAMP else self.until,
        )


def whole(wanted: Filter) -> Window:
    """The window of a filter's own bounds."""
    until = MAX_TIMESTAMP if wanted.until is None else min(wanted.until, MAX_TIMESTAMP)
    return Window(wanted.since or 0, until)


def joined(windows: Iterable[Window]) -> Iterator[Window]:
    """Windows, newest first, with those that follow each other made one."""
    one: Window | None = None
    for window in windows:
        if one is None or window.until + 1 != one.since:
            if one is not None:
                yield one
            one = window
        one = Window(window.since, one.until)
    if one is not None:
        yield one


def split(window: Window, records: RecordSet, limit: int | None, now: int) -> list[Window]:
    """Smaller windows that cover ``window``, newest last; empty where it cannot be cut.

    The cuts lie where our own records are cut into equal parts, on the guess that the peer's are
    spread alike: in two, or in as many as make each half of the stated ``limit``.  Where we hold
    too few to tell, time itself is halved, up to ``now`` and what lies beyond it.

    :param records: what we hold in the window.
    """
    cuts = _cuts_by_count(window, records, limit) or _cuts_by_time(window, now)
    starts = [window.since, *cuts]
    return (
        [
            Window(since, until)
            for since, until in zip(starts, [*(cut - 1 for cut in cuts), window.until], strict=True)
        ]
        if cuts
        else []
    )


def _cuts_by_count(window: Window, records: RecordSet, limit: int | None) -> list[int]:
    parts = _PARTS
    if limit is not None:
        parts = max(parts, min(_MOST_PARTS, -(-2 * len(records) // max(1, limit))))
    size = len(records) // parts
    if size == 0:
        return []
    cuts = {_second(records, part * size) for part in range(1, parts)}
    return sorted(cut for cut in cuts if window.since < cut <= window.until)


def _second(records: RecordSet, index: int) -> int:
    return int.from_bytes(records.record(index)[:8], "big")


def _cuts_by_time(window: Window, now: int) -> list[int]:
    if window.since < now < window.until:
        return [now]
    middle = window.since + (window.until - window.since + 1) // 2
    return [middle] if middle > window.since else []
