"""The fifteen calls of ``orlysync.negentropy.v1.NegentropyService``.

gRPC calls each in a pool thread; what it does is done in the reactor thread.  What is wrong with
a client's NEG-* message goes into the answer's ``error``; a gRPC status tells of faults in the
call itself or in negd.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from typing import TypeVar

import grpc

from negd.control import filters
from negd.control.bridge import Bridge
from negd.control.calls import faults, in_reactor
from negd.control.gen.orlysync.common.v1 import types_pb2 as common
from negd.control.gen.orlysync.negentropy.v1 import service_pb2 as proto
from negd.control.gen.orlysync.negentropy.v1.service_pb2_grpc import NegentropyServiceServicer
from negd.control.syncs import Syncs
from negd.errors import NegdError, RemoteError
from negd.interfaces import IPeerSync, ISessions, PeerState, SyncProgress
from negd.nostr.messages import MAX_SUBSCRIPTION
from negd.reconcile import Step

NegResponse = TypeVar("NegResponse", proto.NegOpenResponse, proto.NegMsgResponse)

MAX_CONNECTION = 256
"""The most characters in a connection id; relays make them of an address and a number."""

_UNNAMED = "unnamed"
"""Stands for an empty connection id, which to ``ISessions.close`` means every connection."""


class Servicer(NegentropyServiceServicer):
    """The calls, over the services that do the work.

    :param ready: whether everything behind the service runs; called in the reactor thread.
    :param syncs: runs those with progress.
    :param max_message: bytes of one response.
    """

    def __init__(
        self,
        bridge: Bridge,
        sessions: ISessions,
        peers: IPeerSync,
        ready: Callable[[], bool],
        syncs: Syncs,
        max_message: int,
    ) -> None:
        self.bridge = bridge
        self._sessions = sessions
        self._peers = peers
        self._ready = ready
        self._syncs = syncs
        self._max_message = max_message

    # --- the service itself ---------------------------------------------------------------------

    @in_reactor
    async def Ready(self, request: common.Empty) -> common.ReadyResponse:
        return common.ReadyResponse(ready=self._ready())

    @in_reactor
    async def Start(self, request: common.Empty) -> common.Empty:
        self._peers.resume_background()
        return common.Empty()

    @in_reactor
    async def Stop(self, request: common.Empty) -> common.Empty:
        self._peers.pause_background()
        return common.Empty()

    # --- sessions of a relay's clients ----------------------------------------------------------

    def HandleNegOpen(
        self, request: proto.NegOpenRequest, context: grpc.ServicerContext
    ) -> proto.NegOpenResponse:
        with faults(context):
            try:
                connection, subscription = _session_key(request)
                wanted = filters.from_proto(request.filter)
            except NegdError as error:
                return proto.NegOpenResponse(error=error.answer)
            return self.bridge.call(
                context,
                lambda: self._answer(
                    proto.NegOpenResponse,
                    self._sessions.open(connection, subscription, wanted, request.initial_message),
                ),
            )

    @in_reactor
    async def HandleNegMsg(self, request: proto.NegMsgRequest) -> proto.NegMsgResponse:
        try:
            connection, subscription = _session_key(request)
        except NegdError as error:
            return proto.NegMsgResponse(error=error.answer)
        step = self._sessions.message(connection, subscription, request.message)
        return await self._answer(proto.NegMsgResponse, step)

    async def _answer(self, response: type[NegResponse], step: Awaitable[Step]) -> NegResponse:
        try:
            return _fitting(response, await step, self._max_message)
        except NegdError as error:
            return response(error=error.answer)

    @in_reactor
    async def HandleNegClose(self, request: proto.NegCloseRequest) -> common.Empty:
        self._sessions.close(request.connection_id or _UNNAMED, request.subscription_id)
        return common.Empty()

    @in_reactor
    async def ListSessions(self, request: common.Empty) -> proto.ListSessionsResponse:
        return proto.ListSessionsResponse(
            sessions=[
                proto.ClientSession(
                    subscription_id=live.subscription,
                    connection_id="" if live.connection == _UNNAMED else live.connection,
                    created_at=live.created_at,
                    last_activity=live.last_activity,
                    round_count=live.rounds,
                )
                for live in self._sessions.sessions()
            ]
        )

    @in_reactor
    async def CloseSession(self, request: proto.CloseSessionRequest) -> common.Empty:
        self._sessions.close(request.connection_id, request.subscription_id)
        return common.Empty()

    # --- peers ----------------------------------------------------------------------------------

    @in_reactor
    async def GetPeers(self, request: common.Empty) -> proto.PeersResponse:
        return proto.PeersResponse(peers=self._peers.peers())

    @in_reactor
    async def AddPeer(self, request: proto.AddPeerRequest) -> common.Empty:
        await self._peers.add(request.peer_url)
        return common.Empty()

    @in_reactor
    async def RemovePeer(self, request: proto.RemovePeerRequest) -> common.Empty:
        await self._peers.remove(request.peer_url)
        return common.Empty()

    @in_reactor
    async def GetSyncStatus(self, request: common.Empty) -> proto.SyncStatusResponse:
        states = self._peers.states() | self._peers.visits()
        return proto.SyncStatusResponse(
            active=self._peers.active(),
            last_sync=max((state.last_sync for state in states.values()), default=0),
            peer_count=len(self._peers.peers()),
            peer_states=[_peer_state(url, state) for url, state in sorted(states.items())],
        )

    @in_reactor
    async def GetPeerSyncState(
        self, request: proto.PeerSyncStateRequest
    ) -> proto.PeerSyncStateResponse:
        state = self._peers.state(request.peer_url)
        if state is None:
            return proto.PeerSyncStateResponse(found=False)
        return proto.PeerSyncStateResponse(state=_peer_state(request.peer_url, state), found=True)

    # --- syncs ----------------------------------------------------------------------------------

    def TriggerSync(
        self, request: proto.TriggerSyncRequest, context: grpc.ServicerContext
    ) -> common.Empty:
        async def trigger() -> common.Empty:
            await self._peers.trigger(request.peer_url or None, wanted)
            return common.Empty()

        with faults(context):
            wanted = filters.from_proto(request.filter)
            return self.bridge.call(context, trigger)

    def SyncWithPeer(
        self, request: proto.SyncPeerRequest, context: grpc.ServicerContext
    ) -> Iterator[proto.SyncProgress]:
        with faults(context):
            wanted = filters.from_proto(request.filter)
            wanted = filters.since_at_least(wanted, request.since)
            yield from self._syncs.stream(context, request.peer_url, wanted, _progress)


def _session_key(request: proto.NegOpenRequest | proto.NegMsgRequest) -> tuple[str, str]:
    """The connection and subscription of a session.

    :raises RemoteError: one of them is too long to be kept, or the subscription is empty.
    """
    if not 0 < len(request.subscription_id) <= MAX_SUBSCRIPTION:
        raise RemoteError(f"subscription id must have 1 to {MAX_SUBSCRIPTION} characters")
    if len(request.connection_id) > MAX_CONNECTION:
        raise RemoteError(f"connection id must have at most {MAX_CONNECTION} characters")
    return request.connection_id or _UNNAMED, request.subscription_id


_ID_FIELD = 34
"""Bytes of one id in a response: a tag, a length, the id."""

_OTHER_FIELDS = 64
"""Bytes to spare for what else is in a response."""


def _fitting(response: type[NegResponse], step: Step, max_message: int) -> NegResponse:
    """The response to a step; its lists are cut where it would be too large to send.

    The lists only spare the relay work: the client learns every id from the messages.
    """
    message = step.reply or b""
    room = max(0, (max_message - len(message) - _OTHER_FIELDS) // _ID_FIELD)
    have = step.have[:room]
    need = step.need[: room - len(have)]
    return response(message=message, have_ids=have, need_ids=need, complete=step.complete)


def _progress(progress: SyncProgress, error: str) -> proto.SyncProgress:
    return proto.SyncProgress(
        peer_url=progress.peer,
        round=progress.round,
        have_count=progress.have,
        need_count=progress.need,
        fetched_count=progress.fetched,
        sent_count=progress.sent,
        complete=progress.complete,
        error=error,
    )


def _peer_state(url: str, state: PeerState) -> proto.PeerSyncState:
    return proto.PeerSyncState(
        peer_url=url,
        last_sync=state.last_sync,
        events_synced=state.events_synced,
        status=state.status.value,
        last_error=state.last_error,
        consecutive_failures=state.consecutive_failures,
    )
