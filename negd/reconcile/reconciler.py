"""The two roles of range-based set reconciliation: bytes in, bytes out, no I/O.

Byte for byte as the reference implementation (hoytech/negentropy, C++) answers: how ranges are
split, how skips are joined, and what happens at a frame size limit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from negd.errors import ProtocolViolation
from negd.reconcile.batch import BatchWalk
from negd.reconcile.output import Output
from negd.reconcile.records import RecordSet
from negd.reconcile.walk import Walk
from negd.reconcile.wire import END, PROTOCOL_VERSION, UnsupportedVersion

SMALLEST_FRAME_LIMIT = 4096
"""Bytes of a message: with less, reconciliation cannot get on (NIP-77)."""

_VERSION_BYTES = range(0x60, 0x70)


@dataclass(frozen=True, slots=True)
class Step:
    """What one message led to.

    :ivar reply: the message to send next; None when an initiator has finished.
    :ivar have: 32-byte ids we hold and the other side lacks, learned from this message.
    :ivar need: 32-byte ids the other side holds and we lack, learned from this message.
    :ivar complete: initiator: it has finished. Responder: the reply holds no fingerprint, so the
        initiator knows everything once it has read it.

    With a frame limit on either side an id may come up again in a later step: collect in sets.
    """

    reply: bytes | None
    have: Sequence[bytes]
    need: Sequence[bytes]
    complete: bool


class Initiator:
    """The side that asks. Feed it each answer until ``reply`` is None.

    :param frame_limit: no message is to exceed this many bytes; 0 for no limit, else >= 4096.
    """

    def __init__(self, records: RecordSet, frame_limit: int = 0) -> None:
        self._records = records
        self._frame_limit = _checked_frame_limit(frame_limit)
        self._listed_ids = False

    def initiate(self) -> bytes:
        """The first message."""
        out = Output(self._records)
        out.split(0, len(self._records), END)
        self._listed_ids = out.has_id_list
        return out.message()

    def reconcile(self, message: bytes) -> Step:
        """Read an answer.

        :raises UnsupportedVersion: the other side does not speak version 1, or took our message
            for one of another version.
        :raises ProtocolViolation: the answer is no message of version 1.
        """
        version = _version(message)
        if version != PROTOCOL_VERSION:
            raise UnsupportedVersion(f"the peer speaks version {version - 0x60}, not 1", version)
        if len(message) == 1 and self._listed_ids:
            # Every list is answered by a list, so this is no end but a refusal to read.
            raise UnsupportedVersion("the peer did not answer the ids we listed", version)
        walk = _walked(self._records, message, self._frame_limit, answers_lists=False)
        self._listed_ids = walk.out.has_id_list
        reply = walk.out.message()
        finished = len(reply) == 1
        return Step(None if finished else reply, walk.have, walk.need, finished)


class Responder:
    """The side that answers; it keeps nothing between messages.

    :param frame_limit: no message is to exceed this many bytes; 0 for no limit, else >= 4096.
    """

    def __init__(self, records: RecordSet, frame_limit: int = 0) -> None:
        self._records = records
        self._frame_limit = _checked_frame_limit(frame_limit)

    def reconcile(self, message: bytes) -> Step:
        """Answer a message; one of an unknown version with our version byte alone.

        :raises ProtocolViolation: it is no negentropy message.
        """
        if _version(message) != PROTOCOL_VERSION:
            return Step(bytes((PROTOCOL_VERSION,)), [], [], complete=False)
        walk = _walked(self._records, message, self._frame_limit, answers_lists=True)
        return Step(walk.out.message(), walk.have, walk.need, not walk.out.has_fingerprint)


def _walked(records: RecordSet, message: bytes, frame_limit: int, *, answers_lists: bool) -> Walk:
    walk = BatchWalk(records, frame_limit, answers_lists=answers_lists)
    walk.run(message)
    return walk


def _checked_frame_limit(frame_limit: int) -> int:
    if frame_limit and frame_limit < SMALLEST_FRAME_LIMIT:
        raise ValueError(f"frame limit {frame_limit} is below {SMALLEST_FRAME_LIMIT}")
    return frame_limit


def _version(message: bytes) -> int:
    if not message:
        raise ProtocolViolation("empty message")
    if message[0] not in _VERSION_BYTES:
        raise ProtocolViolation("the first byte is not a protocol version")
    return message[0]
