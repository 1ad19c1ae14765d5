"""The database's calls, blocking and with deadlines: for threads."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

import grpc
import numpy as np
import numpy.typing as npt
from twisted.logger import Logger

from negd.errors import StorageError
from negd.nostr.event import Event
from negd.reconcile import RECORD_SIZE, RecordSet
from negd.storage.orlydb.codec import Damaged, from_proto, to_proto
from negd.storage.orlydb.gen.orlydb.v1 import service_pb2 as proto
from negd.storage.orlydb.gen.orlydb.v1.service_pb2_grpc import DatabaseServiceStub
from negd.storage.postings import KEY, Records

log = Logger()

Item = TypeVar("Item")
Result = TypeVar("Result")

LARGEST_ANSWER = 65 * 1024 * 1024
"""Bytes of a message that are accepted; the server sends 64 MiB at most."""

READY_WITHIN = 2.0
SAVE_WITHIN = 10.0
READ_WITHIN = 10.0
LIST_WITHIN = 30.0
"""Seconds until a call fails. Listing 800,000 items takes the server 6 s."""

_IDS_AT_ONCE = 500
_EVENTS_AT_ONCE = 100

_EMPTY = proto.Empty()

_FAILED = "save event failed: "
_REFUSALS = ("blocked: ", "event is missing a d tag")
"""How texts begin that speak of the event; others speak of the database."""


class Away(StorageError):
    """The database does not answer: further calls will fail in the same way for a while."""


class TooLate(Away):
    """The database did not answer in time."""


class AnswerTooLarge(StorageError):
    """The answer is larger than the server sends, or would take too long: ask for less."""


@dataclass(frozen=True)
class Listed:
    """What the database lists, in no order: three arrays of one length.

    :ivar authors: public keys, dtype S32. :ivar serials: the database's numbers, u64.
    """

    records: Records
    authors: npt.NDArray[np.bytes_]
    serials: npt.NDArray[np.uint64]

    @classmethod
    def joined(cls, parts: Sequence[Listed]) -> Listed:
        """All the parts as one."""
        return cls(
            np.concatenate([part.records for part in parts]),
            np.concatenate([part.authors for part in parts]),
            np.concatenate([part.serials for part in parts]),
        )

    def to_set(self) -> RecordSet:
        """The records as an immutable set."""
        return RecordSet.from_records(self.records.view(np.uint8))


class Database:
    """A connection, made when it is first needed and made again whenever it is lost.

    Every method raises :class:`StorageError`; its text is for a person.

    :param server: ``HOST:PORT``.
    """

    def __init__(self, server: str) -> None:
        self.server = server
        self._channel = grpc.insecure_channel(
            server,
            options=[
                ("grpc.max_receive_message_length", LARGEST_ANSWER),
                ("grpc.max_send_message_length", LARGEST_ANSWER),
                ("grpc.initial_reconnect_backoff_ms", 200),
                ("grpc.min_reconnect_backoff_ms", 200),
                ("grpc.max_reconnect_backoff_ms", 2000),
                ("grpc.enable_http_proxy", 0),
            ],
        )
        self._stub = DatabaseServiceStub(self._channel)

    def close(self) -> None:
        """Let go of the connection; calls under way fail."""
        self._channel.close()

    def ready(self) -> bool:
        """Whether the database can do its work yet."""
        return bool(self._call(self._stub.Ready, _EMPTY, READY_WITHIN).ready)

    def save(self, event: Event) -> str | None:
        """Store an event. None, or why the database refuses it, in its own words.

        :raises negd.storage.orlydb.codec.Unstorable: it cannot be sent as it is.
        """
        request = proto.SaveEventRequest(event=to_proto(event))
        with self._faults():
            try:
                self._stub.SaveEvent(request, timeout=SAVE_WITHIN)
            except grpc.RpcError as error:
                refusal = _refusal(error)
                if refusal is None:
                    raise
                return refusal
        return None

    def listed(self, wanted: proto.Filter) -> Listed:
        """The items that match a filter without ids.

        :raises AnswerTooLarge: there are too many.
        """
        request = proto.QueryEventsRequest(filter=wanted)
        try:
            answer = self._call(self._stub.QueryForIds, request, LIST_WITHIN)
        except TooLate as error:
            raise AnswerTooLarge(error.text) from None
        items = [item for item in answer.items if len(item.id) == 32 and item.timestamp >= 0]
        rows = np.empty((len(items), RECORD_SIZE), np.uint8)
        seconds = np.fromiter((item.timestamp for item in items), ">u8", len(items))
        rows[:, :8] = seconds.view(np.uint8).reshape(-1, 8)
        ids = np.frombuffer(b"".join([item.id for item in items]), np.uint8)
        rows[:, 8:] = ids.reshape(-1, 32)
        return Listed(
            records=rows.view(KEY).reshape(-1),
            authors=np.array([item.pubkey for item in items], "S32"),
            serials=np.fromiter((item.serial for item in items), np.uint64, len(items)),
        )

    def serials(self, ids: Sequence[bytes]) -> dict[bytes, int]:
        """Under which numbers events are kept; unknown ids are left out."""
        found: dict[bytes, int] = {}
        for part in _parts(ids, _IDS_AT_ONCE):
            asked = {event_id.hex(): event_id for event_id in part}
            request = proto.GetSerialsByIdsRequest(ids=[text.encode() for text in asked])
            answer = self._call(self._stub.GetSerialsByIds, request, READ_WITHIN)
            found.update((asked[i], serial) for i, serial in answer.serials.items() if i in asked)
        return found

    def by_ids(self, ids: Sequence[bytes]) -> dict[bytes, Event]:
        """The events of those ids that are kept, served by the database or not."""
        asked = set(ids)
        found = self._by_serials(list(self.serials(ids).values())).values()
        return {event.id_bytes: event for event in found if event.id_bytes in asked}

    def by_serials(self, serials: Sequence[int]) -> dict[int, Event | None]:
        """The events of those numbers; None for one that is there no more.

        The number of a deleted event may still lead to it; its id does not any more.
        """
        found = self._by_serials(serials)
        kept = self.serials([event.id_bytes for event in found.values()])
        return {at: e if kept.get(e.id_bytes) == at else None for at, e in found.items()}

    def _by_serials(self, serials: Sequence[int]) -> dict[int, Event]:
        found: dict[int, Event] = {}
        for part in _parts(serials, _EVENTS_AT_ONCE):
            for serial, message in self._fetch(part):
                try:
                    found[serial] = from_proto(message)
                except Damaged as error:
                    log.warn(
                        "{server} keeps a damaged event {id}: {error}",
                        server=self.server,
                        id=message.id.hex(),
                        error=error,
                    )
        return found

    def _fetch(self, serials: Sequence[int]) -> list[tuple[int, proto.Event]]:
        request = proto.FetchEventsBySerialRequest(serials=serials)
        try:
            answer = self._call(self._stub.FetchEventsBySerials, request, READ_WITHIN)
        except AnswerTooLarge:
            if len(serials) == 1:
                raise
            middle = len(serials) // 2
            return self._fetch(serials[:middle]) + self._fetch(serials[middle:])
        return list(answer.events.items())

    def _call(self, method: Callable[..., Result], request: object, within: float) -> Result:
        with self._faults():
            return method(request, timeout=within)

    @contextmanager
    def _faults(self) -> Iterator[None]:
        try:
            yield
        except grpc.RpcError as error:
            raise self._explained(error) from None
        except ValueError as error:  # what gRPC raises of a channel that is closed
            raise Away(f"database {self.server}: {error}") from None

    def _explained(self, error: grpc.RpcError) -> StorageError:
        assert isinstance(error, grpc.Call)
        status, details = error.code(), error.details() or ""
        if status is grpc.StatusCode.RESOURCE_EXHAUSTED:
            return AnswerTooLarge(f"database {self.server}: {details}")
        if status is grpc.StatusCode.UNAVAILABLE:
            cause = " ".join(details.rpartition(": ")[2].split())
            return Away(f"no database answers at {self.server} ({cause})")
        if status is grpc.StatusCode.UNIMPLEMENTED:
            return StorageError(f"what answers at {self.server} is no ORLY database")
        if status is grpc.StatusCode.DEADLINE_EXCEEDED:
            return TooLate(f"the database at {self.server} did not answer in time")
        if status is grpc.StatusCode.CANCELLED:
            return Away(f"the connection to the database at {self.server} was closed")
        return StorageError(f"database {self.server}: {details or status.name.lower()}")


def _refusal(error: grpc.RpcError) -> str | None:
    """Why the event was refused; None where something else is wrong."""
    assert isinstance(error, grpc.Call)
    details = error.details() or ""
    reason = details.removeprefix(_FAILED)
    if error.code() is grpc.StatusCode.INTERNAL and reason != details:
        return reason if reason.startswith(_REFUSALS) else None
    return None


def _parts(items: Sequence[Item], size: int) -> Iterator[Sequence[Item]]:
    return (items[at : at + size] for at in range(0, len(items), size))
