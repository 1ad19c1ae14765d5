"""Reading a whole store: ids, signatures, and indexes held against events both ways.

In pieces, each one script, which sees an event and its indexes at one moment, so that all of it can
run while nodes write.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from struct import error as StructError

from negd.interfaces import VerifyReport
from negd.nostr.event import InvalidEvent, check, decode
from negd.storage.redis.frames import frames
from negd.storage.redis.reader import Offload, Run
from negd.storage.redis.values import json_in, value_of

_PIECE = 200
"""Things looked at in one script."""

_KEYS = 1000
"""Names of lists asked for at a time."""

_MOST_PROBLEMS = 1000

_START = b"0"


class Verification:
    """One run over a store.

    :param progress: told (events read, events in all) in the reactor thread.
    """

    def __init__(self, run: Run, offload: Offload, progress: Callable[[int, int], None]) -> None:
        self._run = run
        self._offload = offload
        self._progress = progress
        self._read = 0
        self._problems: list[str] = []
        self._unlisted = 0

    async def run(self) -> VerifyReport:
        """Look at everything.

        :raises negd.errors.StorageError: the server failed.
        """
        await self._events()
        await self._lists()
        await self._addresses()
        await self._expiry()
        if self._unlisted:
            self._problems.append(f"and {self._unlisted} more")
        return VerifyReport(self._read, self._problems)

    def _report(self, problems: Iterable[str]) -> None:
        for problem in problems:
            if len(self._problems) < _MOST_PROBLEMS:
                self._problems.append(problem)
            else:
                self._unlisted += 1

    async def _events(self) -> None:
        total = int((await self._run("count"))[0])
        cursor, more = _START, True
        while more:
            cursor, *found = await self._run("verify_events", cursor, _PIECE)
            self._report(await self._offload(_event_problems, found))
            self._read += len(found) // 3
            self._progress(self._read, max(self._read, total))
            more = cursor != _START
        if not self._read:
            self._progress(0, 0)

    async def _lists(self) -> None:
        """Whether each member of each list is of an event that belongs there."""
        cursor, more = _START, True
        while more:
            cursor, *lists = await self._run("lists", cursor, _KEYS)
            low = b"-"
            while lists:
                reply = await self._run("verify_lists", _PIECE, low, *lists)
                lists, low = lists[int(reply[0]) :], b"(" + reply[1]
                strays = zip(reply[2::2], reply[3::2], strict=True)
                self._report(f"{_name(key)} lists {m[8:40].hex()} wrongly" for key, m in strays)
            more = cursor != _START

    async def _addresses(self) -> None:
        cursor, more = _START, True
        while more:
            cursor, *strays = await self._run("verify_addresses", cursor, _PIECE)
            self._report(f"addresses: {i.hex()} holds what it has no right to" for i in strays)
            more = cursor != _START

    async def _expiry(self) -> None:
        low, last = b"-", b"-"
        while last:
            last, *strays = await self._run("verify_expiry", low, _PIECE)
            self._report(f"expiry lists {event_id.hex()} wrongly" for event_id in strays)
            low = b"(" + last


def _event_problems(found: list[bytes]) -> list[str]:
    """What is wrong with events: id, value and what lacks it, one after another."""
    problems: list[str] = []
    for event_id, value, lacking in zip(found[::3], found[1::3], found[2::3], strict=True):
        name = f"event {event_id.hex()}"
        problems += [f"{name}: not in {_name(key)}" for key in frames(lacking)]
        try:
            event = decode(json_in(value))
        except (InvalidEvent, StructError) as error:
            problems.append(f"{name}: {error}")
            continue
        fault = check(event)
        if fault is not None:
            problems.append(f"{name}: {fault}")
        if event.id_bytes != event_id or value_of(event, event.encode()) != value:
            problems.append(f"{name}: is not stored as it should be")
    return problems


def _name(key: bytes) -> str:
    """A list in words."""
    sort, colon, rest = key.partition(b":")
    if not colon:
        return key.decode()
    if sort == b"k":
        return f"the list of kind {int.from_bytes(rest, 'big')}"
    if sort == b"a":
        return f"the list of author {rest.hex()}"
    return f"the list of tag {rest[:1].decode(errors='replace')} {rest[1:].hex()}"
