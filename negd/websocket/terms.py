"""How links to a peer are made: what its ``[[peer]]`` says of that."""

from __future__ import annotations

from dataclasses import dataclass

from negd.settings import PeerSettings
from negd.websocket.socks import Proxy


@dataclass(frozen=True, slots=True)
class LinkTerms:
    """
    :ivar proxy: through which the peer is reached; None for straight.
    :ivar compression: whether permessage-deflate is offered (RFC 7692).
    :ivar max_rate: bytes a second, each way; 0 for no limit.
    """

    proxy: Proxy | None = None
    compression: bool = False
    max_rate: int = 0


def terms_of(settings: PeerSettings) -> LinkTerms:
    """The terms that a ``[[peer]]`` states.

    :raises negd.errors.ConfigError: its proxy is no proxy's URL.
    """
    return LinkTerms(
        Proxy.parse(settings.proxy) if settings.proxy else None,
        settings.compression,
        settings.max_rate,
    )
