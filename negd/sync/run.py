"""One sync with one peer, from the first byte to the last OK."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from twisted.internet.interfaces import IReactorTime

from negd.interfaces import (
    Direction,
    IEventStore,
    IIntake,
    IPeerBook,
    IPeerDialer,
    IPeerLink,
    SyncProgress,
)
from negd.nostr.filter import Filter
from negd.reconcile import RecordSet, Step
from negd.settings import SyncSettings
from negd.sync.dialogue import Dialogue, hanging_up
from negd.sync.differences import Differences
from negd.sync.fetch import Fetch
from negd.sync.ledger import Ledger
from negd.sync.negotiation import Negotiation
from negd.sync.offload import Offload
from negd.sync.together import together
from negd.sync.upload import Upload


@dataclass(frozen=True, slots=True)
class Node:
    """What of this node a sync works with."""

    store: IEventStore
    intake: IIntake
    dialer: IPeerDialer
    settings: SyncSettings
    clock: IReactorTime
    offload: Offload


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
        self.progress = SyncProgress(url)

    async def run(self) -> SyncProgress:
        """Sync to the end; the last progress is complete. Cancelling stops it at once.

        :raises negd.errors.PeerError: the peer could not be reached, refused or fell silent.
        :raises negd.errors.ProtocolViolation: the peer's negentropy message cannot be read.
        :raises negd.errors.StorageError: our storage failed.
        """
        node = self._node
        records = await node.store.snapshot(self._wanted)
        dialogue = Dialogue(node.clock)
        with hanging_up(await node.dialer.dial(self._url, dialogue)) as link:
            try:
                await together(
                    self._reconcile(dialogue, link, records),
                    self._fetch(dialogue, link).run(),
                    self._upload(dialogue, link).run(),
                )
            finally:
                await self._ledger.write(at_least=1)
        self.progress = replace(self.progress, complete=True)
        self._report(self.progress)
        return self.progress

    async def _reconcile(self, dialogue: Dialogue, link: IPeerLink, records: RecordSet) -> None:
        node = self._node
        negotiation = Negotiation(
            dialogue, link, node.settings, node.clock, node.offload, self._found
        )
        await negotiation.run(self._wanted, records)
        self._haves.finish()
        self._needs.finish()

    def _fetch(self, dialogue: Dialogue, link: IPeerLink) -> Fetch:
        node = self._node
        needs = self._needs if self._direction is not Direction.UP else _nothing()
        return Fetch(
            dialogue,
            link,
            needs,
            node.intake,
            self._ledger,
            node.settings,
            node.clock,
            self._moved,
        )

    def _upload(self, dialogue: Dialogue, link: IPeerLink) -> Upload:
        node = self._node
        haves = self._haves if self._direction is not Direction.DOWN else _nothing()
        return Upload(dialogue, link, haves, node.store, self._ledger, node.settings, self._moved)

    def _found(self, step: Step) -> int:
        """Put a round's differences in line; how many were new."""
        have = self._haves.add(step.have)
        need = self._needs.add(step.need)
        self._moved(round=1, have=have, need=need)
        return have + need

    def _moved(self, **more: int) -> None:
        self.progress = self.progress.plus(**more)
        self._report(self.progress)


def _nothing() -> Differences:
    nothing = Differences()
    nothing.finish()
    return nothing
