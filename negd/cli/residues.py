"""Why events stay different between a peer and the daemon, in words."""

from __future__ import annotations

MEANINGS = {
    "ours-rejected": "refused by us: replaced, deleted, expired or not valid",
    "theirs-rejected": "refused by the peer",
    "unfetchable": "listed by the peer, but not returned",
}
"""What follows a number of events, by the words of ``negd.interfaces.Residue``."""
