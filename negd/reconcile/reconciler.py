"""The two roles of range-based set reconciliation: bytes in, bytes out, no I/O.

Byte for byte as the reference implementation (hoytech/negentropy, C++) answers: how ranges are
split, how skips are joined, and what happens at a frame size limit.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from negd.errors import ProtocolViolation
from negd.reconcile.records import RecordSet
from negd.reconcile.wire import (
    END,
    FINGERPRINT,
    ID_LIST,
    ID_SIZE,
    PROTOCOL_VERSION,
    SKIP,
    Bound,
    BoundEncoder,
    Range,
    UnsupportedVersion,
    decode_ranges,
    encode_varint,
    split_ids,
)

BUCKETS = 16
SMALLEST_FRAME_LIMIT = 4096
_FRAME_MARGIN = 200
_VERSION = bytes((PROTOCOL_VERSION,))
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
    have: list[bytes]
    need: list[bytes]
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
        out = _Output(self._records, 0)
        out.split(0, len(self._records), END)
        self._listed_ids = out.listed_ids
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
        walk = _Walk(self._records, self._frame_limit, answers_lists=False)
        walk.run(decode_ranges(message))
        self._listed_ids = walk.out.listed_ids
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
            return Step(_VERSION, [], [], complete=False)
        walk = _Walk(self._records, self._frame_limit, answers_lists=True)
        walk.run(decode_ranges(message))
        return Step(walk.out.message(), walk.have, walk.need, not walk.out.has_fingerprint)


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


@dataclass(slots=True)
class _Output:
    """A message being written."""

    records: RecordSet
    frame_limit: int
    listed_ids: bool = False
    has_fingerprint: bool = False
    size: int = 1
    _parts: list[bytes] = field(default_factory=lambda: [_VERSION])
    _bounds: BoundEncoder = field(default_factory=BoundEncoder)

    def message(self) -> bytes:
        return b"".join(self._parts)

    def exceeds(self, more: int = 0) -> bool:
        """Whether the frame is full once ``more`` bytes are in it."""
        return bool(self.frame_limit) and self.size + more > self.frame_limit - _FRAME_MARGIN

    def skip(self, upper: Bound) -> None:
        self._append(self._bounds.encode(upper) + bytes((SKIP,)))

    def fingerprint(self, lo: int, hi: int, upper: Bound) -> None:
        self.has_fingerprint = True
        head = self._bounds.encode(upper) + bytes((FINGERPRINT,))
        self._append(head + self.records.fingerprint(lo, hi))

    def id_list(self, lo: int, hi: int, upper: Bound) -> None:
        self.listed_ids = True
        head = self._bounds.encode(upper) + bytes((ID_LIST,)) + encode_varint(hi - lo)
        self._append(head + self.records.ids(lo, hi))

    def split(self, lo: int, hi: int, upper: Bound) -> None:
        """Describe a range by its ids if they are few, else by 16 fingerprints."""
        if hi - lo < 2 * BUCKETS:
            self.id_list(lo, hi, upper)
            return
        size, larger = divmod(hi - lo, BUCKETS)
        for bucket in range(BUCKETS):
            end = lo + size + (bucket < larger)
            self.fingerprint(lo, end, upper if end == hi else _bound_before(self.records, end))
            lo = end

    def mark(self) -> tuple[int, int, bool, bool]:
        return len(self._parts), self.size, self.listed_ids, self.has_fingerprint

    def rewind(self, mark: tuple[int, int, bool, bool]) -> None:
        """Take back what was written since ``mark``, for END to follow: it needs no difference."""
        parts, self.size, self.listed_ids, self.has_fingerprint = mark
        del self._parts[parts:]

    def _append(self, part: bytes) -> None:
        self._parts.append(part)
        self.size += len(part)


def _bound_before(records: RecordSet, index: int) -> Bound:
    """The shortest bound that parts the record at ``index`` from the one before it."""
    before, after = records.record(index - 1), records.record(index)
    timestamp = int.from_bytes(after[:8], "big")
    if before[:8] != after[:8]:
        return Bound(timestamp)
    at = next(at for at in range(8, 40) if before[at] != after[at])
    return Bound(timestamp, after[8 : at + 1])


class _Walk:
    """Goes through the ranges of one message and writes the answer to it."""

    def __init__(self, records: RecordSet, frame_limit: int, *, answers_lists: bool) -> None:
        self.records = records
        self.out = _Output(records, frame_limit)
        self.have: list[bytes] = []
        self.need: list[bytes] = []
        self._answers_lists = answers_lists
        self._settled: Bound | None = None

    def run(self, ranges: list[Range]) -> None:
        lower = 0
        for upper_bound, mode, payload in ranges:
            upper = self.records.find(*upper_bound, lower)
            mark = self.out.mark()
            if mode == FINGERPRINT and payload != self.records.fingerprint(lower, upper):
                self._write_skip()
                self.out.split(lower, upper, upper_bound)
            elif mode == ID_LIST:
                self._learn(lower, upper, payload)
                if self._answers_lists:
                    upper = self._answer_list(lower, upper, upper_bound)
                    mark = self.out.mark()
                else:
                    self._settled = upper_bound
            else:
                self._settled = upper_bound
            if self.out.exceeds():
                self.out.rewind(mark)
                self.out.fingerprint(upper, len(self.records), END)
                return
            lower = upper

    def _write_skip(self) -> None:
        if self._settled is not None:
            self.out.skip(self._settled)
            self._settled = None

    def _learn(self, lo: int, hi: int, payload: bytes) -> None:
        theirs, ours = split_ids(payload), split_ids(self.records.ids(lo, hi))
        self.have.extend(ours - theirs)
        self.need.extend(theirs - ours)

    def _answer_list(self, lo: int, hi: int, upper: Bound) -> int:
        """List our ids of the range, as many as the frame takes; the index where the list ends."""
        end = lo
        while end < hi and not self.out.exceeds((end - lo) * ID_SIZE):
            end += 1
        self._write_skip()
        if end < hi:
            first_left_out = self.records.record(end)
            upper = Bound(int.from_bytes(first_left_out[:8], "big"), first_left_out[8:])
        self.out.id_list(lo, end, upper)
        return end
