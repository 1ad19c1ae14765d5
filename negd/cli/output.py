"""What people read: tables, times, counts, complaints."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import suppress

_UNITS = ((86400, "d"), (3600, "h"), (60, "min"), (1, "s"))


def complain(text: str) -> None:
    """One line on stderr, if anybody reads it."""
    with suppress(OSError):
        print(f"negctl: {plain(text)}", file=sys.stderr)


def plain(text: str) -> str:
    """One line without what a terminal would obey: relays' words are in many texts."""
    line = " ".join(text.split())
    return "".join(c if c.isprintable() else "?" for c in line)


def table(head: Sequence[str], rows: Sequence[Sequence[str]], right: Sequence[str] = ()) -> str:
    """Aligned columns, two spaces between them.

    :param right: the columns, by their heads, that are aligned to the right.
    """
    lines = [head, *rows]
    widths = [max(len(line[column]) for line in lines) for column in range(len(head))]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if name in right else cell.ljust(width)
            for name, cell, width in zip(head, line, widths, strict=True)
        ).rstrip()
        for line in lines
    )


def fields(*groups: Sequence[tuple[str, str]]) -> str:
    """Names and what they stand for, the latter aligned; groups are apart."""
    width = max(len(name) for group in groups for name, _ in group)
    return "\n\n".join(
        "\n".join(f"{name:<{width}}  {text}" for name, text in group) for group in groups
    )


def ago(second: float, now: float) -> str:
    """How long ago that was; 0 is never."""
    return f"{span(now - second)} ago" if second else "never"


def span(seconds: float) -> str:
    """A length of time, roughly: one number and one unit."""
    whole = max(0, int(seconds))
    for size, unit in _UNITS:
        if whole >= size:
            return f"{whole // size} {unit}"
    return "0 s"


def due(second: float, now: float) -> str:
    """How long it is until then; empty for a second that has passed."""
    return f"in {span(second - now)}" if second > now else ""


def interval(seconds: float) -> str:
    """A length of time, to the second: ``1 h 30 min``."""
    parts, left = [], seconds
    for size, unit in _UNITS:
        if left >= size:
            parts.append(f"{left // size:.0f} {unit}")
            left %= size
    return " ".join(parts) or f"{seconds:g} s"


def count(number: int, noun: str) -> str:
    """``1 peer``, ``1,234 peers``."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
