"""Keeping what is held in step with a database that others use too.

A whole listing is taken over at the start, after every loss of the connection and now and then.
In between, the numbers under which the database stores are followed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall
from twisted.logger import Logger
from twisted.python.failure import Failure

from negd.errors import StorageError
from negd.nostr.event import Event
from negd.reconcile import RecordSet
from negd.storage.orlydb.database import Away
from negd.storage.orlydb.following import Following
from negd.storage.orlydb.gen.orlydb.v1 import service_pb2 as proto
from negd.storage.orlydb.held import Held
from negd.storage.orlydb.reading import Reading
from negd.storage.orlydb.survey import Survey
from negd.storage.shared import Shared
from negd.sync.offload import Offload

log = Logger()

POLL = 1.0
"""Seconds between two looks at what others wrote."""

RELIST = 600.0
"""Seconds between two listings of everything; more where these take long."""

_LISTING_SHARE = 50
"""A listing may take one in so many seconds."""


class Upkeep:
    """Looks at the database, on its own and when it is asked to.

    :param clock: an IReactorTime.
    :param is_patient: whether the first look ends only when old versions are sorted out.
    :param tell: called with each new event of others, in the order of storing.
    :ivar catch_up: fires once what is in the database is held, or fails with a StorageError.
    """

    def __init__(
        self,
        clock: Any,
        calls: Offload,
        reading: Reading,
        held: Held,
        following: Following,
        is_patient: bool,
        tell: Callable[[Event], None],
    ) -> None:
        self._clock = clock
        self._calls = calls
        self._reading = reading
        self._held = held
        self._following = following
        self._is_patient = is_patient
        self._tell = tell
        self.catch_up = Shared(self._catch_up)
        self._relist = Shared(self._list_everything)
        self._survey = Shared(self._survey_everything)
        self._is_survey_due = True
        self._is_lost = False
        self._listed_serials = np.empty(0, np.uint64)
        self._next_listing = 0.0
        self._timer: IDelayedCall | None = None
        self._stopped = False

    def start(self) -> None:
        """Look now, and again every :data:`POLL` seconds."""
        self._timer = None
        Deferred.fromCoroutine(self._look())

    def stop(self) -> None:
        """Look no more."""
        self._stopped = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    async def _look(self) -> None:
        try:
            await self.catch_up()
        except StorageError:
            pass  # said already; who asks gets the same answer
        except Exception:
            log.failure("looking at the database failed")
        if not self._stopped:
            self._timer = self._clock.callLater(POLL, self.start)

    async def _catch_up(self) -> None:
        try:
            if not self._held.is_loaded:
                await self._begin()
            elif self._is_lost:
                await self._resume()
            await self._follow()
        except Away as error:
            self._lose(error)
            raise
        if self._is_survey_due:
            self._in_background(self._survey())
        if self._clock.seconds() >= self._next_listing:
            self._in_background(self._relist())

    async def _begin(self) -> None:
        await self._relist()
        self._following.start_after(self._listed_serials)
        self._is_lost = False
        if self._is_patient:
            await self._survey()

    async def _resume(self) -> None:
        await self._follow()
        await self._relist()
        if self._following.is_of_another_database(self._listed_serials):
            self._following.start_after(self._listed_serials)
        await self._follow()
        self._following.skip_to(self._listed_serials)
        self._is_lost = False
        self._is_survey_due = True
        log.info("the database is back")

    async def _follow(self) -> None:
        """Take in what others wrote, and tell of it."""
        is_more = True
        while is_more:
            new: list[Event] = []
            try:
                is_more = await self._following.step(new)
            finally:
                await self._held.flush()
                for event in new:
                    self._tell(event)

    def _lose(self, error: Away) -> None:
        if not self._is_lost and not self._stopped:
            log.warn("{text}", text=error.text)
        self._is_lost = True

    async def _list_everything(self) -> None:
        began = self._clock.seconds()
        self._next_listing = began + RELIST

        async def listing() -> RecordSet:
            listed = await self._reading.listed(proto.Filter())
            self._listed_serials = listed.serials
            return await self._calls(listed.to_set)

        await self._held.replace(listing)
        self._next_listing += _LISTING_SHARE * (self._clock.seconds() - began)

    async def _survey_everything(self) -> None:
        self._is_survey_due = False
        survey = Survey(self._clock, self._calls, self._reading, self._held)
        try:
            if len(self._held.records):
                await survey.run()
        except StorageError:
            self._is_survey_due = True
            raise

    def _in_background(self, work: Deferred[None]) -> None:
        """Let it run; what fails is due again, or fails where it is needed."""
        work.addErrback(self._failed_in_background)

    def _failed_in_background(self, failure: Failure) -> None:
        if not failure.check(StorageError):
            log.failure("work on the database's listings failed", failure)
