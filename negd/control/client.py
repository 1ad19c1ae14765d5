"""A client of the control service: blocking calls, values of :mod:`negd.interfaces`.

Nothing here needs a reactor: ``negctl`` uses it, and scripts can.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import Any, TypeVar

import grpc
from grpc.experimental import ChannelOptions
from msgspec import MsgspecError

from negd.control import filters
from negd.control.address import Address
from negd.control.gen.negd.control.v1 import service_pb2 as own
from negd.control.gen.negd.control.v1.service_pb2_grpc import ControlServiceStub
from negd.control.gen.orlysync.common.v1 import types_pb2 as common
from negd.control.gen.orlysync.negentropy.v1 import service_pb2 as proto
from negd.control.gen.orlysync.negentropy.v1.service_pb2_grpc import NegentropyServiceStub
from negd.control.values import peer_from_proto, progress_from_proto
from negd.errors import NegdError, PeerError
from negd.interfaces import PeerDescription, PeerState, PeerStatus, SessionInfo, SyncProgress
from negd.nostr.filter import EVERYTHING, Filter
from negd.settings import ControlSettings

Result = TypeVar("Result")

_EMPTY = common.Empty()
_UNIMPLEMENTED = grpc.StatusCode.UNIMPLEMENTED


class ControlError(NegdError):
    """No negd answered, or it answered that it cannot."""


class Unsupported(ControlError):
    """What answered does not know the call."""


@dataclass(frozen=True, slots=True)
class Status:
    """:ivar active: syncs start by themselves. :ivar last_sync: second of the last; 0: never.

    :ivar listed: how many peers are listed.
    :ivar peers: the listed ones, and others while a sync with them runs.
    """

    active: bool
    last_sync: int
    listed: int
    peers: dict[str, PeerState]


class ControlClient:
    """A connection to one negd, made when it is first needed. A context manager.

    Every method raises :class:`ControlError` where negd does not answer within ``timeout``
    seconds, or refuses; its text is for a person.

    :param address: ``HOST:PORT`` or ``unix:PATH``.
    :raises negd.errors.ConfigError: the address is malformed.
    """

    def __init__(self, address: str, timeout: float = 60.0) -> None:
        self.address = Address.parse(address)
        self._timeout = timeout
        largest = ControlSettings().max_message
        self._channel = grpc.insecure_channel(
            str(self.address),
            options=[
                ("grpc.max_receive_message_length", largest),
                ("grpc.max_send_message_length", largest),
                ("grpc.enable_http_proxy", 0),
                # A stream read with the help of gRPC's own thread can deadlock a process that
                # ends: the interpreter stops that thread wherever it is, lock in hand.
                (ChannelOptions.SingleThreadedUnaryStream, 1),
            ],
        )
        self._stub = NegentropyServiceStub(self._channel)
        self._own = ControlServiceStub(self._channel)

    def __enter__(self) -> ControlClient:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the connection; what runs on it is cancelled."""
        self._channel.close()

    # --- the service ----------------------------------------------------------------------------

    def ready(self) -> bool:
        """Whether everything behind the service runs."""
        return bool(self._call(self._stub.Ready, _EMPTY).ready)

    def start(self) -> None:
        """Let syncs start by themselves."""
        self._call(self._stub.Start, _EMPTY)

    def stop(self) -> None:
        """Let no further sync start by itself."""
        self._call(self._stub.Stop, _EMPTY)

    # --- peers ----------------------------------------------------------------------------------

    def status(self) -> Status:
        """How the syncs with all peers stand."""
        found: proto.SyncStatusResponse = self._call(self._stub.GetSyncStatus, _EMPTY)
        peers = {state.peer_url: _peer_state(state) for state in found.peer_states}
        return Status(found.active, found.last_sync, found.peer_count, peers)

    def peers(self) -> list[str]:
        """The URLs of the listed peers."""
        return list(self._call(self._stub.GetPeers, _EMPTY).peers)

    def add_peer(self, url: str) -> None:
        """List a peer; one that is listed is no error."""
        self._call(self._stub.AddPeer, proto.AddPeerRequest(peer_url=url))

    def remove_peer(self, url: str) -> None:
        """Stop what runs with a peer and forget it; an unknown one is no error."""
        self._call(self._stub.RemovePeer, proto.RemovePeerRequest(peer_url=url))

    def peer_state(self, url: str) -> PeerState | None:
        """The state of one peer; None for an unknown one."""
        request = proto.PeerSyncStateRequest(peer_url=url)
        found: proto.PeerSyncStateResponse = self._call(self._stub.GetPeerSyncState, request)
        return _peer_state(found.state) if found.found else None

    def show_peer(self, url: str, entries: int = 0) -> PeerDescription:
        """All about a peer that is listed or being synced, by a URL in any spelling.

        :param entries: of how many differences to tell more, for each reason.
        """
        found = self._call(self._own.ShowPeer, own.ShowPeerRequest(url=url, entries=entries))
        try:
            return peer_from_proto(found)
        except (ValueError, MsgspecError, NegdError) as error:
            raise ControlError(
                f"negd at {self.address} tells what is not known ({error})"
            ) from None

    def forget_ledger(self, url: str) -> int:
        """Let the next sync try again what a listed peer's ledger explains; how many events."""
        request = own.ForgetLedgerRequest(url=url)
        return int(self._call(self._own.ForgetLedger, request).forgotten)

    # --- syncs ----------------------------------------------------------------------------------

    def trigger(self, url: str | None = None, wanted: Filter = EVERYTHING) -> None:
        """Start a sync with a listed peer, or with all; returns when it is under way.

        :raises negd.errors.RemoteError: the filter cannot be sent.
        """
        request = proto.TriggerSyncRequest(peer_url=url or "", filter=filters.to_proto(wanted))
        self._call(self._stub.TriggerSync, request)

    def sync(
        self, url: str, wanted: Filter = EVERYTHING, since: int | None = None
    ) -> Generator[SyncProgress, None, None]:
        """Sync with a peer; its progress as it comes, the last one complete.

        Closing the generator cancels the sync.  A service that is not negd's own tells less:
        what was already there, refused or left alone stays 0.

        :param since: raises the filter's ``since``.
        :raises negd.errors.PeerError: the sync failed.
        :raises negd.errors.RemoteError: that service cannot be sent the filter.
        """
        request = own.SyncRequest(url=url, filter=wanted.encode().decode(), since=since or 0)
        try:
            yield from self._stream(self._own.Sync, request, progress_from_proto)
        except Unsupported:
            plain = proto.SyncPeerRequest(
                peer_url=url, filter=filters.to_proto(wanted), since=since or 0
            )
            yield from self._stream(self._stub.SyncWithPeer, plain, _progress)

    def _stream(
        self, method: Callable[..., Any], request: object, read: Callable[[Any], SyncProgress]
    ) -> Generator[SyncProgress, None, None]:
        with self._faults():
            call = method(request)
            try:
                for told in call:
                    if told.error:
                        raise PeerError(told.error)
                    yield read(told)
            finally:
                call.cancel()

    # --- sessions -------------------------------------------------------------------------------

    def sessions(self) -> list[SessionInfo]:
        """The sessions that clients hold open, oldest first."""
        found: proto.ListSessionsResponse = self._call(self._stub.ListSessions, _EMPTY)
        return [
            SessionInfo(
                live.connection_id,
                live.subscription_id,
                live.created_at,
                live.last_activity,
                live.round_count,
            )
            for live in found.sessions
        ]

    def close_session(self, subscription: str, connection: str = "") -> None:
        """End a session, or every one of that subscription id; an unknown one is no error."""
        request = proto.CloseSessionRequest(subscription_id=subscription, connection_id=connection)
        self._call(self._stub.CloseSession, request)

    # --- errors ---------------------------------------------------------------------------------

    def _call(self, method: Callable[..., Result], request: object) -> Result:
        with self._faults():
            return method(request, timeout=self._timeout)

    @contextmanager
    def _faults(self) -> Iterator[None]:
        try:
            yield
        except grpc.RpcError as error:
            assert isinstance(error, grpc.Call)
            kind = Unsupported if error.code() is _UNIMPLEMENTED else ControlError
            raise kind(self._explain(error)) from None

    def _explain(self, error: grpc.Call) -> str:
        status, details = error.code(), error.details() or ""
        if status is grpc.StatusCode.UNAVAILABLE and "stopping" not in details:
            cause = " ".join(details.rpartition(": ")[2].split())
            return f"no negd answers at {self.address} ({cause})"
        if status is grpc.StatusCode.DEADLINE_EXCEEDED:
            return f"negd at {self.address} did not answer in time"
        if status is _UNIMPLEMENTED:
            return f"what answers at {self.address} is no negd, or an old one"
        return details or f"negd at {self.address} failed ({status.name.lower()})"


def _peer_state(state: proto.PeerSyncState) -> PeerState:
    try:
        status = PeerStatus(state.status)
    except ValueError:
        raise ControlError(f"what answered knows a peer status {state.status!r}") from None
    return PeerState(
        last_sync=state.last_sync,
        events_synced=state.events_synced,
        status=status,
        last_error=state.last_error,
        consecutive_failures=state.consecutive_failures,
    )


def _progress(told: proto.SyncProgress) -> SyncProgress:
    return SyncProgress(
        told.peer_url,
        round=told.round,
        have=told.have_count,
        need=told.need_count,
        fetched=told.fetched_count,
        sent=told.sent_count,
        complete=told.complete,
    )
