"""The near end of a link, for tests: a listener that keeps what it is told."""

from __future__ import annotations

from zope.interface import implementer

from negd.interfaces import IPeerListener
from negd.nostr.messages import RelayMessage


@implementer(IPeerListener)
class RecordingListener:
    """An :class:`IPeerListener` that keeps everything, and holds the link to its promises.

    :ivar reasons: why the link was lost; never more than one.
    """

    def __init__(self) -> None:
        self.messages: list[RelayMessage] = []
        self.complaints: list[str] = []
        self.reasons: list[str] = []

    def received(self, message: RelayMessage) -> None:
        """See :meth:`IPeerListener.received`."""
        assert not self.reasons, "a message after the end"
        self.messages.append(message)

    def unreadable(self, text: str, event_id: str = "") -> None:
        """See :meth:`IPeerListener.unreadable`."""
        assert not self.reasons, "a message after the end"
        self.complaints.append(text)

    def lost(self, reason: str) -> None:
        """See :meth:`IPeerListener.lost`."""
        assert not self.reasons, "a second end"
        self.reasons.append(reason)
