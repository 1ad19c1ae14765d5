"""A negentropy message being written."""

from __future__ import annotations

from negd.reconcile.records import RecordSet
from negd.reconcile.wire import (
    FINGERPRINT,
    ID_LIST,
    INFINITY,
    PROTOCOL_VERSION,
    SKIP,
    Bound,
    encode_varint,
)

BUCKETS = 16
FEW = 2 * BUCKETS
"""A range of fewer records is described by its ids."""

_FRAME_MARGIN = 200


class Output:
    """The ranges written so far, and whether the frame still takes more.

    :param frame_limit: in bytes; 0 for none.
    :ivar size: bytes written.
    :ivar last_timestamp: that of the last bound: bounds are written as differences.
    """

    def __init__(self, records: RecordSet, frame_limit: int = 0) -> None:
        self._records = records
        self.room = frame_limit - _FRAME_MARGIN if frame_limit else None
        self.size = 1
        self.last_timestamp = 0
        self.has_fingerprint = False
        self.has_id_list = False
        self._parts = [bytes((PROTOCOL_VERSION,))]

    def message(self) -> bytes:
        return b"".join(self._parts)

    def exceeded(self, more: int = 0) -> bool:
        """Whether the frame is full once ``more`` bytes are in it."""
        return self.room is not None and self.size + more > self.room

    def append(self, *parts: bytes) -> None:
        """Take over encoded bytes; the caller keeps ``last_timestamp`` and the flags."""
        self._parts += parts
        self.size += sum(map(len, parts))

    def fork(self) -> Output:
        """An empty continuation of this message, to be taken over whole or not at all."""
        fork = Output(self._records)
        fork.size, fork._parts, fork.last_timestamp = 0, [], self.last_timestamp
        return fork

    def take(self, fork: Output) -> bool:
        """Append ``fork``; False, and nothing happens, if the frame would be full then."""
        if self.exceeded(fork.size):
            return False
        self.append(*fork._parts)
        self.last_timestamp = fork.last_timestamp
        self.has_fingerprint |= fork.has_fingerprint
        self.has_id_list |= fork.has_id_list
        return True

    def skip(self, upper: Bound) -> None:
        self.append(self._bound(upper), bytes((SKIP,)))

    def fingerprint(self, lo: int, hi: int, upper: Bound) -> None:
        self.has_fingerprint = True
        self.append(self._bound(upper), bytes((FINGERPRINT,)), self._records.fingerprint(lo, hi))

    def id_list(self, lo: int, hi: int, upper: Bound) -> None:
        self.has_id_list = True
        head = bytes((ID_LIST,)) + encode_varint(hi - lo)
        self.append(self._bound(upper), head, self._records.ids(lo, hi))

    def split(self, lo: int, hi: int, upper: Bound) -> None:
        """Describe a range by its ids if they are few, else by 16 fingerprints."""
        if hi - lo < FEW:
            self.id_list(lo, hi, upper)
            return
        size, larger = divmod(hi - lo, BUCKETS)
        for bucket in range(BUCKETS):
            end = lo + size + (bucket < larger)
            bound = upper if end == hi else bound_before(self._records, end)
            self.fingerprint(lo, end, bound)
            lo = end

    def _bound(self, bound: Bound) -> bytes:
        timestamp, id_prefix = bound
        offset = 0 if timestamp == INFINITY else timestamp - self.last_timestamp + 1
        self.last_timestamp = timestamp
        return encode_varint(offset) + bytes((len(id_prefix),)) + id_prefix


def bound_before(records: RecordSet, index: int) -> Bound:
    """The shortest bound that parts the record at ``index`` from the one before it."""
    before, after = records.record(index - 1), records.record(index)
    timestamp = int.from_bytes(after[:8], "big")
    if before[:8] != after[:8]:
        return Bound(timestamp)
    differs = next(at for at in range(8, len(after)) if before[at] != after[at])
    return Bound(timestamp, after[8 : differs + 1])
