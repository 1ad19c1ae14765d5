"""Finding what is different between one peer and us: by NIP-77, or by the peer's pages."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

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
from negd.sync.windows import Window, joined, whole


class Search:
    """One search over one link, the way that the peer allows.

    :param stepped: told of each step of a reconciliation, see :class:`Negotiation`.
    :param moved_on: returns when all that was found has moved.
    :param paging: makes one that reads pages and tells of what it finds.
    :param left: windows that an earlier search left to be read page by page, in order; None
        where there was none, or it ended.
    :ivar left: the same, of this search.
    :ivar has_reconciled: whether pages are but a part of it.
    :ivar broke_off: why the peer ended, in the middle, what it had begun; else nothing.
    """

    def __init__(
        self,
        peer: Contact,
        node: Node,
        wanted: Filter,
        lessons: Lessons,
        stepped: Callable[[Step], Awaitable[int]],
        moved_on: Callable[[], Awaitable[None]],
        paging: Callable[[], Paging],
        left: list[Window] | None = None,
    ) -> None:
        self._peer = peer
        self._node = node
        self._wanted = wanted
        self._lessons = lessons
        self._stepped = stepped
        self._moved_on = moved_on
        self._paging = paging
        self.left = left
        self.broke_off = ""
        self.has_reconciled = False

    async def run(self, records: RecordSet) -> None:
        """Find all differences.

        :param records: what we hold of what is wanted.
        :raises BudgetSpent: whoever is told of them wants no more.
        :raises negd.errors.PeerError: the peer broke off, refused all, or is gone.
        :raises negd.errors.ProtocolViolation: its negentropy message cannot be read.
        :raises negd.errors.StorageError: our storage failed.
        """
        before = self._lessons.profile.nip77
        if self.left is None:
            self.left = await self._reconciled(records)
        try:
            await self._page_through(records)
        except Silence:  # it says nothing to anything, and may just be busy
            if before is not False:
                self._lessons.says_nothing()
            raise

    async def _reconciled(self, records: RecordSet) -> list[Window]:
        """Reconcile where the peer does that; what is left to be read page by page."""
        everything = [whole(self._wanted)]
        if self._lessons.is_unable:
            return everything
        try:
            left = await self._negotiate(records)
        except NoReconciliation as refusal:
            if refusal.is_lasting:
                self._lessons.does_not_reconcile(refusal.text)
            return everything
        self._lessons.reconciles()
        self.has_reconciled = True
        return left

    async def _page_through(self, records: RecordSet) -> None:
        """Read the pages of what is left, and keep note of how far it has come."""
        while self.left:
            window, *rest = self.left
            paging = self._paging()
            try:
                await paging.run(
                    window.of(self._wanted), records.window(window.since, window.until)
                )
            finally:
                self.left = [Window(window.since, min(window.until, paging.until)), *rest]
            self.left = rest
        self.left = None

    async def _negotiate(self, records: RecordSet) -> list[Window]:
        """Reconcile; what the peer finds too large."""
        profile, largest = self._lessons.profile, self._node.settings.frame_limit
        frame = min(largest, profile.frame_limit or largest)
        negotiation = Negotiation(
            self._peer,
            self._node,
            profile.max_records,
            frame,
            profile.nip77 is True,
            self._stepped,
        )
        try:
            while not await self._is_through(negotiation, records):
                await self._moved_on()
                records = await self._node.store.snapshot(self._wanted)
            return list(joined(negotiation.left))
        except (PeerError, ProtocolViolation) as error:
            if not isinstance(error, NoReconciliation | BudgetSpent):
                self.broke_off = error.text
            raise
        finally:
            self._lessons.lessen(max_records=negotiation.limit)
            if negotiation.frame < frame:
                self._lessons.lessen(frame_limit=negotiation.frame)

    async def _is_through(self, negotiation: Negotiation, records: RecordSet) -> bool:
        try:
            await negotiation.run(self._wanted, records)
        except HeldUp:
            return False
        return True
