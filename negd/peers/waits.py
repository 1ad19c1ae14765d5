"""How long to wait between syncs."""

from __future__ import annotations

from random import Random

from negd.settings import SyncSettings


def until_next(
    settings: SyncSettings, failures: int, interval: float | None, random: Random
) -> float:
    """Seconds until a peer's next sync.

    After a success the interval, after ``failures`` in a row exponential backoff; a part of
    either (``jitter``) is random, so that peers do not come in step.
    """
    if failures:
        wait = settings.backoff_first * 2.0 ** min(failures - 1, 60)
        wait = min(wait, settings.backoff_most)
    else:
        wait = settings.interval if interval is None else interval
    return wait * (1 - settings.jitter * random.random())
