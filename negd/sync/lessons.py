"""What one sync learns of a peer's ways, on top of what was known of them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from twisted.internet.interfaces import IReactorTime

from negd.interfaces import PeerProfile

DOUBT = 24 * 3600.0
"""Seconds after which a peer that did not reconcile is asked again, and limits are forgotten."""

_MOST_BROKEN_OFF = 3
"""Reconciliations in a row that a peer may begin and not end."""


class Lessons:
    """A peer's profile as it grows.

    :ivar profile: all that is known by now.
    """

    def __init__(self, profile: PeerProfile, clock: IReactorTime) -> None:
        self._clock = clock
        self.profile = profile
        if self._has_passed(profile.limited_at):
            self.learn(max_records=None, frame_limit=None, ids_per_request=None, limited_at=0)

    def learn(self, **news: Any) -> None:
        """Something new of the profile, by its names."""
        self.profile = replace(self.profile, **news)

    def lessen(self, **limits: int | None) -> None:
        """Limits of the profile, by their names; they are doubted, too."""
        if any(limit != getattr(self.profile, name) for name, limit in limits.items()):
            self.learn(limited_at=self._clock.seconds(), **limits)

    def _has_passed(self, found_at: float) -> bool:
        return abs(self._clock.seconds() - found_at) >= DOUBT  # clocks are set back, too

    @property
    def is_unable(self) -> bool:
        """Whether the peer is known not to reconcile (NIP-77), and not for so long as to doubt."""
        return self.profile.nip77 is False and not self._has_passed(self.profile.found_at)

    def reconciles(self) -> None:
        """The peer has reconciled to the end."""
        self.learn(nip77=True, found_at=self._clock.seconds(), refusal="", broken_off=0)

    def does_not_reconcile(self, refusal: str) -> None:
        """The peer will not, in these words."""
        self.learn(nip77=False, found_at=self._clock.seconds(), refusal=refusal, broken_off=0)

    def says_nothing(self) -> None:
        """The peer was taken not to reconcile, but it answers nothing else either."""
        self.learn(nip77=None, found_at=0, refusal="")

    def broke_off(self, text: str, moved: int) -> None:
        """The peer did not reconcile to the end; one that never does is unable.

        :param moved: events that moved all the same. If some do each time, that is an end too.
        """
        self.learn(broken_off=0 if moved else self.profile.broken_off + 1)
        if self.profile.broken_off >= _MOST_BROKEN_OFF:
            self.does_not_reconcile(text)
