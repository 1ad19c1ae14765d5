"""The calls of ``negd.control.v1.ControlService``: what operators ask beyond orlysync's service."""

from __future__ import annotations

from collections.abc import Iterator

import grpc

from negd.control import filters
from negd.control.bridge import Bridge
from negd.control.calls import faults, in_reactor
from negd.control.gen.negd.control.v1 import service_pb2 as proto
from negd.control.gen.negd.control.v1.service_pb2_grpc import ControlServiceServicer
from negd.control.syncs import Syncs
from negd.control.values import peer_to_proto, progress_to_proto
from negd.interfaces import IPeerSync
from negd.nostr.filter import EVERYTHING, decode

MOST_ENTRIES = 1000
"""Ledger entries told of each reason, however many are asked for."""


class OperatorServicer(ControlServiceServicer):
    """The calls, over the peers that do the work."""

    def __init__(self, bridge: Bridge, peers: IPeerSync, syncs: Syncs) -> None:
        self.bridge = bridge
        self._peers = peers
        self._syncs = syncs

    @in_reactor
    async def ShowPeer(self, request: proto.ShowPeerRequest) -> proto.Peer:
        most = min(request.entries, MOST_ENTRIES)
        return peer_to_proto(await self._peers.describe(request.url, most))

    def Sync(
        self, request: proto.SyncRequest, context: grpc.ServicerContext
    ) -> Iterator[proto.SyncProgress]:
        with faults(context):
            wanted = decode(request.filter) if request.filter else EVERYTHING
            wanted = filters.since_at_least(wanted, request.since)
            yield from self._syncs.stream(context, request.url, wanted, progress_to_proto)

    @in_reactor
    async def ForgetLedger(self, request: proto.ForgetLedgerRequest) -> proto.ForgetLedgerResponse:
        forgotten = await self._peers.forget_ledger(request.url)
        return proto.ForgetLedgerResponse(forgotten=forgotten)
