"""One peer: its syncs, one at a time, and what is remembered of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from random import Random
from typing import Any, TypeVar

from twisted.internet.defer import (
    CancelledError,
    Deferred,
    DeferredLock,
    DeferredSemaphore,
    succeed,
)
from twisted.internet.task import LoopingCall
from twisted.logger import Logger
from twisted.python.failure import Failure

from negd.errors import LimitReached, NegdError, PeerError, StorageError
from negd.interfaces import IPeerBook, PeerState, PeerStatus, SyncProgress
from negd.nostr.filter import Filter
from negd.nostr.words import printable
from negd.peers.listing import Listing
from negd.peers.waits import until_next
from negd.sync.budget import BudgetSpent, TurnOver
from negd.sync.contact import Contact
from negd.sync.node import Node
from negd.sync.reached import Reached
from negd.sync.run import SyncRun

T = TypeVar("T")

log = Logger()

_DESCRIBED_FOR = 24 * 3600.0
"""Seconds for which a peer's word on itself holds; after a failure it is asked again sooner."""

_DESCRIBED_FOR_ON_FAILURE = 60.0

_MOST_ABANDONED = 5
"""Turns of a sync that may be ended in the middle; each is left twice as long as the one before."""

_TOO_SLOW = "the peer is too slow: others waited for long, again and again"

_COUNTED_EVERY = 30.0
"""Seconds between two writings of what a sync has moved: no more is missing after a kill."""


