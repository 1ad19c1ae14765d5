"""One sync with one peer, from the first byte to the last OK."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import deferLater

from negd.errors import PeerError
from negd.interfaces import Direction, IPeerBook, PeerProfile, SyncProgress
from negd.nostr.filter import Filter
from negd.reconcile import RecordSet, Step
from negd.sync.arrivals import Arrivals
from negd.sync.budget import UNLIMITED, Allowance, Budget, BudgetSpent, TurnOver
from negd.sync.contact import Contact, get_in_touch
from negd.sync.differences import Differences
from negd.sync.fetch import Fetch
from negd.sync.ledger import Ledger
from negd.sync.lessons import Lessons
from negd.sync.node import Node
from negd.sync.paging import Paging
from negd.sync.reached import Reached
from negd.sync.search import Search
from negd.sync.together import together
from negd.sync.upload import Upload
from negd.sync.windows import Window, whole

_PAID = ("fetched", "refused", "sent", "rejected")
"""Counts of a progress that a budget pays for."""

_NOT_MOVED = ("explained", "unfetchable", "gone")
"""Counts of a progress that cost a budget nothing."""

_MOST_IN_LINE = 100_000
"""Differences found and not yet moved from which on none are looked for."""

_PIECE = 1000
"""Ids put in line in one turn of the reactor, which takes some 5 ms."""

_MOST_CARRIED = 10_000
"""Ids that wait to be sent between two runs: more of them are found again."""


class SyncRun:
    """A sync: transfers start with the first differences, while reconciliation goes on.

    :param book: where differences that stay are explained; None for a peer that is not listed.
    :param report: told of each round and each batch.
    :param budget: what the sync may cost.
    :param so_far: what earlier turns of the same sync have come to.
    :param reached: where an earlier turn, or a sync that did not come to its end, left off.
    :param is_whole: whether this is about all that is kept equal with the peer: then what the
        ledger has beyond what is found is over.
    :ivar reached: where the next turn, or the next sync, is to go on; None where it begins anew.
    :ivar is_abandoned: whether it was ended in the middle.
    """

    def __init__(
        self,
        node: Node,
        url: str,
        wanted: Filter,
        direction: Direction,
        book: IPeerBook | None,
        profile: PeerProfile,
        report: Callable[[SyncProgress], None],
        budget: Budget = UNLIMITED,
        so_far: SyncProgress | None = None,
        reached: Reached | None = None,
        is_whole: bool = False,
    ) -> None:
        self._node = node = node.keeping_to(profile.document, budget.rate)
        self._url = url
        self._wanted = wanted
        self._direction = direction
        self._report = report
        self._budget = budget
        self._allowance = Allowance(budget.events)
        self._haves = Differences(self._allowance, direction is not Direction.DOWN)
        self._needs = Differences(self._allowance, direction is not Direction.UP)
        self._is_cut_short = False
        self._is_turn_over = False
        self._ledger = Ledger(node, book, url, is_whole)
        self._peer: Contact | None = None
        self.reached = reached
        self.is_abandoned = False
        self._is_whole = is_whole and reached is None
        self._works: Deferred[None] | None = None
        self._upload: Upload | None = None
        self._lessons = Lessons(profile, node.clock)
        self.progress = self._so_far = so_far = so_far or SyncProgress(url)
        self._allowance.grant(sum(getattr(so_far, name) for name in _PAID))

    @property
    def profile(self) -> PeerProfile:
        """What was known of the peer's ways, and was learned of them since."""
        return self._lessons.profile

    @property
    def moved(self) -> int:
        """Events moved by this run."""
        return self.progress.moved - self._so_far.moved

    @property
    def left_open(self) -> str:
        """What is known to differ still, and has no ids; nothing where there is none."""
        text = next(iter(self._ledger.open), "")
        more = len(self._ledger.open) - 1
        return f"{text}, and {more} more" if more > 0 else text

    @property
    def slowed_by(self) -> str:
        """What the peer said where it asked for patience lately; else nothing."""
        return "" if self._peer is None else self._peer.slowed_by

    def make_room(self) -> None:
        """Start no further transfer: others wait for their turn."""
        self._is_turn_over = True
        self._allowance.withdraw()

    def abandon(self) -> None:
        """End the turn at once, whatever is under way."""
        self.make_room()
        if self._works is not None and not self._works.called:
            self.is_abandoned = True
            self._works.cancel()

    async def run(self, peer: Contact | None = None) -> SyncProgress:
        """Sync to the end; the last progress is complete. Cancelling stops it at once.

        :param peer: the contact to sync over; without one, one is made and closed again.
        :raises BudgetSpent: there is more to move than the budget lets; the rest is for later.
        :raises TurnOver: there is more to move after :meth:`make_room`; ``progress`` is for the
            next turn to go on with.
        :raises negd.errors.PeerError: the peer could not be reached, refused or fell silent.
        :raises negd.errors.ProtocolViolation: the peer's negentropy message cannot be read.
        :raises negd.errors.StorageError: our storage failed.
        """
        if peer is not None:
            await self._sync(peer)
        else:
            own = await get_in_touch(self._node, self._url)
            try:
                await self._sync(own)
            finally:
                own.close()
        self.progress = replace(self.progress, complete=True)
        self._report(self.progress)
        return self.progress

    async def _sync(self, peer: Contact) -> None:
        self._peer = peer
        records = await self._node.store.snapshot(self._wanted)
        arrivals = self._arrivals(peer, self._moved)
        works = together(self._gather(peer, records, arrivals), self._push(peer))
        self._works = Deferred.fromCoroutine(works)
        ended, is_through = _Ended(self._works), False
        try:
            await ended
            is_through = not self._is_cut_short and not self._left()
        except CancelledError:
            if ended.was_cancelled or not self.is_abandoned:
                raise
        finally:
            self._carry()
            faults = Counter(self.profile.faults) + peer.dialogue.take_faults()
            self._lessons.learn(faults=dict(faults))
            reasons = Counter(self._so_far.reasons) + self._ledger.reasons
            self.progress = replace(self.progress, reasons=dict(reasons))
            await self._ledger.write(at_least=1)
        if not is_through:
            raise self._end_of_turn()
        self.reached = None
        if self._is_whole:
            await self._ledger.strike_out_the_rest()

    def _end_of_turn(self) -> PeerError:
        if not self._is_turn_over:
            return BudgetSpent(self._budget.events)
        if self.reached is None:  # what has not been tried will be found again
            self.progress = self.progress.plus(have=-len(self._haves), need=-len(self._needs))
        return TurnOver()

    def _carry(self) -> None:
        """Keep what pages have shown and has not moved; where that is too much, begin anew."""
        if len(self._haves) > _MOST_CARRIED:
            self.reached = None
        elif self.reached is not None:
            under_way = [] if self._upload is None else self._upload.under_way
            sent_later = [*under_way, *self._haves.take_back()]
            self.reached = replace(self.reached, sent_later=sent_later)

    def _arrivals(self, peer: Contact, moved: Callable[..., None]) -> Arrivals:
        is_partial = not self._wanted.is_everything
        outdated = self._tell_newer if is_partial else None
        return Arrivals(peer, self._node, self._ledger, moved, outdated)

    def _tell_newer(self, ours: list[bytes]) -> None:
        """Have the newer version, or the deletion, of an event of the peer's sent to it."""
        self._moved(have=self._haves.add(ours))

    async def _gather(self, peer: Contact, records: RecordSet, arrivals: Arrivals) -> None:
        """Find the differences and fetch; what comes may call for more to be sent."""
        await together(self._compare(peer, records), self._fetch(peer, arrivals))
        self._haves.finish()

    async def _compare(self, peer: Contact, records: RecordSet) -> None:
        """Put differences in line, all or as many as may move."""
        try:
            await self._find(peer, records)
        except BudgetSpent:
            self._is_cut_short = True
        self._needs.finish()

    def _left(self, arriving: int = 0) -> int:
        """How many events are still to be moved: in line, or arriving by themselves."""
        arriving = 0 if self._direction is Direction.UP else arriving
        return len(self._haves) + len(self._needs) + arriving

    def _hold_to_budget(self, arriving: int = 0) -> None:
        """Go on only while there is something to spend on what is left.

        :raises BudgetSpent: there is not.
        """
        is_deserted = self._haves.is_deserted or self._needs.is_deserted
        if (self._allowance.is_spent or is_deserted) and self._left(arriving):
            raise BudgetSpent(self._budget.events)

    async def _find(self, peer: Contact, records: RecordSet) -> None:
        """Find all differences, on from where the last turn ended."""
        reached, self.reached = self.reached, None
        as_of = int(self._node.clock.seconds())
        begun = [whole(self._wanted)] if reached is None else reached.windows(self._wanted)
        page_size = self._node.page_size
        if reached is not None:
            found = self._haves.add(reached.sent_later)
            if self._so_far == SyncProgress(self._url):  # an earlier sync has counted them
                self._moved(have=found)
            page_size = reached.page_size(page_size)
            if (skipped := reached.stepped_over) is not None:
                self._ledger.leave_open(
                    f"seconds {skipped.since} to {skipped.until} are left out: links end there"
                )
        search = Search(
            peer,
            self._node,
            self._wanted,
            self._lessons,
            self._stepped,
            self._moved_on,
            partial(self._paging, peer, page_size),
            None if reached is None else begun,
        )
        left: list[Window] | None = None
        try:
            await search.run(records)
            left = []
        finally:
            left = search.left if left is None else left
            is_partial = search.has_reconciled or self._wanted.limit is not None
            if left is not None and not is_partial:
                is_lost = peer.dialogue.is_lost
                self.reached = Reached.after(left, begun, reached, as_of, is_lost)
            if search.broke_off:
                self._lessons.broke_off(search.broke_off, moved=self.moved)

    async def _moved_on(self) -> None:
        await self._room(0)

    async def _room(self, most: int) -> None:
        """Return when no more than so many differences wait in either line."""
        await self._needs.drained(most)
        await self._haves.drained(most)

    def _paging(self, peer: Contact, page_size: int) -> Paging:
        arrivals = self._arrivals(peer, self._moved_by_page)
        return Paging(
            peer,
            None if self._direction is Direction.UP else arrivals,
            self._ledger,
            self._node,
            self._paged,
            self._moved_by_page,
            page_size,
        )

    async def _fetch(self, peer: Contact, arrivals: Arrivals) -> None:
        fetch = Fetch(
            peer,
            self._needs,
            arrivals,
            self._ledger,
            self._node,
            self.profile.ids_per_request,
            self.profile.requests_in_flight,
            self._moved,
        )
        try:
            await fetch.run()
            self._needs.desert()
        finally:
            self._lessons.lessen(ids_per_request=fetch.cap)
            self._lessons.learn(requests_in_flight=fetch.in_flight)

    async def _push(self, peer: Contact) -> None:
        self._upload = Upload(peer, self._haves, self._node, self._ledger, self._moved)
        await self._upload.run()
        self._haves.desert()

    async def _stepped(self, step: Step) -> int:
        """Put a round's differences in line; how many were new, when few enough wait there."""
        self._moved(round=1)
        found = 0
        for begin in range(0, max(len(step.have), len(step.need), 1), _PIECE):
            if begin:
                await deferLater(self._node.clock, 0)
            piece = slice(begin, begin + _PIECE)
            have, need = self._haves.add(step.have[piece]), self._needs.add(step.need[piece])
            self._moved(have=have, need=need)
            found += have + need
        self._hold_to_budget()
        await self._room(_MOST_IN_LINE)
        return found

    async def _paged(self, have: Iterable[bytes], need: Iterable[bytes]) -> None:
        """Put what a page shows that the peer lacks in line; the page brought what we need."""
        needed = len(list(need))
        self._moved(have=self._haves.add(have))
        if self._is_turn_over:  # pages can be gone on with at any time
            raise BudgetSpent(self._budget.events)
        self._hold_to_budget(needed)
        self._moved(need=needed)
        await self._room(_MOST_IN_LINE)

    def _moved_by_page(self, **more: int) -> None:
        """Pages bring what we need unasked: it is paid for once it is there."""
        self._allowance.grant(more.get("fetched", 0) + more.get("refused", 0))
        self._count(**more)

    def _moved(self, **more: int) -> None:
        self._allowance.give_back(sum(more.get(name, 0) for name in _NOT_MOVED))
        self._count(**more)

    def _count(self, **more: int) -> None:
        self.progress = self.progress.plus(**more)
        self._report(self.progress)


class _Ended(Deferred[None]):
    """The end of works; being cancelled cancels these, and waits for that."""

    was_cancelled = False

    def __init__(self, works: Deferred[None]) -> None:
        super().__init__()
        self._works = works
        works.chainDeferred(self)

    def cancel(self) -> None:
        self.was_cancelled = True
        self._works.cancel()
