"""One sync with one peer, from the first byte to the last OK."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

from twisted.internet.interfaces import IReactorTime

from negd.interfaces import (
    Direction,
    IEventStore,
    IIntake,
    IPeerBook,
    IPeerDialer,
    SyncProgress,
)
from negd.nostr.filter import Filter
from negd.nostr.signing import Signer
from negd.reconcile import RecordSet, Step
from negd.settings import SyncSettings
from negd.sync.arrivals import Arrivals
from negd.sync.contact import Contact, contact
from negd.sync.differences import Differences
from negd.sync.fetch import Fetch
from negd.sync.ledger import Ledger
from negd.sync.negotiation import Negotiation
from negd.sync.offload import Offload
from negd.sync.paging import Paging
from negd.sync.refusals import NoReconciliation
from negd.sync.together import together
from negd.sync.upload import Upload


@dataclass(frozen=True, slots=True)
class Node:
    """What of this node a sync works with.

    :ivar signer: the key that answers peers who ask who we are (NIP-42).
    """

    store: IEventStore
    intake: IIntake
    dialer: IPeerDialer
    settings: SyncSettings
    clock: IReactorTime
    offload: Offload
    signer: Signer | None = None


class SyncRun:
    """A sync: transfers start with the first differences, while reconciliation goes on.

    :param book: where differences that stay are explained; None for a peer that is not listed.
    :param report: told of each round and each batch.
    """

    def __init__(
        self,
        node: Node,
        url: str,
        wanted: Filter,
        direction: Direction,
        book: IPeerBook | None,
        report: Callable[[SyncProgress], None],
    ) -> None:
        self._node = node
        self._url = url
        self._wanted = wanted
        self._direction = direction
        self._report = report
        self._haves = Differences()
        self._needs = Differences()
        self._ledger = Ledger(book, url, node.clock, node.settings.ledger_retry)
        self._arrivals = Arrivals(node.intake, self._ledger, self._moved)
        self.progress = SyncProgress(url)

    async def run(self) -> SyncProgress:
        """Sync to the end; the last progress is complete. Cancelling stops it at once.

        :raises negd.errors.PeerError: the peer could not be reached, refused or fell silent.
        :raises negd.errors.ProtocolViolation: the peer's negentropy message cannot be read.
        :raises negd.errors.StorageError: our storage failed.
        """
        node = self._node
        patience = node.settings.answer
        async with contact(node.dialer, self._url, node.signer, node.clock, patience) as peer:
            await self._sync(peer)
        self.progress = replace(self.progress, complete=True)
        self._report(self.progress)
        return self.progress

    async def _sync(self, peer: Contact) -> None:
        records = await self._node.store.snapshot(self._wanted)
        try:
            await together(
                self._compare(peer, records),
                self._fetch(peer).run(),
                self._upload(peer).run(),
            )
        finally:
            await self._ledger.write(at_least=1)

    async def _compare(self, peer: Contact, records: RecordSet) -> None:
        """Put all differences in line, by NIP-77 or, where the peer has none, by its pages."""
        node = self._node
        try:
            negotiation = Negotiation(peer, node.settings, node.clock, node.offload, self._stepped)
            await negotiation.run(self._wanted, records)
        except NoReconciliation:
            arrivals = None if self._direction is Direction.UP else self._arrivals
            paging = Paging(peer, arrivals, self._ledger, node.settings.answer, self._paged)
            await paging.run(self._wanted, records)
        self._haves.finish()
        self._needs.finish()

    def _fetch(self, peer: Contact) -> Fetch:
        node = self._node
        needs = self._needs if self._direction is not Direction.UP else _nothing()
        return Fetch(
            peer, needs, self._arrivals, self._ledger, node.settings, node.clock, self._moved
        )

    def _upload(self, peer: Contact) -> Upload:
        node = self._node
        haves = self._haves if self._direction is not Direction.DOWN else _nothing()
        return Upload(peer, haves, node.store, self._ledger, node.settings, self._moved)

    def _stepped(self, step: Step) -> int:
        """Put a round's differences in line; how many were new."""
        have = self._haves.add(step.have)
        need = self._needs.add(step.need)
        self._moved(round=1, have=have, need=need)
        return have + need

    def _paged(self, have: Iterable[bytes], need: Iterable[bytes]) -> None:
        """Put what a page shows that the peer lacks in line; the page brought what we need."""
        self._moved(have=self._haves.add(have), need=len(list(need)))

    def _moved(self, **more: int) -> None:
        self.progress = self.progress.plus(**more)
        self._report(self.progress)


def _nothing() -> Differences:
    nothing = Differences()
    nothing.finish()
    return nothing
