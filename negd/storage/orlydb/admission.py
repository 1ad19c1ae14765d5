"""What becomes of an event that is handed in: the rules, asked of a database that knows some.

Of regular events the database knows itself whether they are there or were deleted.  Of
replaceable ones it goes by the second alone, and by other marks of deletion than NIP-09 names, so
those are asked here first.  It checks neither expiry nor signature.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime

from negd.interfaces import Outcome, Verdict
from negd.nostr.event import Event
from negd.nostr.kinds import DELETION, is_ephemeral
from negd.nostr.lifecycle import Address, address_of, deletions_of, is_expired, replaces
from negd.storage.orlydb.codec import Unstorable
from negd.storage.orlydb.held import Held
from negd.storage.orlydb.reading import Reading

Save = Callable[[Event], Coroutine[Deferred[Any], Any, "str | None"]]
"""Has the database store an event; None, or the reason why it refuses."""


class Admission:
    """Decides on events, and tells :class:`Held` what follows.

    Events of one author come one after another; different authors' do not touch each other.
    """

    def __init__(self, clock: IReactorTime, reading: Reading, held: Held, save: Save) -> None:
        self._clock = clock
        self._reading = reading
        self._held = held
        self._save = save

    async def admit(self, event: Event) -> Verdict:
        """Store an event if the rules and the database allow it, and do what it asks.

        :raises negd.errors.StorageError: whether it is stored is not known.
        """
        if is_expired(event, self._clock.seconds()):
            return Verdict(Outcome.EXPIRED)
        if is_ephemeral(event.kind):
            return Verdict(Outcome.EPHEMERAL)
        try:
            if event.kind == DELETION:
                return await self._admit_deletion(event)
            address = address_of(event)
            if address is not None:
                return await self._admit_version(event, address)
            return await self._store(event)
        except Unstorable as error:
            return Verdict(Outcome.INVALID, error.text)

    async def _admit_version(self, event: Event, address: Address) -> Verdict:
        if await self._reading.is_deleted(event, address):
            return Verdict(Outcome.DELETED)
        versions = await self._reading.versions(address)
        if versions and versions[0].id == event.id:
            return Verdict(Outcome.DUPLICATE)
        if versions and not replaces(event.record, versions[0].record):
            return Verdict(Outcome.SUPERSEDED)
        verdict = await self._store(event, returns=True)
        if verdict.outcome is Outcome.STORED:
            for version in versions:
                self._held.leave_out(version.record)
        return verdict

    async def _admit_deletion(self, event: Event) -> Verdict:
        doomed = await self.doomed(event)
        verdict = await self._store(event)
        if verdict.outcome is Outcome.STORED:
            await self._obey(doomed)
        return verdict

    async def _store(self, event: Event, returns: bool = False) -> Verdict:
        """:param returns: the rules let in a version that the database may still keep."""
        refusal = await self._save(event)
        if refusal is None or (returns and _is_there(refusal) and self._is_left_out(event)):
            self._held.add(event)
            return Verdict(Outcome.STORED)
        if _is_there(refusal):
            return Verdict(Outcome.DELETED if self._is_left_out(event) else Outcome.DUPLICATE)
        if "deleted" in refusal:
            return Verdict(Outcome.DELETED)
        if "older than existing" in refusal:
            return Verdict(Outcome.SUPERSEDED)
        return Verdict(Outcome.INVALID, f"the database refuses it ({refusal})")

    def _is_left_out(self, event: Event) -> bool:
        return self._held.is_left_out(event.id_bytes)

    # --- deletions ------------------------------------------------------------------------------

    async def doomed(self, deletion: Event) -> list[Event]:
        """What the database keeps of what a deletion names, its author's own (NIP-09)."""
        asked = deletions_of(deletion)
        named = (await self._reading.by_ids(list(asked.ids))).values()
        found = [event for event in named if event.pubkey == deletion.pubkey]
        for address in asked.addresses:
            versions = await self._reading.versions(address)
            found += [v for v in versions if v.created_at <= deletion.created_at]
        return found

    async def _obey(self, doomed: list[Event]) -> None:
        """Leave out what was deleted.

        The database removes deletions too, where they are named; NIP-09 would keep them.
        """
        deletions = [event.id_bytes for event in doomed if event.kind == DELETION]
        kept = await self._reading.known(deletions)
        for event in doomed:
            if event.id_bytes not in kept:
                self._held.leave_out(event.record)


def _is_there(refusal: str) -> bool:
    return "already exists" in refusal
