"""A stand-in for an ORLY relay's database: the gRPC service as it was measured, its oddities too.

It shares no code with the storage that is tested against it.  Where the contract is silent it does
what the database's source does: it keeps old versions, goes by the second alone where versions
compete, obeys deletions of deletions, and has deleted events still at hand under their numbers.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from threading import Event as Flag
from threading import Lock
from typing import Any, TypeVar

import grpc
from google.protobuf.message import Message

from negd.nostr.event import Event
from negd.storage.orlydb.gen.orlydb.v1 import service_pb2 as proto
from negd.storage.orlydb.gen.orlydb.v1.service_pb2_grpc import (
    DatabaseServiceServicer,
    add_DatabaseServiceServicer_to_server,
)
from negd.testing.running import Running

Answer = TypeVar("Answer", bound=Message)

ANSWER_BYTES = 64 * 1024 * 1024

_DELETION = 5
_THREADS = 32


def message_of(event: Event) -> proto.Event:
    """The event as a relay would save it."""
    return proto.Event(
        id=bytes.fromhex(event.id),
        pubkey=bytes.fromhex(event.pubkey),
        created_at=event.created_at,
        kind=event.kind,
        tags=[proto.Tag(values=_tag_values(tag)) for tag in event.tags],
        content=event.content.encode(),
        sig=bytes.fromhex(event.sig),
    )


def _tag_values(tag: tuple[str, ...]) -> Iterator[bytes]:
    for position, text in enumerate(tag):
        value = text.encode()
        is_reference = position == 1 and tag[0] in ("e", "p")
        yield _binary(value) if is_reference else value


def _binary(value: bytes) -> bytes:
    """32 bytes in hex as those bytes and a NUL; anything else as it is."""
    if len(value) == 64 and not value.strip(b"0123456789abcdef"):
        return bytes.fromhex(value.decode()) + b"\0"
    return value


@dataclass(frozen=True)
class _Item:
    """A stored event, as far as filters and rules look at it."""

    serial: int
    event_id: bytes
    author: bytes
    second: int
    kind: int
    tags: tuple[tuple[bytes, bytes], ...]

    @classmethod
    def of(cls, serial: int, event: proto.Event) -> _Item:
        pairs = ((tag.values[0], tag.values[1]) for tag in event.tags if len(tag.values) > 1)
        tags = tuple((name, value) for name, value in pairs if len(name) == 1)
        return cls(serial, event.id, event.pubkey, event.created_at, event.kind, tags)

    def found_by(self) -> Iterable[Hashable]:
        """What it is found by."""
        return {"all", ("kind", self.kind), ("author", self.author), *self.tags}

    def values(self, name: bytes) -> list[bytes]:
        """The values of its tags of one letter."""
        return [value for letter, value in self.tags if letter == name]

    @property
    def is_replaceable(self) -> bool:
        return self.kind in (0, 3) or 10000 <= self.kind < 20000

    @property
    def is_addressable(self) -> bool:
        return 30000 <= self.kind < 40000

    @property
    def place(self) -> tuple[int, bytes, bytes]:
        """What it competes for with other versions."""
        identifiers = self.values(b"d") if self.is_addressable else []
        return self.kind, self.author, (identifiers or [b""])[0]


class _Refused(Exception):
    """The database does not take the event."""


class _Contents:
    """What the database holds, and its rules."""

    def __init__(self) -> None:
        self.events: dict[int, proto.Event] = {}
        self.items: dict[bytes, _Item] = {}
        self.next_serial = 0
        self._found_by: dict[Hashable, dict[int, _Item]] = {}

    def take_number(self) -> int:
        """A number that no other event gets."""
        self.next_serial += 1
        return self.next_serial - 1

    def save(self, event: proto.Event, number: int | None = None) -> bool:
        """Store an event, under a number that was taken or a new one; whether it replaces another.

        :raises _Refused: with the reason.
        """
        if 20000 <= event.kind < 30000:
            raise _Refused("ephemeral events should not be stored")
        if event.id in self.items:
            raise _Refused(f"event already exists: {event.id.hex()}")
        item = _Item.of(self.take_number() if number is None else number, event)
        self._check_deleted(item)
        rivals = self._versions(item)
        if any(item.second < rival.second for rival in rivals):
            kind = "replaceable" if item.is_replaceable else "addressable"
            raise _Refused(f"event is older than existing {kind} event")
        self.events[item.serial] = event
        self.items[item.event_id] = item
        for key in item.found_by():
            self._found_by.setdefault(key, {})[item.serial] = item
        if item.kind == _DELETION:
            self._obey(item)
        return bool(rivals)

    def matching(self, wanted: proto.Filter) -> list[_Item]:
        """The newest first; in one second in any order."""
        keys: set[Hashable] = {"all"}
        if wanted.tags:
            keys = {
                (key.removeprefix("#").encode(), _filter_value(key, value))
                for key, held in wanted.tags.items()
                for value in held.values
            }
        elif wanted.authors:
            keys = {("author", author) for author in wanted.authors}
        elif wanted.kinds:
            keys = {("kind", kind) for kind in wanted.kinds}
        kinds, authors = set(wanted.kinds), set(wanted.authors)
        found = {
            item.serial: item
            for key in keys
            for item in self._found_by.get(key, {}).values()
            if (not kinds or item.kind in kinds)
            and (not authors or item.author in authors)
            and (not wanted.since or item.second >= wanted.since)
            and (not wanted.until or item.second <= wanted.until)
        }
        listed = sorted(found.values(), key=lambda item: item.second, reverse=True)
        return listed[: wanted.limit] if wanted.HasField("limit") else listed

    def remove(self, item: _Item) -> None:
        """Forget an event, but not what its number stood for."""
        del self.items[item.event_id]
        for key in item.found_by():
            del self._found_by[key][item.serial]

    def _versions(self, item: _Item) -> list[_Item]:
        if not (item.is_replaceable or item.is_addressable):
            return []
        rivals = self._found_by.get(("author", item.author), {}).values()
        return [rival for rival in rivals if rival.place == item.place]

    def _deletions(self, author: bytes, name: bytes, value: bytes) -> list[_Item]:
        named = self._found_by.get((name, value), {}).values()
        return [item for item in named if item.kind == _DELETION and item.author == author]

    def _check_deleted(self, item: _Item) -> None:
        shown = item.event_id.hex()
        if not (item.is_replaceable or item.is_addressable):
            if self._deletions(item.author, b"e", item.event_id + b"\0"):
                raise _Refused(f"blocked: {shown} has been deleted")
            return
        address = f"{item.kind}:{item.author.hex()}:".encode() + item.place[2]
        for deletion in self._deletions(item.author, b"a", address):
            if item.second < deletion.second:
                raise _Refused(f"blocked: {shown} was deleted by address {address.decode()}")

    def _obey(self, deletion: _Item) -> None:
        for value in deletion.values(b"e"):
            target = self.items.get(value[:-1]) if len(value) == 33 else None
            if target is not None and target.author == deletion.author:
                self.remove(target)
        for value in deletion.values(b"a"):
            kind, _, rest = value.decode().partition(":")
            author, _, identifier = rest.partition(":")
            for item in list(self._found_by.get(("author", deletion.author), {}).values()):
                is_named = item.is_replaceable or (
                    item.is_addressable and item.place[2] == identifier.encode()
                )
                is_meant = (str(item.kind), item.author.hex()) == (kind, author)
                if is_named and is_meant and item.second < deletion.second:
                    self.remove(item)


def _filter_value(key: str, value: bytes) -> bytes:
    return _binary(value) if key.removeprefix("#") in ("e", "p") else value


class FakeDatabase(Running, DatabaseServiceServicer):
    """The service on a free loopback port, its contents in memory. A context manager.

    What it holds outlives :meth:`stop` and :meth:`start`.

    :param answer_bytes: how large an answer it sends at most.
    :ivar server: ``HOST:PORT``.
    :ivar is_ready: what it answers to Ready.
    :ivar refuses: says why the database does not take an event, or None.
    :ivar breaks: says why it cannot save an event now, or None.
    :ivar on_call: called with the method's name and the request before each call is served.
    :ivar on_saved: called between the commit of a SaveEvent and its answer.
    :ivar calls: how often each method was called.
    :ivar most_saves: how many SaveEvents ran at a time, at most.
    """

    def __init__(self, answer_bytes: int = ANSWER_BYTES) -> None:
        self.answer_bytes = answer_bytes
        self.server = "127.0.0.1:0"
        self._grpc: grpc.Server | None = None
        self._lock = Lock()
        self._thawed = Flag()
        self.reset()

    def reset(self) -> None:
        """Be a new, empty database."""
        with self._lock:
            self._contents = _Contents()
            self.is_ready = True
            self.refuses: Callable[[proto.Event], str | None] = lambda _: None
            self.breaks: Callable[[proto.Event], str | None] = lambda _: None
            self.on_call: Callable[[str, Any], None] = lambda method, request: None
            self.on_saved: Callable[[], None] = lambda: None
            self.calls: Counter[str] = Counter()
            self.most_saves = 0
            self._saves = 0
            self._has_crashed = False
            self._thawed.set()

    # --- life -----------------------------------------------------------------------------------

    def start(self) -> None:
        """Listen, again on the same port if it was stopped."""
        self._has_crashed = False
        self._grpc = grpc.server(
            ThreadPoolExecutor(_THREADS),
            options=[
                ("grpc.max_receive_message_length", ANSWER_BYTES),
                ("grpc.max_send_message_length", ANSWER_BYTES),
                ("grpc.so_reuseport", 0),
            ],
        )
        add_DatabaseServiceServicer_to_server(self, self._grpc)
        self.server = f"127.0.0.1:{self._grpc.add_insecure_port(self.server)}"
        self._grpc.start()

    def stop(self) -> None:
        """Break every connection and listen no more."""
        self.thaw()
        if self._grpc is not None:
            self._grpc.stop(0).wait()
            self._grpc = None

    def freeze(self) -> None:
        """Take calls and answer none of them."""
        self._thawed.clear()

    def thaw(self) -> None:
        """Answer what was asked meanwhile, and go on."""
        self._thawed.set()

    # --- what others do with it -----------------------------------------------------------------

    def write(self, *events: Event | proto.Event) -> None:
        """Store events, as a relay does beside negd. They must be acceptable."""
        with self._lock:
            for event in events:
                self._contents.save(message_of(event) if isinstance(event, Event) else event)

    def sweep(self, *events: Event) -> None:
        """Remove events without a trace, as the database does with expired ones."""
        with self._lock:
            for event in events:
                self._contents.remove(self._contents.items[event.id_bytes])

    def skip_numbers(self, count: int) -> None:
        """Give numbers to nothing, as a database does that was killed."""
        with self._lock:
            self._contents.next_serial += count

    @contextmanager
    def committing(self, event: Event) -> Iterator[None]:
        """The event has its number; it is there at the end of the context."""
        with self._lock:
            number = self._contents.take_number()
        yield
        with self._lock:
            self._contents.save(message_of(event), number)

    def holds(self, event: Event) -> bool:
        """Whether it would list the event."""
        with self._lock:
            return event.id_bytes in self._contents.items

    # --- the service ----------------------------------------------------------------------------

    def Ready(self, request: proto.Empty, context: Any) -> proto.ReadyResponse:
        """See service.proto."""
        self._begin("Ready", request, context)
        return proto.ReadyResponse(ready=self.is_ready)

    def SaveEvent(self, request: proto.SaveEventRequest, context: Any) -> proto.SaveEventResponse:
        """See service.proto. Neither id nor signature nor expiry is looked at."""
        with self._lock:
            self._saves += 1
            self.most_saves = max(self.most_saves, self._saves)
        try:
            self._begin("SaveEvent", request, context)
            with self._lock:
                fault = self.breaks(request.event)
                if fault is not None:
                    context.abort(grpc.StatusCode.INTERNAL, f"save event failed: {fault}")
                reason = self.refuses(request.event)
                if reason is not None:
                    raise _Refused(reason)
                replaced = self._contents.save(request.event)
            self.on_saved()
            return proto.SaveEventResponse(exists=replaced)
        except _Refused as error:
            context.abort(grpc.StatusCode.INTERNAL, f"save event failed: blocked: {error}")
            raise
        finally:
            with self._lock:
                self._saves -= 1

    def QueryForIds(self, request: proto.QueryEventsRequest, context: Any) -> proto.IdPkTsList:
        """See service.proto. A request without a filter is its end."""
        self._begin("QueryForIds", request, context)
        if not request.HasField("filter"):
            self._has_crashed = True
            context.abort(grpc.StatusCode.UNAVAILABLE, "error reading from server: EOF")
        if request.filter.ids:
            reason = "query for Ids is invalid for a filter with Ids"
            context.abort(grpc.StatusCode.INTERNAL, f"query for ids failed: {reason}")
        with self._lock:
            found = self._contents.matching(request.filter)
        items = [
            proto.IdPkTs(
                id=item.event_id, pubkey=item.author, timestamp=item.second, serial=item.serial
            )
            for item in found
        ]
        return self._sent(proto.IdPkTsList(items=items), context)

    def GetSerialsByIds(
        self, request: proto.GetSerialsByIdsRequest, context: Any
    ) -> proto.SerialMap:
        """See service.proto."""
        self._begin("GetSerialsByIds", request, context)
        try:
            asked = [(text.decode("ascii"), bytes.fromhex(text.decode())) for text in request.ids]
        except (UnicodeDecodeError, ValueError):
            reason = "string field contains invalid UTF-8"
            context.abort(grpc.StatusCode.INTERNAL, f"grpc: error while marshaling: {reason}")
        with self._lock:
            found = {text: self._contents.items.get(event_id) for text, event_id in asked}
        serials = {text: item.serial for text, item in found.items() if item is not None}
        return self._sent(proto.SerialMap(serials=serials), context)

    def FetchEventsBySerials(
        self, request: proto.FetchEventsBySerialRequest, context: Any
    ) -> proto.EventMap:
        """See service.proto."""
        self._begin("FetchEventsBySerials", request, context)
        with self._lock:
            events = self._contents.events
            found = {serial: events[serial] for serial in request.serials if serial in events}
        return self._sent(proto.EventMap(events=found), context)

    def _begin(self, method: str, request: Message, context: Any) -> None:
        with self._lock:
            self.calls[method] += 1
        self._thawed.wait()
        self.on_call(method, request)
        if self._has_crashed:
            context.abort(grpc.StatusCode.UNAVAILABLE, "connection refused")

    def _sent(self, answer: Answer, context: Any) -> Answer:
        size = answer.ByteSize()
        if size > self.answer_bytes:
            reason = f"trying to send message larger than max ({size} vs. {self.answer_bytes})"
            context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, f"grpc: {reason}")
        return answer
