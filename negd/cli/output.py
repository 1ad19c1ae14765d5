"""What people read: tables, times, counts, complaints."""

from __future__ import annotations

import sys
from collections.abc import Sequence

_UNITS = ((86400, "d"), (3600, "h"), (60, "min"), (1, "s"))


def complain(text: str) -> None:
    """One line on stderr."""
    line = " ".join(text.split())
    print(f"negctl: {line}", file=sys.stderr)


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


def count(number: int, noun: str) -> str:
    """``1 peer``, ``1,234 peers``."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
