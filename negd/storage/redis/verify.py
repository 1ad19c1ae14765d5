"""Reading a whole store: ids, signatures, indexes held against events both ways, and deletions.

In pieces, each one script, which sees an event and its indexes at one moment, so that all of it can
run while nodes write.  What is wrong is mended in the same way, and nodes learn of it by the feed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from struct import error as StructError

from negd.interfaces import VerifyReport
from negd.nostr.event import InvalidEvent, check, decode
from negd.nostr.filing import filing_of
from negd.storage.redis.frames import frames
from negd.storage.redis.reader import Offload, Run
from negd.storage.redis.values import MEMBER_SIZE, json_in, number, value_of

_PIECE = 200
"""Things looked at in one script."""

_FIRST_PIECE, _PIECE_BYTES = 4, 2_000_000
"""Events looked at in the first script, whose sizes are not known; bytes of them in the others."""

_KEYS = 1000
"""Names of lists asked for at a time."""

_MOST_PROBLEMS = 1000

_START = b"0"


@dataclass(frozen=True, slots=True)
class Mending:
    """Where wrong things are to be put right.

    :ivar now: second at which it begins, of two events with one address the expired one goes.
    :ivar feed_room: bytes of feed to keep.
    """

    now: int
    feed_room: int


class Verification:
    """One run over a store.

    :param progress: told (events read, events in all) in the reactor thread.
    :param mending: None for a look only.
    """

    def __init__(
        self,
        run: Run,
        offload: Offload,
        progress: Callable[[int, int], None],
        mending: Mending | None = None,
    ) -> None:
        self._run = run
        self._offload = offload
        self._progress = progress
        self._mending = mending
        self._room = b"" if mending is None else mending.feed_room
        self._read = 0
        self._problems: list[str] = []
        self._unlisted = 0

    async def run(self) -> VerifyReport:
        """Look at everything.

        :raises negd.errors.StorageError: the server failed.
        """
        await self._foreign()
        await self._events()
        await self._lists()
        await self._addresses()
        await self._expiry()
        await self._feed()
        repaired = len(self._problems) + self._unlisted if self._mending else 0
        if self._unlisted:
            self._problems.append(f"and {self._unlisted} more")
        return VerifyReport(self._read, self._problems, repaired)

    def _report(self, problems: Iterable[str]) -> None:
        for problem in problems:
            if len(self._problems) < _MOST_PROBLEMS:
                self._problems.append(problem)
            else:
                self._unlisted += 1

    async def _foreign(self) -> None:
        """Whether all that is named as a list is one: what comes next relies on that."""
        cursor, more = _START, True
        while more:
            cursor, _, *others = await self._run("lists", self._room, cursor, _KEYS)
            self._report(f"{_name(key)} is a key of another type" for key in others)
            more = cursor != _START

    async def _events(self) -> None:
        total = int((await self._run("count"))[0])
        cursor, more, piece = _START, True, _FIRST_PIECE
        while more:
            cursor, *found = await self._run("verify_events", cursor, piece)
            problems, mends = await self._offload(_look_at, found)
            self._report(problems)
            if self._mending and mends:
                now = number(self._mending.now)
                await self._run("mend_events", now, self._room, *mends)
            piece = _next_piece(found[1::3])
            self._read += len(found) // 3
            self._progress(self._read, max(self._read, total))
            more = cursor != _START
        if not self._read:
            self._progress(0, 0)

    async def _lists(self) -> None:
        """Whether each member of each list is of an event that belongs there."""
        cursor, more = _START, True
        while more:
            cursor, found, *_ = await self._run("lists", b"", cursor, _KEYS)
            lists, low = frames(found), b"-"
            while lists:
                reply = await self._run("verify_lists", self._room, _PIECE, low, *lists)
                lists, low = lists[int(reply[0]) :], b"(" + reply[1]
                strays = zip(reply[2::2], reply[3::2], strict=True)
                self._report(f"{_name(key)} lists {_id_in(m)} wrongly" for key, m in strays)
            more = cursor != _START

    async def _addresses(self) -> None:
        cursor, more = _START, True
        while more:
            cursor, *strays = await self._run("verify_addresses", self._room, cursor, _PIECE)
            self._report(f"addresses: {i.hex()} holds what it has no right to" for i in strays)
            more = cursor != _START

    async def _expiry(self) -> None:
        low, last = b"-", b"-"
        while last:
            last, *strays = await self._run("verify_expiry", self._room, low, _PIECE)
            self._report(f"expiry lists {event_id.hex()} wrongly" for event_id in strays)
            low = b"(" + last

    async def _feed(self) -> None:
        (known,) = await self._run("verify_feed", self._room)
        if known != b"1":
            self._report(["the feed does not know its last entry or its size"])


def _next_piece(values: list[bytes]) -> int:
    """How many events to look at, going by the sizes of the last ones."""
    average = sum(map(len, values)) // (len(values) or 1)
    return max(1, min(_PIECE, _PIECE_BYTES // (average or 1)))


def _look_at(found: list[bytes]) -> tuple[list[str], list[bytes]]:
    """What is wrong with events, and what ``mend_events`` wants to hear of those.

    :param found: id, value and what lacks it (framed), one after another.
    """
    problems: list[str] = []
    mends: list[bytes] = []
    for event_id, value, lacking in zip(found[::3], found[1::3], found[2::3], strict=True):
        faults = [_SAID.get(key) or f"not in {_name(key)}" for key in frames(lacking)]
        right, fault = _right_value(event_id, value)
        if fault:
            faults.append(fault)
        if faults:
            problems += [f"event {event_id.hex()}: {fault}" for fault in faults]
            mends += [event_id, value, right]
    return problems, mends


def _right_value(event_id: bytes, value: bytes) -> tuple[bytes, str | None]:
    """What should stand in the place of a value, nothing for no event; what is wrong with it."""
    try:
        event = decode(json_in(value))
    except (InvalidEvent, StructError) as error:
        return b"", str(error)
    if fault := check(event):
        return b"", fault
    if event.id_bytes != event_id:
        return b"", "another event stands there"
    right = value_of(filing_of(event))
    return right, None if right == value else "is not stored as it should be"


_SAID = {b"deleted": "is deleted", b"obeyed": "what it deletes is not remembered"}
"""What an event can lack besides lists."""


def _id_in(member: bytes) -> str:
    """The id in a list's member, hex; all of what is no such member."""
    return (member[8:40] if len(member) == MEMBER_SIZE else member).hex()


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
