"""How one peer is to be kept equal: what a ``[[peer]]`` of the configuration says, checked."""

from __future__ import annotations

from dataclasses import dataclass, replace

from negd.errors import ConfigError, RemoteError
from negd.interfaces import Direction
from negd.nostr import filter as filters
from negd.nostr.filter import EVERYTHING, Filter
from negd.peers.urls import canonical
from negd.settings import PeerSettings
from negd.sync.budget import UNLIMITED, Budget


@dataclass(frozen=True, slots=True)
class Listing:
    """One peer's terms.

    :ivar url: canonical.
    :ivar interval: seconds between syncs; None takes the common one.
    :ivar tail: whether new events move as they come, over a link that is kept open.
    :ivar budget: what may be moved, and how fast.
    :ivar proxy: the SOCKS5 proxy on the way, without user and password; nothing for none.
    :ivar compression: whether permessage-deflate is offered.
    """

    url: str
    direction: Direction = Direction.BOTH
    wanted: Filter = EVERYTHING
    interval: float | None = None
    tail: bool = True
    budget: Budget = UNLIMITED
    proxy: str = ""
    compression: bool = False

    def narrowed(self, wanted: Filter) -> Filter:
        """What a sync on demand is about: a filter of its own, or the peer's with its ``since``."""
        if replace(wanted, since=None) == EVERYTHING:
            return self.wanted.since_at_least(wanted.since)
        return wanted


def listing_of(settings: PeerSettings) -> Listing:
    """The listing that a ``[[peer]]`` describes.

    :raises ConfigError: its URL or its filter is wrong.
    """
    try:
        wanted = filters.from_json(settings.filter)
    except RemoteError as error:
        where = f"peer {settings.url!r}: filter {settings.filter}"
        raise ConfigError(f"{where}: {error.text}") from None
    return Listing(
        canonical(settings.url),
        Direction(settings.direction),
        wanted,
        settings.interval,
        settings.tail,
        Budget(settings.max_rate, settings.max_events),
        _without_password(settings.proxy),
        settings.compression,
    )


def _without_password(proxy: str) -> str:
    scheme, slashes, rest = proxy.partition("//")
    return scheme + slashes + rest.rpartition("@")[2]
