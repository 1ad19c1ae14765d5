"""NIP-77's core: negentropy protocol version 1 over immutable record sets, bytes in, bytes out."""

from __future__ import annotations

from negd.reconcile.arrays import RECORD_SIZE
from negd.reconcile.ids import Ids
from negd.reconcile.reconciler import SMALLEST_FRAME_LIMIT, Initiator, Responder, Step
from negd.reconcile.records import RecordSet, pack
from negd.reconcile.wire import UnsupportedVersion

__all__ = [
    "RECORD_SIZE",
    "SMALLEST_FRAME_LIMIT",
    "Ids",
    "Initiator",
    "RecordSet",
    "Responder",
    "Step",
    "UnsupportedVersion",
    "pack",
]
