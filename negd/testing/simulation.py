"""Networks of nodes under one clock, with faults drawn from a seed: do they become equal?

Real sync code over in-memory links that take time: 2 to 20 nodes, some of them without NIP-77,
writers on all of them, links cut, networks parted, nodes that crash and come back.  After that,
quiet; then every difference
between two peers must be explained by a ledger.

``python -m negd.testing.simulation 1000`` runs the seeds 0 to 999.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from random import Random

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from negd.errors import PeerError
from negd.nostr.event import Event
from negd.nostr.signing import Signer
from negd.peers.listing import Listing
from negd.settings import SyncSettings
from negd.storage.memory import MemoryStorage
from negd.testing.links import ConversationPeer, MemoryDialer, PagedPeer
from negd.testing.nodes import MemoryNode

START = 1_700_000_000
_SYNC = SyncSettings(
    interval=60, backoff_first=1, backoff_most=30, ledger_retry=120, fetch_batch=5, upload_window=4
)
_QUIET = 900.0
"""Seconds without faults and writers after which all must be equal, or explained."""

_TICK = 0.25
_AUTHORS = [Signer(bytes([n]) * 32) for n in range(1, 5)]


class Place:
    """A node's machine: its disk lasts, its process comes and goes.

    :param reconciles: whether it serves NIP-77.
    """

    def __init__(
        self, name: str, clock: Clock, latency: Callable[[], float], reconciles: bool
    ) -> None:
        self._link = ConversationPeer if reconciles else PagedPeer
        self.url = f"ws://{name}.example"
        self.listings: list[Listing] = []
        self._clock = clock
        self._disk = MemoryStorage(clock)
        self._dialer = MemoryDialer({}, clock, latency)
        self.node: MemoryNode | None = None

    def boot(self) -> None:
        """Start the node on what its disk holds."""
        self.node = MemoryNode(
            self.url, self._dialer, self._clock, _SYNC, storage=self._disk, link=self._link
        )
        Deferred.fromCoroutine(self.node.roster.start(self.listings))

    def crash(self) -> None:
        """End the process: every link of it is lost."""
        assert self.node is not None
        for served in self.node.served:
            served.abort("crashed")
        for link in self._dialer.links:
            link.end("crashed")
        Deferred.fromCoroutine(self.node.roster.stop())
        self.node = None

    def reach(self, other: Place) -> None:
        """Let this place reach another, as far as that one runs."""
        refused = PeerError("connection refused")
        self._dialer.peers[other.url] = refused if other.node is None else other.node.serve

    def part(self, other: Place) -> None:
        """Cut the ways to another place."""
        self._dialer.peers[other.url] = PeerError("no route to host")
        for link in self._dialer.links:
            if link.url == other.url:
                link.end("connection lost")

    def held(self) -> set[bytes]:
        """The ids on its disk that have not expired."""
        self._disk.events._sweep()
        return set(self._disk.events._stored)

    def explained(self, other: Place) -> set[bytes]:
        """The ids that its ledger with another holds."""
        return set(self._disk.book._ledgers.get(other.url, {}))


class Simulation:
    """One seed's network and its fate."""

    def __init__(self, seed: int) -> None:
        self.random = Random(seed)
        self.clock = Clock()
        self.clock.advance(START)
        count = 2 + int(19 * self.random.random() ** 3)
        self.places = [
            Place(f"n{n}", self.clock, self._latency, self.random.random() < 0.8)
            for n in range(count)
        ]
        self.groups = [0] * count
        self.written: list[Event] = []
        self._connect()
        for place in self.places:
            place.boot()
        self._route()

    def _latency(self) -> float:
        return self.random.expovariate(20)

    def _connect(self) -> None:
        """List peers so that every node is reached: a random tree, and some more edges."""
        count = len(self.places)
        edges = {(n, self.random.randrange(n)) for n in range(1, count)}
        edges |= {
            (n, self.random.randrange(count)) for n in range(count) if self.random.random() < 0.3
        }
        for here, there in sorted(edges):
            if here != there:
                tail = self.random.random() < 0.7
                listing = Listing(self.places[there].url, tail=tail)
                self.places[here].listings.append(listing)

    def _route(self) -> None:
        """Let places reach each other within their group only."""
        for here, group in zip(self.places, self.groups, strict=True):
            for there, other in zip(self.places, self.groups, strict=True):
                (here.reach if group == other else here.part)(there)

    # --- what happens ---------------------------------------------------------------------------

    def run(self, steps: int = 40) -> list[str]:
        """Live through faults, then quiet; what is left unequal without a reason."""
        happenings = [self._write, self._write, self._write, self._cut, self._part, self._crash]
        for _ in range(steps):
            self.random.choice(happenings)()
            self._pass(self.random.random() * 8)
        self._heal()
        self._pass(_QUIET)
        faults = self.unexplained()
        for place in self.places:
            place.crash()
        self._pass(1)
        return faults

    def _pass(self, seconds: float) -> None:
        until = self.clock.seconds() + seconds
        while self.clock.seconds() < until:
            self.clock.advance(_TICK)

    def _write(self) -> None:
        running = [place.node for place in self.places if place.node is not None]
        if running:
            node = self.random.choice(running)
            events = [self._event() for _ in range(self.random.randint(1, 6))]
            Deferred.fromCoroutine(node.backend.intake.submit(events))

    def _event(self) -> Event:
        """An event of any fate: kept, replaced, deleted, expiring."""
        random, author = self.random, self.random.choice(_AUTHORS)
        at = int(self.clock.seconds()) - random.randint(0, 50)
        kind = random.choice([1, 1, 0, 10002, 30000, 5])
        tags: list[list[str]] = []
        if kind == 5 and self.written:
            victims = random.sample(self.written, min(2, len(self.written)))
            tags = [["e", victim.id] for victim in victims]
            tags.append(["a", f"30000:{author.pubkey}:{random.choice('ab')}"])
        elif kind == 30000:
            tags = [["d", random.choice("ab")]]
        elif kind == 1 and random.random() < 0.1:
            tags = [["expiration", str(at + random.randint(60, 200))]]
        content = str(random.random())
        event = author.sign(created_at=at, kind=kind, tags=tags, content=content)
        self.written.append(event)
        return event

    def _cut(self) -> None:
        here, there = self.random.sample(self.places, 2)
        here.part(there)
        there.part(here)
        self._route()

    def _part(self) -> None:
        self.groups = [self.random.randrange(2) for _ in self.places]
        self._route()

    def _crash(self) -> None:
        place = self.random.choice(self.places)
        if place.node is None:
            place.boot()
        else:
            place.crash()
        self._route()

    def _heal(self) -> None:
        self.groups = [0] * len(self.places)
        for place in self.places:
            if place.node is None:
                place.boot()
        self._route()

    # --- what came of it ------------------------------------------------------------------------

    def unexplained(self) -> list[str]:
        """A line for each peering with differences that no ledger explains."""
        faults = []
        by_url = {place.url: place for place in self.places}
        for here in self.places:
            for listing in here.listings:
                there = by_url[listing.url]
                left = (here.held() ^ there.held()) - here.explained(there)
                if left:
                    faults.append(f"{here.url} and {there.url} differ by {len(left)}")
        return faults

    def equal(self) -> bool:
        """Whether all hold the same."""
        return len({frozenset(place.held()) for place in self.places}) == 1


def main() -> int:
    """Run many seeds; exit status 1 if one of them ends unequal without a reason."""
    parser = argparse.ArgumentParser(prog="python -m negd.testing.simulation", description=__doc__)
    parser.add_argument("seeds", type=int, help="how many seeds to run")
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    options = parser.parse_args()
    failed = equal = 0
    for seed in range(options.first, options.first + options.seeds):
        simulation = Simulation(seed)
        faults = simulation.run()
        equal += simulation.equal()
        failed += bool(faults)
        for fault in faults:
            print(f"seed {seed}: {fault}", flush=True)
    print(f"{options.seeds} seeds: {equal} ended equal, {failed} with differences unexplained")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
