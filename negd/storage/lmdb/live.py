"""The record sets that are kept in memory and follow each commit: of everything, and of each
standing filter."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import TypeAlias

from negd.nostr.filter import EVERYTHING, Filter
from negd.reconcile import RecordSet
from negd.storage.lmdb.changes import Changes

_MOST_TOUCHED = 20_000
"""Records by which the sets may be behind the last commit."""

Sets: TypeAlias = Mapping[Filter, RecordSet]
"""By filters without bounds."""


def unbounded(wanted: Filter) -> Filter:
    """The filter without ``since``, ``until`` and ``limit``."""
    return replace(wanted, since=None, until=None, limit=None)


def bases(standing: Iterable[Filter]) -> list[Filter]:
    """The filters of the sets that are kept: one of a kind, without bounds, everything first."""
    return list(dict.fromkeys([EVERYTHING, *map(unbounded, standing)]))


def find(sets: Sets, wanted: Filter) -> RecordSet | None:
    """The records of what matches but for its bounds; None where no such set is kept."""
    return sets.get(unbounded(wanted))


class LiveSets:
    """The sets as of the last commit or a little behind it; used by the writer's thread."""

    def __init__(self, sets: Sets) -> None:
        self.sets = sets
        self._touched: dict[bytes, bool] = {}
        self._matching: dict[Filter, list[bytes]] = {}

    @property
    def behind(self) -> bool:
        """Whether the sets lack something that is committed."""
        return bool(self._touched)

    def follow(self, changes: Changes) -> None:
        """Take note of a commit.

        While more is to be written the sets wait, since to change them can cost more than the
        writing: each chunk that is touched is made anew.
        """
        self._touched.update(changes.records)
        for wanted in self.sets:
            if wanted != EVERYTHING:
                new = (new.record for new in changes.told if wanted.matches(new.event))
                self._matching.setdefault(wanted, []).extend(new)
        if changes.last or len(self._touched) > _MOST_TOUCHED:
            self._catch_up()

    def _catch_up(self) -> None:
        gone = b"".join(record for record, present in self._touched.items() if not present)
        new = [record for record, present in self._touched.items() if present]
        self.sets = {
            wanted: records.delete(gone).insert(b"".join(self._new(wanted, new)))
            for wanted, records in self.sets.items()
        }
        self._touched.clear()
        self._matching.clear()

    def _new(self, wanted: Filter, new: list[bytes]) -> list[bytes]:
        """Those of the new records that belong to one of the sets."""
        if wanted == EVERYTHING:
            return new
        return [record for record in self._matching.get(wanted, ()) if self._touched.get(record)]
