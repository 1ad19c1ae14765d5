"""The roster of peers: which there are, and what is asked of them on demand."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable
from random import Random
from typing import Any

from twisted.internet.defer import (
    CancelledError,
    Deferred,
    DeferredLock,
    DeferredSemaphore,
    FirstError,
    gatherResults,
)
from twisted.internet.task import LoopingCall
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from negd.errors import LimitReached, PeerError, StorageError, Unknown
from negd.interfaces import (
    ILeases,
    IPeerBook,
    IPeerSync,
    LedgerEntry,
    PeerDescription,
    PeerState,
    SyncProgress,
)
from negd.nostr.filter import Filter
from negd.peers.attendance import Attendance
from negd.peers.leases import Tenancy
from negd.peers.listing import Listing
from negd.peers.peer import Peer
from negd.peers.spelling import respelled
from negd.peers.urls import canonical, target
from negd.sync.node import Node

log = Logger()


@implementer(IPeerSync)
class Roster:
    """Keeps this node equal with its peers.

    At most one sync runs with a peer, at most ``settings.concurrent`` in all; the others wait
    in line.  A failed sync is tried again after a growing wait that survives a restart.

    Where nodes share a store, each peer is one node's to keep equal with and to write the state
    of; the others learn from the book how it stands, and which peers there are.

    :param leases: which node that is; None for a store that nodes do not share.
    """

    def __init__(
        self, node: Node, book: IPeerBook, random: Random, leases: ILeases | None = None
    ) -> None:
        self._node = node
        self._book = book
        self._random = random
        self._peers: dict[str, Peer] = {}
        self._attendances: dict[str, Attendance] = {}
        self._turns = DeferredSemaphore(node.settings.concurrent)
        self._dialing = DeferredSemaphore(node.settings.concurrent)
        self._changing = DeferredLock()
        self._active = False
        self._tenancy: Tenancy | None = None
        if leases is not None:
            self._tenancy = Tenancy(leases, node.settings.lease, node.clock, self._let_go)
        self._rounds = LoopingCall(self._round)
        self._rounds.clock = node.clock

    # --- life -----------------------------------------------------------------------------------

    async def start(self, listings: Iterable[Listing]) -> None:
        """List the peers of the book and of the configuration, and begin to attend to them.

        :param listings: the configuration's.
        :raises negd.errors.StorageError: the peer book cannot be read or written.
        """
        configured = {listing.url: listing for listing in listings}
        await self._leave_out(configured)
        for url, state in (await respelled(self._book)).items():
            self._admit(Listing(url), state)
        for url, listing in configured.items():
            held = self._peers.get(url)
            if held is None or not held.listed:
                await self._enlist(listing)
            await self._peers[url].follow(listing)
        if self._tenancy is not None:
            self._rounds.start(self._tenancy.look_every, now=False)
        self.resume_background()

    async def _leave_out(self, configured: Container[str]) -> None:
        """Forget the peers that the configuration listed and does not list any more.

        Another node on the same store may list them, so there they stay.
        """
        for url, state in (await respelled(self._book)).items():
            if not state.configured or url in configured:
                continue
            if self._tenancy is None:
                log.info("{url}: not listed any more, the configuration is without it", url=url)
                await self._book.remove(url)
            else:
                log.warn("{url}: the configuration has no terms for it any more", url=url)

    async def stop(self) -> None:
        """Cancel every sync, close every link, and return when all have ended."""
        self._active = False
        if self._rounds.running:
            self._rounds.stop()
        async with self._changing:
            peers = list(self._peers.values())
            ended = [Deferred.fromCoroutine(self._dismiss(peer)) for peer in peers]
            try:
                await gatherResults(ended, consumeErrors=True)
            except FirstError as first:
                first.subFailure.raiseException()
            if self._tenancy is not None:
                await self._tenancy.give_all_back()

    def resume_background(self) -> None:
        """See :meth:`IPeerSync.resume_background`."""
        self._active = True
        if self._tenancy is not None:
            Deferred.fromCoroutine(self._round())
        else:
            for attendance in self._attendances.values():
                attendance.start()

    def pause_background(self) -> None:
        """See :meth:`IPeerSync.pause_background`."""
        self._active = False
        for attendance in self._attendances.values():
            attendance.end()
        if self._tenancy is not None:
            Deferred.fromCoroutine(self._round())

    def active(self) -> bool:
        """See :meth:`IPeerSync.active`."""
        return self._active

    # --- the list -------------------------------------------------------------------------------

    async def add(self, url: str) -> None:
        """See :meth:`IPeerSync.add`."""
        listing = Listing(self._target(url))
        async with self._changing:
            held = self._peers.get(listing.url)
            if held is None or not held.listed:
                await self._enlist(listing)
            if self._tenancy is not None:
                await self._share()
            elif self._active:
                self._attendances[listing.url].start()

    async def _enlist(self, listing: Listing) -> None:
        """List a peer, which may be only visited until now.

        :raises LimitReached: as many peers as may be are listed.
        :raises StorageError: the book cannot be written.
        """
        if len(self._attendances) >= self._node.settings.max_peers:
            raise LimitReached(f"too many peers (limit {self._node.settings.max_peers})")
        visited = self._peers.get(listing.url)
        state = PeerState() if visited is None else visited.state
        await self._book.put(listing.url, state)
        visited = self._peers.get(listing.url)  # the visit may have ended, or one begun
        if visited is None:
            self._admit(listing, state)
        elif not visited.listed:
            self._attend(visited)

    def _admit(self, listing: Listing, state: PeerState) -> None:
        peer = self._peers[listing.url] = self._peer(listing, state, listed=True)
        self._attend(peer)

    def _peer(self, listing: Listing, state: PeerState, listed: bool) -> Peer:
        peer = Peer(listing, state, listed, self._node, self._book, self._turns, self._random)
        peer.ours = self._tenancy is None
        return peer

    def _attend(self, peer: Peer) -> None:
        """Keep equal with a peer from now on, once its attendance is started."""
        peer.listed = True
        self._attendances[peer.url] = Attendance(peer, self._node, self._dialing, self._random)

    async def remove(self, url: str) -> None:
        """See :meth:`IPeerSync.remove`."""
        url = canonical(url)
        async with self._changing:
            await self._forget(url)
            await self._book.remove(url)

    async def _forget(self, url: str) -> None:
        """Have a peer no longer, whatever the book says."""
        peer = self._peers.pop(url, None)
        if peer is not None:
            peer.listed = False
            await self._dismiss(peer)
        if self._tenancy is not None:
            await self._tenancy.give_back(url)

    async def _dismiss(self, peer: Peer) -> None:
        """End all that runs with a peer."""
        attendance = self._attendances.pop(peer.url, None)
        if attendance is not None:
            await attendance.stop()
        await peer.halt()

    def peers(self) -> list[str]:
        """See :meth:`IPeerSync.peers`."""
        return sorted(url for url, peer in self._peers.items() if peer.listed)

    def states(self) -> dict[str, PeerState]:
        """See :meth:`IPeerSync.states`."""
        return {url: peer.shown for url, peer in sorted(self._peers.items()) if peer.listed}

    def visits(self) -> dict[str, PeerState]:
        """See :meth:`IPeerSync.visits`."""
        return {url: peer.shown for url, peer in sorted(self._peers.items()) if not peer.listed}

    def state(self, url: str) -> PeerState | None:
        """See :meth:`IPeerSync.state`."""
        peer = self._peers.get(canonical(url))
        return None if peer is None else peer.shown

    async def describe(self, url: str, entries: int) -> PeerDescription:
        """See :meth:`IPeerSync.describe`."""
        url = canonical(url)
        peer = self._peers.get(url)
        if peer is None:
            raise Unknown(f"peer {url} is not listed")
        residues = await self._book.residues(url)
        some: dict[bytes, LedgerEntry] = {}
        for residue in residues:
            some.update(await self._book.entries(url, residue, entries))
        listing, common = peer.listing, self._node.settings.interval
        return PeerDescription(
            url=url,
            listed=peer.listed,
            direction=listing.direction,
            wanted=listing.wanted,
            interval=common if listing.interval is None else listing.interval,
            tail=listing.tail,
            proxy=listing.proxy,
            compression=listing.compression,
            max_rate=listing.budget.rate,
            max_events=listing.budget.events,
            linked=peer.contact is not None,
            tail_refused="" if peer.contact is None else peer.contact.tail_refused,
            elsewhere=self._active and peer.listed and not peer.ours,
            state=peer.shown,
            residues=residues,
            entries=some,
        )

    async def forget_ledger(self, url: str) -> int:
        """See :meth:`IPeerSync.forget_ledger`."""
        peer = self._named(url)
        residues = await self._book.residues(peer.url)
        await self._book.clear_ledger(peer.url)
        return sum(residues.values())

    def _named(self, url: str) -> Peer:
        """The listed peer of that URL.

        :raises ConfigError: not a relay's URL.
        :raises Unknown: it is not listed.
        """
        url = canonical(url)
        peer = self._peers.get(url)
        if peer is None or not peer.listed:
            raise Unknown(f"peer {url} is not listed")
        return peer

    def _target(self, url: str) -> str:
        """The canonical URL of a peer that is to be dialed.

        :raises ConfigError: not a relay's URL, or one that is forbidden.
        """
        return target(url, self._node.settings.private_targets)

    # --- beside other nodes ---------------------------------------------------------------------

    async def _round(self) -> None:
        """Learn what other nodes did, and keep equal with the peers that none of them has."""
        async with self._changing:
            try:
                if self._rounds.running:
                    await self._reread()
                    await self._share()
            except StorageError as error:
                log.warn("peers of all nodes: {text}", text=error.text)
            except Exception:
                log.failure("peers of all nodes")

    async def _reread(self) -> None:
        """Take over the list, and the states that other nodes write."""
        states = await respelled(self._book)
        for url in self.peers():
            if url not in states:
                await self._forget(url)
        for url, state in states.items():
            peer = self._peers.get(url)
            if peer is None:
                self._admit(Listing(url), state)
            elif not peer.listed:
                self._attend(peer)
            elif not peer.ours and peer.running is None:
                peer.take_over(state)

    async def _share(self) -> None:
        """Ask for the lease of every peer, and attend to those whose lease we get."""
        assert self._tenancy is not None
        tenancy = self._tenancy
        listed = [peer for peer in self._peers.values() if peer.listed]
        wanted = [peer for peer in listed if self._active or (peer.ours and peer.running)]
        for peer in listed:
            if peer not in wanted:
                peer.ours = False
                await tenancy.give_back(peer.url)
        await gatherResults([Deferred.fromCoroutine(tenancy.ask(peer.url)) for peer in wanted])
        taken = [peer for peer in wanted if not peer.ours and tenancy.holds(peer.url)]
        states = await self._book.peers() if taken else {}
        for peer in taken:
            peer.ours = True
            peer.take_over(states.get(peer.url, peer.state))
        for peer in wanted:
            if self._active and peer.ours:
                self._attendances[peer.url].start()

    def _let_go(self, url: str) -> None:
        """End what runs with a peer by itself: another node may have it now."""
        peer, attendance = self._peers.get(url), self._attendances.get(url)
        if peer is not None:
            peer.ours = False
        if attendance is not None:  # or else it is being ended already
            stopped = Deferred.fromCoroutine(attendance.stop())
            stopped.addErrback(lambda failure: log.failure("{url}", failure, url=url))

    # --- on demand ------------------------------------------------------------------------------

    async def trigger(self, url: str | None, wanted: Filter) -> None:
        """See :meth:`IPeerSync.trigger`."""
        if url is not None:
            peer = self._named(self._target(url))
            self._note(peer, peer.sync(wanted, lambda _: None))
            return
        refusals = []
        for peer in [peer for peer in self._peers.values() if peer.listed]:
            try:
                self._note(peer, peer.sync_next(wanted))
            except LimitReached as refusal:
                refusals.append(refusal)
        if refusals:  # the others have begun
            raise refusals[0]

    def _note(self, peer: Peer, syncing: Deferred[Any]) -> None:
        """Nobody waits for it; what goes wrong is in the peer's state and the log."""

        def note(failure: Failure) -> None:
            if isinstance(failure.value, PeerError):
                log.warn("{url}: {text}", url=peer.url, text=failure.value.text)
            elif not failure.check(CancelledError):
                log.failure("sync with {url} failed", failure, url=peer.url)

        syncing.addErrback(note)

    async def sync(
        self, url: str, wanted: Filter, progress: Callable[[SyncProgress], None]
    ) -> SyncProgress:
        """See :meth:`IPeerSync.sync`."""
        url = self._target(url)
        peer = self._peers.get(url)
        if peer is not None:
            return await peer.sync(wanted, progress)
        visited = self._peers[url] = self._peer(Listing(url), PeerState(), listed=False)
        try:
            return await visited.sync(wanted, progress)
        finally:
            if not visited.listed and self._peers.get(url) is visited:
                del self._peers[url]
