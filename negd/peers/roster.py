"""The roster of peers: each is synced at start, at every interval, and on demand."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from random import Random

from twisted.internet.defer import CancelledError, Deferred, DeferredSemaphore
from twisted.internet.interfaces import IDelayedCall
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from negd.errors import LimitReached, NegdError, PeerError, StorageError, Unknown
from negd.interfaces import IPeerBook, IPeerSync, PeerState, PeerStatus, SyncProgress
from negd.nostr.filter import Filter
from negd.peers.listing import Listing
from negd.peers.urls import canonical
from negd.peers.waits import until_next
from negd.sync.run import Node, SyncRun


@dataclass
class _Peer:
    """A peer and what is going on with it."""

    listing: Listing
    state: PeerState
    listed: bool
    running: Deferred[SyncProgress] | None = None
    due: IDelayedCall | None = None

    def put_off(self) -> None:
        """Cancel what is due."""
        if self.due is not None and self.due.active():
            self.due.cancel()
        self.due = None


@implementer(IPeerSync)
class Roster:
    """Keeps this node equal with its peers.

    At most one sync runs with a peer, at most ``settings.concurrent`` in all; the others wait
    in line.  A failed sync is tried again after a growing wait that survives a restart.
    """

    _log = Logger()

    def __init__(self, node: Node, book: IPeerBook, random: Random) -> None:
        self._node = node
        self._clock = node.clock
        self._settings = node.settings
        self._book = book
        self._random = random
        self._peers: dict[str, _Peer] = {}
        self._line = DeferredSemaphore(node.settings.concurrent)
        self._active = False

    # --- life -----------------------------------------------------------------------------------

    async def start(self, listings: Iterable[Listing]) -> None:
        """List the peers of the book and of the configuration, and start syncing them.

        :raises StorageError: the peer book cannot be read or written.
        """
        for url, state in (await self._book.peers()).items():
            self._peers[url] = _Peer(Listing(url), state, listed=True)
        for listing in listings:
            held = self._peers.get(listing.url)
            if held is None:
                await self._enlist(listing)
            else:
                held.listing = listing
        self.resume_background()

    async def stop(self) -> None:
        """Cancel every sync and return when all have ended."""
        self.pause_background()
        for peer in list(self._peers.values()):
            await self._halt(peer)

    def resume_background(self) -> None:
        """See :meth:`IPeerSync.resume_background`."""
        if not self._active:
            self._active = True
            for peer in self._peers.values():
                self._schedule(peer, peer.state.next_sync - self._clock.seconds())

    def pause_background(self) -> None:
        """See :meth:`IPeerSync.pause_background`."""
        self._active = False
        for peer in self._peers.values():
            peer.put_off()

    def active(self) -> bool:
        """See :meth:`IPeerSync.active`."""
        return self._active

    # --- the list -------------------------------------------------------------------------------

    async def add(self, url: str) -> None:
        """See :meth:`IPeerSync.add`."""
        listing = Listing(canonical(url))
        held = self._peers.get(listing.url)
        if held is None:
            held = await self._enlist(listing)
            if self._active:
                self._schedule(held, 0)
        elif not held.listed:  # visited just now: its running sync is its first
            held.listed = True
            await self._book.put(listing.url, held.state)

    async def _enlist(self, listing: Listing) -> _Peer:
        if len(self._peers) >= self._settings.max_peers:
            raise LimitReached(f"too many peers (limit {self._settings.max_peers})")
        peer = _Peer(listing, PeerState(), listed=True)
        await self._book.put(listing.url, peer.state)
        return self._peers.setdefault(listing.url, peer)

    async def remove(self, url: str) -> None:
        """See :meth:`IPeerSync.remove`."""
        url = canonical(url)
        peer = self._peers.pop(url, None)
        if peer is not None:
            peer.listed = False
            await self._halt(peer)
        await self._book.remove(url)

    def peers(self) -> list[str]:
        """See :meth:`IPeerSync.peers`."""
        return sorted(url for url, peer in self._peers.items() if peer.listed)

    def states(self) -> dict[str, PeerState]:
        """See :meth:`IPeerSync.states`."""
        return {url: peer.state for url, peer in sorted(self._peers.items())}

    def state(self, url: str) -> PeerState | None:
        """See :meth:`IPeerSync.state`."""
        peer = self._peers.get(canonical(url))
        return None if peer is None else peer.state

    # --- syncs ----------------------------------------------------------------------------------

    async def trigger(self, url: str | None, wanted: Filter) -> None:
        """See :meth:`IPeerSync.trigger`."""
        if url is None:
            for peer in [peer for peer in self._peers.values() if peer.listed]:
                self._start(peer, wanted)
            return
        named = self._peers.get(canonical(url))
        if named is None or not named.listed:
            raise Unknown(f"peer {canonical(url)} is not listed")
        if named.running is not None:
            raise LimitReached(f"a sync with {named.listing.url} is already running")
        self._start(named, wanted)

    async def sync(
        self, url: str, wanted: Filter, progress: Callable[[SyncProgress], None]
    ) -> SyncProgress:
        """See :meth:`IPeerSync.sync`."""
        url = canonical(url)
        peer = self._peers.get(url)
        if peer is None:
            peer = self._peers[url] = _Peer(Listing(url), PeerState(), listed=False)
        elif peer.running is not None:
            raise LimitReached(f"a sync with {url} is already running")
        return await self._launch(peer, wanted, progress)

    def _start(self, peer: _Peer, wanted: Filter) -> None:
        """Sync in the background; what goes wrong is in the peer's state and the log."""
        if peer.running is None:
            self._launch(peer, wanted, lambda _: None).addErrback(self._note_failure, peer)

    def _note_failure(self, failure: Failure, peer: _Peer) -> None:
        error = failure.value
        if isinstance(error, PeerError):
            self._log.warn("sync with {url}: {text}", url=peer.listing.url, text=error.text)
        elif not isinstance(error, CancelledError):
            self._log.failure("sync with {url} failed", failure, url=peer.listing.url)

    def _launch(
        self, peer: _Peer, wanted: Filter, progress: Callable[[SyncProgress], None]
    ) -> Deferred[SyncProgress]:
        """A running sync; cancelling it cancels the sync."""
        peer.put_off()
        run = SyncRun(
            self._node,
            peer.listing.url,
            peer.listing.narrowed(wanted),
            peer.listing.direction,
            self._book if peer.listed else None,
            progress,
        )
        running = peer.running = Deferred.fromCoroutine(self._run(peer, run))

        def ended(result: SyncProgress | Failure) -> SyncProgress | Failure:
            peer.running = None
            self._after(peer)
            return result

        return running.addBoth(ended)

    async def _run(self, peer: _Peer, run: SyncRun) -> SyncProgress:
        await self._line.acquire()
        before = peer.state
        try:
            peer.state = replace(before, status=PeerStatus.SYNCING)
            await run.run()
        except CancelledError:
            peer.state = before
            raise
        except Exception as error:
            if not isinstance(error, NegdError):
                self._log.failure("sync with {url}", url=peer.listing.url)
            text = error.text if isinstance(error, NegdError) else "internal error, see the log"
            await self._keep(peer, self._failed(before, run.progress, text))
            raise PeerError(text) from error
        else:
            await self._keep(peer, self._succeeded(before, run.progress))
            return run.progress
        finally:
            self._line.release()

    def _succeeded(self, before: PeerState, progress: SyncProgress) -> PeerState:
        return PeerState(
            last_sync=int(self._clock.seconds()),
            events_synced=before.events_synced + progress.fetched + progress.sent,
        )

    def _failed(self, before: PeerState, progress: SyncProgress, text: str) -> PeerState:
        failures = before.consecutive_failures + 1
        wait = until_next(self._settings, failures, None, self._random)
        return replace(
            before,
            events_synced=before.events_synced + progress.fetched + progress.sent,
            status=PeerStatus.ERROR,
            last_error=text,
            consecutive_failures=failures,
            next_sync=self._clock.seconds() + wait,
        )

    async def _keep(self, peer: _Peer, state: PeerState) -> None:
        """Take over a state and write it down; a storage that cannot is only logged here."""
        peer.state = state
        if peer.listed:
            try:
                await self._book.put(peer.listing.url, state)
            except StorageError as error:
                self._log.error("state of {url}: {text}", url=peer.listing.url, text=error.text)

    def _after(self, peer: _Peer) -> None:
        """What follows a sync: the next one, or forgetting a peer that was only visited."""
        if not peer.listed:
            if self._peers.get(peer.listing.url) is peer:
                del self._peers[peer.listing.url]
        elif self._active:
            self._schedule(peer, self._wait(peer))

    def _wait(self, peer: _Peer) -> float:
        if peer.state.consecutive_failures:
            return peer.state.next_sync - self._clock.seconds()
        return until_next(self._settings, 0, peer.listing.interval, self._random)

    def _schedule(self, peer: _Peer, seconds: float) -> None:
        peer.put_off()
        peer.due = self._clock.callLater(max(0, seconds), self._start, peer, Filter())

    async def _halt(self, peer: _Peer) -> None:
        """Cancel what is due or runs with a peer, and wait until it has ended."""
        peer.put_off()
        if peer.running is not None:
            ended: Deferred[None] = Deferred()

            def tell(result: SyncProgress | Failure) -> SyncProgress | Failure:
                ended.callback(None)
                return result

            peer.running.addBoth(tell)
            peer.running.cancel()
            await ended
