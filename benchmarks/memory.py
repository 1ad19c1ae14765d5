"""What memory a process takes, together with those it started: Linux's own account of it."""

from __future__ import annotations

from pathlib import Path


def memory_of(process: int, kind: str = "Pss") -> int:
    """Bytes of a process and those below it.

    :param kind: ``Pss`` counts each page once, ``Pss_Anon`` none of files (proc(5),
        ``smaps_rollup``).
    """
    return sum(_bytes(member, kind) for member in _family(process))


def _family(process: int) -> list[int]:
    family = [process]
    for member in family:
        for children in Path(f"/proc/{member}/task").glob("*/children"):
            try:
                family += map(int, children.read_text().split())
            except OSError:
                pass
    return family


def _bytes(process: int, kind: str) -> int:
    """Shared pages count in part for each who shares them; a process that has ended has none."""
    try:
        text = Path(f"/proc/{process}/smaps_rollup").read_text()
    except OSError:
        return 0
    (size,) = [line.split()[1] for line in text.splitlines() if line.startswith(f"{kind}:")]
    return int(size) * 1024
