"""Record sets: what one side holds, in protocol order, with fingerprints of any range in O(1)."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import ClassVar, TypeAlias

import numpy as np
import numpy.typing as npt

from negd.reconcile.wire import FINGERPRINT_SIZE, ID_SIZE, INFINITY, encode_varint

RECORD_SIZE = 40
"""``created_at`` as big-endian u64, then the 32-byte id: byte order is protocol order."""

Bytes2D: TypeAlias = npt.NDArray[np.uint8]
Records: TypeAlias = bytes | bytearray | memoryview | Bytes2D
"""Records one after another, or an array of shape (n, 40) or (n * 40,)."""

_KEY = np.dtype("S40")
_LANES = 8


def pack(created_at: int, event_id: bytes) -> bytes:
    """One 40-byte record.

    :raises ValueError: ``created_at`` is not in 0..2**64-2, or the id not 32 bytes.
    """
    if not 0 <= created_at < INFINITY:
        raise ValueError(f"created_at {created_at} is not in 0..2**64-2")
    if len(event_id) != ID_SIZE:
        raise ValueError(f"an id has 32 bytes, not {len(event_id)}")
    return created_at.to_bytes(8, "big") + event_id


class RecordSet:
    """Sorted, distinct records. Immutable: a snapshot is a reference.

    Indices count records from the oldest; ranges are half open.
    """

    EMPTY: ClassVar[RecordSet]

    __slots__ = ("_keys", "_records", "_sums")
    __hash__ = None  # type: ignore[assignment]

    def __init__(self, records: Bytes2D) -> None:
        """Take over sorted, distinct ``records`` of shape (n, 40); use :meth:`from_records`."""
        self._records = records
        self._keys = records.reshape(-1).view(_KEY)
        self._sums = np.zeros((len(records) + 1, _LANES), np.uint64)
        lanes = np.ascontiguousarray(records[:, 8:]).view("<u4")
        np.cumsum(lanes, axis=0, dtype=np.uint64, out=self._sums[1:])

    @classmethod
    def from_records(cls, data: Records, *, is_sorted: bool = False) -> RecordSet:
        """A set of the records in ``data``, in any order and with duplicates unless ``is_sorted``.

        :raises ValueError: the size is no multiple of 40, or a timestamp is 2**64-1.
        """
        records = _as_array(data)
        if not is_sorted:
            keys = np.unique(np.ascontiguousarray(records).reshape(-1).view(_KEY))
            records = keys.view(np.uint8).reshape(-1, RECORD_SIZE)
        if len(records) and bytes(records[-1, :8]) == b"\xff" * 8:
            raise ValueError("created_at 2**64-1 is reserved")
        return cls(records)

    def __len__(self) -> int:
        return len(self._records)

    def __contains__(self, record: object) -> bool:
        if not isinstance(record, bytes) or len(record) != RECORD_SIZE:
            return False
        at = int(np.searchsorted(self._keys, np.bytes_(record)))
        return at < len(self) and self.record(at) == record

    def __iter__(self) -> Iterator[bytes]:
        data = self._records.tobytes()
        return (data[at : at + RECORD_SIZE] for at in range(0, len(data), RECORD_SIZE))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, RecordSet):
            return NotImplemented
        return np.array_equal(self._records, other._records)

    def __repr__(self) -> str:
        return f"<RecordSet of {len(self)}>"

    def insert(self, records: Records) -> RecordSet:
        """This set and ``records``."""
        return self.from_records(np.concatenate((self._records, _as_array(records))))

    def delete(self, records: Records) -> RecordSet:
        """This set without ``records``; those it does not hold are no matter."""
        gone = RecordSet.from_records(records)
        return RecordSet(self._records[~np.isin(self._keys, gone._keys)])

    def window(self, since: int | None, until: int | None) -> RecordSet:
        """The records with ``since <= created_at <= until``; None is no bound."""
        lo = 0 if since is None else self.find(since, b"")
        hi = len(self) if until is None else self.find(until + 1, b"")
        return RecordSet(self._records[lo : max(lo, hi)])

    def newest(self, n: int) -> RecordSet:
        """The ``n`` newest as NIP-01 orders: latest first, in one second the lowest id first."""
        if n >= len(self):
            return self
        if n <= 0:
            return RecordSet.EMPTY
        cut = len(self) - n
        second = int.from_bytes(self.record(cut)[:8], "big")
        begin, end = self.find(second, b""), self.find(second + 1, b"")
        kept = self._records[begin : begin + end - cut], self._records[end:]
        return RecordSet(np.concatenate(kept))

    def find(self, timestamp: int, id_prefix: bytes, lo: int = 0, hi: int | None = None) -> int:
        """Index of the first record in lo..hi not below the bound; ``hi`` if there is none."""
        hi = len(self) if hi is None else hi
        if timestamp > INFINITY:
            return hi
        if timestamp < 0:
            return lo
        key = np.bytes_(timestamp.to_bytes(8, "big") + id_prefix)
        return lo + int(np.searchsorted(self._keys[lo:hi], key))

    def fingerprint(self, lo: int, hi: int) -> bytes:
        """16 bytes: SHA-256 over the sum of the ids mod 2**256 (little-endian) and the count."""
        lanes = self._sums[hi] - self._sums[lo]
        even = int.from_bytes(lanes[0::2].tobytes(), "little")
        odd = int.from_bytes(lanes[1::2].tobytes(), "little")
        total = (even + (odd << 32)) % (1 << 256)
        digest = hashlib.sha256(total.to_bytes(32, "little") + encode_varint(hi - lo)).digest()
        return digest[:FINGERPRINT_SIZE]

    def ids(self, lo: int, hi: int) -> bytes:
        """The ids of lo..hi, 32 bytes each, one after another."""
        return self._records[lo:hi, 8:].tobytes()

    def record(self, index: int) -> bytes:
        """One 40-byte record."""
        return bytes(self._records[index])

    def to_array(self) -> Bytes2D:
        """All records, shape (n, 40). May share memory: not to be written to."""
        return self._records

    @property
    def nbytes(self) -> int:
        """Memory held, in bytes; what is shared with other sets counts in full."""
        return self._records.nbytes + self._sums.nbytes


def _as_array(data: Records) -> Bytes2D:
    flat = data if isinstance(data, np.ndarray) else np.frombuffer(data, np.uint8)
    if flat.dtype != np.uint8 or flat.size % RECORD_SIZE:
        raise ValueError("records are 40 bytes each")
    return np.ascontiguousarray(flat).reshape(-1, RECORD_SIZE)


RecordSet.EMPTY = RecordSet(np.empty((0, RECORD_SIZE), np.uint8))
