"""Finding what is different between one peer and us: by NIP-77, or by the peer's pages."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from dataclasses import replace

from negd.errors import PeerError, ProtocolViolation
from negd.nostr.filter import Filter
from negd.reconcile import RecordSet, Step
from negd.sync.budget import BudgetSpent
from negd.sync.contact import Contact
from negd.sync.dialogue import Silence
from negd.sync.lessons import Lessons
from negd.sync.negotiation import HeldUp, Negotiation
from negd.sync.node import Node
from negd.sync.paging import Paging
from negd.sync.refusals import NoReconciliation
from negd.sync.windows import Window, joined


class Search:
    """One search over one link, the way that the peer allows.

    :param stepped: told of each step of a reconciliation, see :class:`Negotiation`.
    :param moved_on: returns when all that was found has moved.
    :param paging: makes one that reads pages and tells of what it finds.
    :param until: the second that pages are read from on, where an earlier search left off.
    :ivar until: where pages are to be read on from; None where a search has to begin anew.
    """

    def __init__(
        self,
        peer: Contact,
        node: Node,
        wanted: Filter,
        lessons: Lessons,
        stepped: Callable[[Step], Awaitable[int]],
        moved_on: Callable[[], Awaitable[None]],
        paging: Callable[[Contact], Paging],
        until: int | None,
    ) -> None:
        self._peer = peer
        self._node = node
        self._wanted = wanted
        self._lessons = lessons
        self._stepped = stepped
        self._moved_on = moved_on
        self._paging = paging
        self.until = until

    async def run(self, records: RecordSet) -> None:
        """Find all differences.

        :param records: what we hold of what is wanted.
        :raises BudgetSpent: whoever is told of them wants no more.
        :raises negd.errors.PeerError: the peer broke off, refused all, or is gone.
        :raises negd.errors.ProtocolViolation: its negentropy message cannot be read.
        :raises negd.errors.StorageError: our storage failed.
        """
        if self._lessons.is_unable:
            await self._page_on(records)
            return
        self.until = None
        try:
            left = await self._negotiate(records)
        except NoReconciliation as refusal:
            await self._do_without(refusal, records)
        else:
            self._lessons.reconciles()
            for window in left:
                ours = records.window(window.since, window.until)
                await self._page(window.of(self._wanted), ours)

    async def _do_without(self, refusal: NoReconciliation, records: RecordSet) -> None:
        if not refusal.is_lasting:
            await self._page(self._wanted, records)
            return
        self._lessons.does_not_reconcile(refusal.text)
        try:
            await self._page_on(records)
        except Silence:  # it may just be busy
            self._lessons.says_nothing()
            raise

    async def _negotiate(self, records: RecordSet) -> Iterable[Window]:
        """Reconcile; what is left to be paged through, as the peer finds it too large."""
        profile, largest = self._lessons.profile, self._node.settings.frame_limit
        frame = min(largest, profile.frame_limit or largest)
        negotiation = Negotiation(self._peer, self._node, profile.max_records, frame, self._stepped)
        try:
            while not await self._is_through(negotiation, records):
                await self._moved_on()
                records = await self._node.store.snapshot(self._wanted)
            return joined(negotiation.left)
        except (PeerError, ProtocolViolation) as error:
            if negotiation.has_begun and not isinstance(error, NoReconciliation | BudgetSpent):
                self._lessons.broke_off(error.text)
            raise
        finally:
            self._lessons.learn(max_records=negotiation.limit)
            if negotiation.frame < frame:
                self._lessons.learn(frame_limit=negotiation.frame)

    async def _is_through(self, negotiation: Negotiation, records: RecordSet) -> bool:
        try:
            await negotiation.run(self._wanted, records)
        except HeldUp:
            return False
        return True

    async def _page(self, wanted: Filter, records: RecordSet) -> None:
        await self._paging(self._peer).run(wanted, records)

    async def _page_on(self, records: RecordSet) -> None:
        """Page from where the last search ended, and note where this one does."""
        wanted = self._wanted if self.until is None else replace(self._wanted, until=self.until)
        paging = self._paging(self._peer)
        try:
            await paging.run(wanted, records)
        finally:
            if wanted.limit is None:
                self.until = paging.until