class Peer:
    """A peer that is listed, or only visited for one sync.

    :param turns: bounds how many syncs of all peers run at once.
    :ivar state: as it is to be written down, which is never ``SYNCING``; see :attr:`shown`.
    :ivar ours: whether this node, of those on one store, keeps equal with it and writes its state.
    :ivar contact: the link that is kept open; None while there is none.
    :ivar running: the sync under way.
    """

    def __init__(
        self,
        listing: Listing,
        state: PeerState,
        listed: bool,
        node: Node,
        book: IPeerBook,
        turns: DeferredSemaphore,
        random: Random,
    ) -> None:
        self.listing = listing
        self.state = _legible(state)
        self.listed = listed
        self.ours = True
        self.contact: Contact | None = None
        self.running: Deferred[SyncProgress] | None = None
        self._is_syncing = False
        self._about: Filter | None = None
        self._next: tuple[Filter, Deferred[None]] | None = None
        self._run: SyncRun | None = None
        self._left_off: tuple[Filter, Reached] | None = None
        self._node = node
        self._book = book
        self._turns = turns
        self._random = random
        self._writing = DeferredLock()
        self._written = state.events_synced

    @property
    def url(self) -> str:
        """The canonical URL."""
        return self.listing.url

    @property
    def shown(self) -> PeerState:
        """The state, with its sync, what that has moved until now and what slows it."""
        state = replace(self.state, status=PeerStatus.SYNCING) if self._is_syncing else self.state
        if (run := self._run) is None:
            return state
        slowed = f"slowed by the peer: {run.slowed_by}" if run.slowed_by else ""
        return replace(
            state,
            events_synced=state.events_synced + run.moved,
            last_error=slowed or state.last_error,
        )

    @property
    def ledger_book(self) -> IPeerBook | None:
        """Where differences are explained: a peer that is only visited leaves no trace."""
        return self._book if self.listed else None

    def sync(
        self, wanted: Filter, progress: Callable[[SyncProgress], None]
    ) -> Deferred[SyncProgress]:
        """Sync to the end, on the open link if there is one; cancelling stops it.

        Fails with :class:`LimitReached` while another sync with this peer runs, else with
        :class:`PeerError`; what became of it is in ``state`` then.
        """
        if self.running is not None:
            raise LimitReached(f"a sync with {self.url} is already running")
        self._about = wanted
        running = self.running = Deferred.fromCoroutine(self._sync(wanted, progress))

        def ended(result: SyncProgress | Failure) -> SyncProgress | Failure:
            self.running = self._about = None
            self._is_syncing = False
            return result

        return running.addBoth(ended)

    def sync_next(self, wanted: Filter) -> Deferred[Any]:
        """Sync once no sync runs; one about the same that runs, or waits already, will do.

        Fails as :meth:`sync`.

        :raises LimitReached: one about something else waits already.
        """
        if wanted == self._about:
            return succeed(None)
        if self._next is not None:
            if wanted == self._next[0]:
                return succeed(None)
            raise LimitReached(f"a sync with {self.url} is already waiting for another to end")

        def begin(ended: Any) -> Any:
            self._next = None
            return ended if isinstance(ended, Failure) else self.sync(wanted, lambda _: None)

        idle = Deferred.fromCoroutine(self.idle())
        self._next = wanted, idle
        return idle.addBoth(begin)

    async def _sync(self, wanted: Filter, progress: Callable[[SyncProgress], None]) -> SyncProgress:
        so_far = SyncProgress(self.url)
        abandoned = 0
        while True:
            await self._turns.acquire()
            self._is_syncing = True
            try:
                await self._get_described()
                run = self._new_run(wanted, progress, so_far)
                try:
                    return await self._take_turns(run, 1 + 2**abandoned)
                finally:
                    self._leave_off(wanted, run.reached)
            except TurnOver:
                so_far = run.progress
                abandoned += run.is_abandoned
                if abandoned > _MOST_ABANDONED:
                    await self.failed(_TOO_SLOW)
                    raise PeerError(_TOO_SLOW) from None
            finally:
                self._turns.release()

    async def _take_turns(self, run: SyncRun, most: int) -> SyncProgress:
        """See a run through; with others that wait, it makes room after one turn.

        :param most: turns after which it is not left to finish what is under way.
        """
        seconds = self._node.settings.turn
        ends = self._node.clock.seconds() + most * seconds
        with (
            self._every(seconds, self._make_room, run, ends),
            self._every(_COUNTED_EVERY, self._write_count, run),
        ):
            return await self._see_through(run)

    def _place(self, wanted: Filter) -> Reached | None:
        """Where the last run about this left off."""
        about, reached = self._left_off or (None, None)
        return reached if about == wanted else None

    def _leave_off(self, wanted: Filter, reached: Reached | None) -> None:
        """Keep how far a run has come; of one peer, the latest place only."""
        if reached is not None:
            self._left_off = wanted, reached
        elif self._place(wanted) is not None:
            self._left_off = None

    async def _get_described(self) -> None:
        """Have the peer say what it is, where that is not known or may have changed."""
        now, profile = self._node.clock.seconds(), self.state.profile
        failed = self.state.consecutive_failures
        age = abs(now - profile.described_at)  # clocks are set back, too
        if age >= (_DESCRIBED_FOR_ON_FAILURE if failed else _DESCRIBED_FOR):
            document = await self._node.dialer.describe(self.url) or profile.document
            profile = replace(profile, document=document, described_at=now)
            self.state = replace(self.state, profile=profile)

    def _new_run(
        self,
        wanted: Filter,
        progress: Callable[[SyncProgress], None],
        so_far: SyncProgress,
    ) -> SyncRun:
        return SyncRun(
            self._node,
            self.url,
            self.listing.narrowed(wanted),
            self.listing.direction,
            self.ledger_book,
            self.state.profile,
            progress,
            self.listing.budget,
            so_far,
            self._place(wanted),
            self.listing.narrowed(wanted) == self.listing.wanted,
        )

    async def _see_through(self, run: SyncRun) -> SyncProgress:
        """One turn, and what is to be written down of it."""
        self._run, contact = run, self.contact
        try:
            await run.run(contact)
        except TurnOver:
            await self._keep(self._after(run, self.state))
            raise
        except CancelledError:
            fault = "" if contact is None else contact.fault
            await self._end(run, self._failed(fault) if fault else self.state)
            raise
        except BudgetSpent as spent:
            await self._end(run, self._stopped(spent))
            raise
        except Exception as error:
            text = self._describe(error)
            await self._end(run, self._failed(text))
            raise PeerError(text) from error
        else:
            await self._end(run, self._succeeded(run))
            return run.progress

    async def _end(self, run: SyncRun, state: PeerState) -> None:
        """Take over what became of a sync; whoever is told that must not hear that it runs."""
        self._is_syncing = False
        await self._keep(self._after(run, state))

    @contextmanager
    def _every(self, seconds: float, work: Callable[..., object], *told: object) -> Iterator[None]:
        """Have something done now and then, while the context lasts."""
        call = LoopingCall(work, *told)
        call.clock = self._node.clock
        call.start(seconds, now=False).addErrback(self._note)
        try:
            yield
        finally:
            if call.running:
                call.stop()

    def _note(self, failure: Failure) -> None:
        log.failure("beside the sync with {url}", failure, url=self.url)

    def _write_count(self, run: SyncRun) -> Deferred[None] | None:
        """Write down what a sync has moved until now; for all else, its end is waited for."""
        moved = self.state.events_synced + run.moved
        if run is not self._run or moved == self._written:
            return None
        return Deferred.fromCoroutine(self._write(replace(self.state, events_synced=moved)))

    def _make_room(self, run: SyncRun, ends: float) -> None:
        """Where others wait, have a sync that has had its turn go to the end of the line.

        :param ends: second from which on it is not left to finish what is under way.
        """
        if self._turns.waiting:
            run.make_room()
            if self._node.clock.seconds() >= ends:
                run.abandon()

    def _after(self, run: SyncRun, state: PeerState) -> PeerState:
        """A state with what a run moved and learned; that is the end of the run."""
        self._run = None
        moved = self.state.events_synced + run.moved
        return replace(state, events_synced=moved, profile=run.profile)

    def _describe(self, error: Exception) -> str:
        if isinstance(error, NegdError):
            return error.text
        log.failure("sync with {url}", url=self.url)
        return "internal error, see the log"

    def take_over(self, state: PeerState) -> None:
        """What became of the peer, here or at another node, is this.

        One that the configuration lists stays such a one, whatever became of it.
        """
        configured = state.configured or self.state.configured
        self.state = replace(_legible(state), configured=configured)

    def count(self, **more: int) -> None:
        """Add events that moved outside of a sync; written down with the next one."""
        moved = SyncProgress(self.url).plus(**more).moved
        self.state = replace(self.state, events_synced=self.state.events_synced + moved)

    async def follow(self, listing: Listing) -> None:
        """Keep to these terms, which the configuration has for the peer."""
        self.listing = listing
        if not self.state.configured:
            await self._keep(replace(self.state, configured=True))

    async def failed(self, text: str) -> None:
        """The peer could not even be reached."""
        await self._keep(self._failed(text))

    def _succeeded(self, run: SyncRun) -> PeerState:
        return PeerState(last_sync=int(self._node.clock.seconds()), last_error=run.left_open)

    def _stopped(self, spent: BudgetSpent) -> PeerState:
        """No success, as there is more; no failure either: it goes on at the next interval."""
        return PeerState(last_sync=self.state.last_sync, last_error=spent.text)

    def _failed(self, text: str) -> PeerState:
        failures = self.state.consecutive_failures + 1
        wait = until_next(self._node.settings, failures, None, self._random)
        return replace(
            self.state,
            status=PeerStatus.ERROR,
            last_error=text,
            consecutive_failures=failures,
            next_sync=self._node.clock.seconds() + wait,
        )

    async def _keep(self, state: PeerState) -> None:
        """Take over a state and write it down."""
        self.take_over(state)
        await self._write(self.state)

    async def _write(self, state: PeerState) -> None:
        """Write a state down, after those before it; a storage that cannot is only logged here."""
        async with self._writing:
            if not (self.listed and self.ours):
                return
            try:
                await self._book.update(self.url, state)
                self._written = state.events_synced
            except StorageError as error:
                log.error("state of {url}: {text}", url=self.url, text=error.text)

    @property
    def until_retry(self) -> float:
        """Seconds until a failed sync is tried again; no clock that was set back makes it more."""
        until = self.state.next_sync - self._node.clock.seconds()
        return min(max(0.0, until), self._node.settings.backoff_most)

    def wait(self) -> float:
        """Seconds until the next sync is due, after the last one has ended."""
        if self.state.consecutive_failures:
            return self.until_retry
        return until_next(self._node.settings, 0, self.listing.interval, self._random)

    async def halt(self) -> None:
        """Cancel the sync under way, and one that waits for its end; wait until all has ended."""
        if self._next is not None:
            self._next[1].cancel()
        if self.running is not None:
            running, ended = self.running, Deferred.fromCoroutine(self.idle())
            running.cancel()
            await ended

    async def idle(self) -> None:
        """Wait until no sync runs."""
        while self.running is not None:
            ended: Deferred[None] = Deferred()
            self.running.addBoth(_tell, ended)
            await ended


def _legible(state: PeerState) -> PeerState:
    """A state with the peer's words cut and printable: earlier versions kept all of them."""
    profile = replace(state.profile, refusal=printable(state.profile.refusal))
    return replace(state, last_error=printable(state.last_error), profile=profile)


def _tell(result: T, ended: Deferred[None]) -> T:
    if not ended.called:
        ended.callback(None)
    return result
