"""Words that come from elsewhere, made fit for a log, a terminal and a store."""

from __future__ import annotations

LONGEST = 200
"""Characters kept of what a peer says: its prefix and its numbers come first."""


def printable(text: str, longest: int = LONGEST) -> str:
    """The first so many characters; control characters, line ends and the like are ``?``."""
    cut = text[:longest]
    return cut if cut.isprintable() else "".join(c if c.isprintable() else "?" for c in cut)
