"""A client of a running daemon, as tests have it: over a real WebSocket, in a reactor of theirs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from zope.interface import implementer

from negd.interfaces import IPeerLink, IPeerListener
from negd.nostr.event import Event
from negd.nostr.filter import Filter
from negd.nostr.messages import (
    Delivered,
    Eose,
    Ok,
    RelayMessage,
    encode_close,
    encode_publish,
    encode_request,
)
from negd.settings import SyncSettings
from negd.testing.redis_server import OwnReactor
from negd.testing.relays import until
from negd.websocket.client import Dialer


@implementer(IPeerListener)
class Client:
    """Sends events, notes what is said of each, and asks.

    :ivar accepted: ids that were answered ``OK true``.
    :ivar refused: what was said of the others, by their ids.
    :ivar gone: whether the connection is.
    """

    def __init__(self, reactor: OwnReactor) -> None:
        self.accepted: set[str] = set()
        self.refused: dict[str, str] = {}
        self._reactor = reactor
        self.link: IPeerLink
        self._found: set[str] = set()
        self._through = False
        self.gone = False

    def send(self, events: Iterable[Event]) -> None:
        for event in events:
            self.link.send(encode_publish(event.encode()))

    def until_answered(self, count: int) -> None:
        """Return once so many events were answered since the client was there."""

        def answered() -> bool:
            return len(self.accepted) + len(self.refused) >= count

        self._reactor.wait(until(self._reactor, answered, 30.0))

    def offer(self, *events: Event) -> set[str]:
        """Send events that were not sent before; what was said of each, nothing for ``OK true``."""
        before = len(self.accepted) + len(self.refused)
        self.send(events)
        self.until_answered(before + len(events))
        return {self.refused.get(event.id, "") for event in events}

    def ask(self, wanted: Filter) -> set[str]:
        """The ids of what is stored."""
        self._found, self._through = set(), False
        self.link.send(encode_request("asked", [wanted]))
        self._reactor.wait(until(self._reactor, lambda: self._through, 30.0))
        self.link.send(encode_close("asked"))
        return self._found

    def received(self, message: RelayMessage) -> None:
        match message:
            case Ok(event_id, True):
                self.accepted.add(event_id)
            case Ok(event_id, False, text):
                self.refused[event_id] = text
            case Delivered(_, event):
                self._found.add(event.id)
            case Eose():
                self._through = True
            case _:
                raise AssertionError(message)

    def unreadable(self, text: str, event_id: str = "") -> None:
        raise AssertionError(text)

    def lost(self, reason: str) -> None:
        self.gone = True


@contextmanager
def connected(reactor: OwnReactor, url: str) -> Iterator[Client]:
    client = Client(reactor)
    client.link = reactor.wait(Dialer(reactor, SyncSettings()).dial(url, client))
    yield client
    client.link.close()
    reactor.wait(until(reactor, lambda: client.gone))
