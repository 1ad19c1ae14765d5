"""What others write into the database, found by the numbers that it gives to events in order."""

from __future__ import annotations

from collections import OrderedDict

import numpy as np
import numpy.typing as npt
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from negd.errors import StorageError
from negd.nostr.event import Event
from negd.nostr.kinds import DELETION
from negd.nostr.lifecycle import Address, address_of, deletions_of, is_expired
from negd.storage.orlydb.admission import Admission
from negd.storage.orlydb.database import Away
from negd.storage.orlydb.held import Held
from negd.storage.orlydb.reading import Reading

log = Logger()

_AHEAD = 32
"""Numbers beyond the highest known that are asked for at first."""

_FURTHEST = 512

_DURING_A_LISTING = 1000

_PATIENCE = 10
"""How often a number that was passed over is asked for: its event may be committed late. So it is
those of ten steps that are asked for again, and of one listing: some thousands."""


_MOST_UNMET = 50_000
"""Own events whose numbers are waited for: what the database stores within half a minute."""


class OwnSaves:
    """The events that go into the database from here: following must not take them for others'.

    :ivar in_flight: ids of which it is not known yet whether they are stored; as many as there are
        saves at a time.
    """

    def __init__(self) -> None:
        self.in_flight: set[bytes] = set()
        self._unmet: OrderedDict[bytes, None] = OrderedDict()

    def stored(self, event_id: bytes) -> None:
        """Wait for the number of an event; of too many, the oldest is waited for no more.

        Some never come up: a listing went past them, or the event was deleted before. One that
        comes up when it is waited for no more is told of a second time.
        """
        self._unmet[event_id] = None
        if len(self._unmet) > _MOST_UNMET:
            self._unmet.popitem(last=False)

    def meet(self, event_id: bytes) -> bool:
        """Whether the number that has come up is of an event that is waited for; it is no more."""
        found = event_id in self._unmet
        self._unmet.pop(event_id, None)
        return found


class Following:
    """Takes in what others have written since the last time.

    :ivar top: the highest number met; -1 for none.
    """

    def __init__(
        self,
        clock: IReactorTime,
        reading: Reading,
        held: Held,
        admission: Admission,
        own: OwnSaves,
    ) -> None:
        self._clock = clock
        self._reading = reading
        self._held = held
        self._admission = admission
        self._own = own
        self.top = -1
        self._ahead = _AHEAD
        self._passed_over: dict[int, int] = {}

    def start_after(self, listed: npt.NDArray[np.uint64]) -> None:
        """Take the events of a listing for known.

        Numbers below its highest one that it lacks may belong to events that were stored while it
        was made: the last thousand of these are asked for once.
        """
        self.top = _highest(listed)
        recent = set(listed[listed + _DURING_A_LISTING > self.top].tolist())
        lacking = set(range(max(0, self.top - _DURING_A_LISTING + 1), self.top)) - recent
        self._passed_over = dict.fromkeys(sorted(lacking), 0)

    def is_of_another_database(self, listed: npt.NDArray[np.uint64]) -> bool:
        """Whether a listing made just now lacks what was there: its numbers end well below ours."""
        return _highest(listed) < self.top - _FURTHEST

    def skip_to(self, listed: npt.NDArray[np.uint64]) -> None:
        """Go on from a listing's end where there is nothing in between.

        A database that is killed loses the numbers that it had set aside.
        """
        self.top = max(self.top, _highest(listed))

    async def step(self, new: list[Event]) -> bool:
        """Hold some of what is new, and append it to ``new``, lowest number first.

        :returns: whether there is more.
        :raises negd.errors.StorageError: what was not reached is left for the next time.
        """
        begin = self.top + 1
        asked = [*self._passed_over, *range(begin, begin + self._ahead)]
        found = await self._reading.by_serials(asked)
        self.top = max([self.top, *found])
        for serial, event in self._sift(asked, found):
            if await self._learn(event):
                new.append(event)
            del self._passed_over[serial]
        is_more = self.top >= begin + self._ahead // 2
        self._ahead = min(2 * self._ahead, _FURTHEST) if is_more else _AHEAD
        return is_more

    def _sift(self, asked: list[int], found: dict[int, Event | None]) -> list[tuple[int, Event]]:
        """The events to learn of. They count as passed over, as do others not to be had yet."""
        new: list[tuple[int, Event]] = []
        for serial in asked:
            tries = self._passed_over.pop(serial, _PATIENCE)
            event = found.get(serial)
            if event is None:
                if serial not in found and serial < self.top and tries:
                    self._passed_over[serial] = tries - 1
            elif not self._own.meet(event.id_bytes):
                self._passed_over[serial] = tries
                if event.id_bytes not in self._own.in_flight:
                    new.append((serial, event))
        return new

    async def _learn(self, event: Event) -> bool:
        """Whether the event is held, after what it asks is done."""
        if is_expired(event, self._clock.seconds()):
            self._held.leave_out(event.record)
            return False
        address = address_of(event)
        try:
            if address is not None and not await self._is_latest(event, address):
                self._held.leave_out(event.record)
                return False
            if event.kind == DELETION:
                await self._learn_deletion(event)
        except Away:
            raise
        except StorageError as error:
            log.warn("cannot tell what event {id} replaces: {text}", id=event.id, text=error.text)
        self._held.add(event)
        return True

    async def _is_latest(self, event: Event, address: Address) -> bool:
        """Whether it is the version that counts; others near it are left out."""
        versions = await self._reading.versions(address)
        for version in versions[1:]:
            self._held.leave_out(version.record)
        return bool(versions) and versions[0].id == event.id

    async def _learn_deletion(self, deletion: Event) -> None:
        named = deletions_of(deletion).ids
        kept = await self._reading.known(list(named))
        for record in await self._held.records_of(named - kept):
            self._held.leave_out(record)
        for event in await self._admission.doomed(deletion):
            if event.kind != DELETION:
                self._held.leave_out(event.record)


def _highest(serials: npt.NDArray[np.uint64]) -> int:
    return int(serials.max()) if len(serials) else -1
