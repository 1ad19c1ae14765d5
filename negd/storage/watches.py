"""Standing watches on new events, found by what they ask for instead of tried one by one."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable

from twisted.logger import Logger
from zope.interface import implementer

from negd.interfaces import IWatch
from negd.nostr.event import Event
from negd.nostr.filter import Filter

log = Logger()

_ANY: Hashable = ("any",)


@implementer(IWatch)
class Watch:
    """One caller's wish to be told of events."""

    def __init__(
        self, owner: Watches, wanted: Filter, callback: Callable[[Event, bytes], None]
    ) -> None:
        self._owner = owner
        self.wanted = wanted
        self.callback = callback
        self.active = True

    def stop(self) -> None:
        """See :meth:`IWatch.stop`."""
        if self.active:
            self.active = False
            self._owner.drop(self)


class Watches:
    """All watches on one store, each filed under the values of one of its conditions.

    So an event runs only the watches that name its id, its author, one of its tags or its kind,
    and those that name nothing.
    """

    def __init__(self) -> None:
        self._filed: dict[Hashable, dict[Watch, None]] = {}

    def __bool__(self) -> bool:
        return bool(self._filed)

    def add(self, wanted: Filter, callback: Callable[[Event, bytes], None]) -> Watch:
        """See :meth:`negd.interfaces.IEventStore.watch`."""
        watch = Watch(self, wanted, callback)
        for key in _filing_keys(wanted):
            self._filed.setdefault(key, {})[watch] = None
        return watch

    def drop(self, watch: Watch) -> None:
        """Forget a watch."""
        for key in _filing_keys(watch.wanted):
            filed = self._filed[key]
            del filed[watch]
            if not filed:
                del self._filed[key]

    def tell(self, event: Event, json: bytes) -> None:
        """Call back every watch that the event matches, once."""
        concerned: dict[Watch, None] = {}
        for key in _event_keys(event):
            concerned.update(self._filed.get(key, ()))
        for watch in concerned:
            if watch.active and watch.wanted.matches(event):
                try:
                    watch.callback(event, json)
                except Exception:
                    log.failure("a watch on {filter} failed", filter=watch.wanted.to_json())


def _filing_keys(wanted: Filter) -> Iterable[Hashable]:
    """Keys of which an event that matches has at least one; the rarest condition's."""
    if wanted.ids is not None:
        return [("id", value.hex()) for value in wanted.ids]
    if wanted.authors is not None:
        return [("author", value.hex()) for value in wanted.authors]
    if wanted.tags:
        name, values = wanted.tags[0]
        return [("tag", name, value) for value in values]
    if wanted.kinds is not None:
        return [("kind", value) for value in wanted.kinds]
    return [_ANY]


def _event_keys(event: Event) -> Iterable[Hashable]:
    yield _ANY
    yield ("id", event.id)
    yield ("author", event.pubkey)
    yield ("kind", event.kind)
    for name, value in event.indexed_tags():
        yield ("tag", name, value)
