"""Makes ``twistd negd``: a declaration; the daemon's code is imported when it is asked for."""

from __future__ import annotations

from twisted.application.service import ServiceMaker

negd = ServiceMaker(
    "negd",
    "negd.tap",
    "Keep Nostr event sets equal between relays (NIP-77).",
    "negd",
)
