"""Why events stay different between a peer and the daemon, and what peers do wrong, in words."""

from __future__ import annotations

MEANINGS = {
    "ours-rejected": "refused by us: replaced, deleted, expired or not valid",
    "theirs-rejected": "refused by the peer",
    "unfetchable": "listed by the peer, but not returned",
    "auth-gated": "kept by the peer from those it does not know (see key_file)",
}
"""What follows a number of events, by the words of ``negd.interfaces.Residue``."""

FAULTS = {
    "unreadable": "unreadable messages",
    "unasked": "events not asked for",
    "invalid": "events with a wrong id or signature",
    "repeated": "events sent again",
}
"""What follows a number, by the words of ``negd.interfaces.Fault``."""
