"""Attending to a listed peer: one link's whole life, and the next one after it."""

from __future__ import annotations

from random import Random

from twisted.internet.defer import CancelledError, Deferred, DeferredSemaphore
from twisted.internet.task import deferLater
from twisted.logger import Logger
from twisted.python.failure import Failure

from negd.errors import NegdError, PeerError
from negd.nostr.filter import EVERYTHING
from negd.peers.peer import Peer
from negd.peers.waits import until_next
from negd.sync.contact import Contact, get_in_touch
from negd.sync.ledger import Ledger
from negd.sync.node import Node
from negd.sync.tail import Tail
from negd.sync.together import together

log = Logger()

_STAYED_UP = 60.0
"""Seconds a link must last for the next one to be dialed without growing delay."""

_SHORTEST_WAIT = 1.0
"""Seconds between two syncs over a link, whatever became of the first."""


class Attendance:
    """Keeps this node equal with one listed peer until it is told to stop.

    Tail first, then reconcile, then go on with the tail; reconcile again at every interval and
    on every new link.  Without a tail, a link lasts for one sync.

    :param dialing: bounds how many peers are dialed at once.
    """

    def __init__(self, peer: Peer, node: Node, dialing: DeferredSemaphore, random: Random) -> None:
        self._peer = peer
        self._node = node
        self._clock = node.clock
        self._dialing = dialing
        self._random = random
        self._life: Deferred[None] | None = None
        self._short_links = 0
        self._ending = False

    def start(self) -> None:
        """Begin, or go on; attending already is no matter."""
        self._ending = False
        if self._life is None:
            self._life = life = Deferred.fromCoroutine(self._attend())
            life.addErrback(self._ended)

    def _ended(self, failure: Failure) -> None:
        """A life that is cancelled ends a while later; it may have been begun again since."""
        self._life = None
        if not failure.check(CancelledError):
            log.failure("attending to {url} ended", failure, url=self._peer.url)
        elif not self._ending:
            self.start()

    def end(self) -> None:
        """Start no further sync; one that runs goes on, and the link is closed after it."""
        self._ending = True
        Deferred.fromCoroutine(self._peer.idle()).addCallback(lambda _: self._cancel())

    def _cancel(self) -> None:
        if self._ending and self._life is not None:
            self._life.cancel()

    async def stop(self) -> None:
        """Stop at once, and return when all has ended: what has come is being stored."""
        self._ending = True
        await self._peer.halt()
        if self._life is not None:
            ended: Deferred[None] = Deferred()
            self._life.addBoth(lambda _: ended.callback(None))
            self._cancel()
            await ended

    # --- life -----------------------------------------------------------------------------------

    async def _attend(self) -> None:
        await self._sleep(self._peer.until_retry)
        while True:
            began = self._clock.seconds()
            try:
                await self._one_link()
            except NegdError as error:
                log.warn("{url}: {text}", url=self._peer.url, text=error.text)
            lasted = self._clock.seconds() - began
            await self._peer.idle()
            await self._sleep(self._until_next_link(lasted))

    def _until_next_link(self, lasted: float) -> float:
        """Seconds to stay away, after a link that lasted so long."""
        peer = self._peer
        self._short_links = 0 if lasted >= _STAYED_UP else self._short_links + 1
        until_sync = peer.wait() if peer.state.consecutive_failures or not peer.listing.tail else 0
        return until_sync or until_next(
            self._node.settings, 1 + self._short_links, None, self._random
        )

    async def _one_link(self) -> None:
        """A link from its opening to its end."""
        peer = self._peer
        peer.contact = opened = await self._dial()
        try:
            if peer.listing.tail:
                await together(self._follow(opened), self._sync_on_schedule())
            else:
                await self._sync()
        finally:
            peer.contact = None
            opened.close()

    async def _dial(self) -> Contact:
        async with self._dialing:
            try:
                return await get_in_touch(self._node, self._peer.url)
            except PeerError as error:
                await self._peer.failed(error.text)
                raise

    async def _follow(self, opened: Contact) -> None:
        listing, document = self._peer.listing, self._peer.state.profile.document
        node = self._node.keeping_to(document, listing.budget.rate)
        ledger = Ledger(node, self._peer.ledger_book, listing.url)
        tail = Tail(opened, node, listing.wanted, listing.direction, ledger, self._peer.count)
        try:
            await tail.run()
        except PeerError as error:
            opened.fault = error.text
            if opened.dialogue.is_lost:
                await self._peer.idle()  # a sync ends with the link, and knows how far it came
            raise

    async def _sync_on_schedule(self) -> None:
        """Sync now and at every interval, while the link lasts."""
        while True:
            try:
                await self._sync()
            except PeerError as error:
                log.warn("{url}: {text}", url=self._peer.url, text=error.text)
            await self._sleep(max(self._peer.wait(), _SHORTEST_WAIT))

    async def _sync(self) -> None:
        """Sync, after a sync that somebody else asked for."""
        await self._peer.idle()
        if not self._ending:
            await self._peer.sync(EVERYTHING, lambda _: None)

    async def _sleep(self, seconds: float) -> None:
        if seconds > 0:
            await deferLater(self._clock, seconds)
