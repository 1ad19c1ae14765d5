"""The ranges of a message read as columns, a block of them at a time."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from negd.errors import ProtocolViolation
from negd.reconcile.chunk import RECORD_SIZE, Indices, Rows, as_keys
from negd.reconcile.wire import (
    FINGERPRINT,
    FINGERPRINT_SIZE,
    ID_SIZE,
    Bound,
    decode_varint,
    next_timestamp,
    payload_size,
)


@dataclass(frozen=True, slots=True)
class Block:
    """Some consecutive ranges.

    :ivar bounds: shape (m + 1, 40), id prefixes padded with zeros: range i lies between bounds
        i and i + 1.
    :ivar prefix_sizes: of the id prefixes of the bounds, in bytes; shape (m + 1,).
    :ivar modes: shape (m,).
    :ivar payloads: where in the message each payload begins and ends; shape (m, 2).
    """

    bounds: Rows
    prefix_sizes: Indices
    modes: Indices
    payloads: Indices

    def __len__(self) -> int:
        return len(self.modes)

    def bound(self, index: int) -> Bound:
        row = bytes(self.bounds[index])
        return Bound(int.from_bytes(row[:8], "big"), row[8 : 8 + int(self.prefix_sizes[index])])

    def head(self, count: int) -> Block:
        """The first ``count`` ranges."""
        ends = count + 1
        return Block(
            self.bounds[:ends], self.prefix_sizes[:ends], self.modes[:count], self.payloads[:count]
        )


class BlockReader:
    """Reads on in a message, behind its version byte.

    :ivar fault: what is wrong with the range behind those read; None while nothing is.
    """

    def __init__(self, message: bytes) -> None:
        self.fault: ProtocolViolation | None = None
        self._message = message
        self._bytes = np.frombuffer(message, np.uint8)
        self._at = 1
        self._timestamp = 0
        self._bound = np.zeros((1, RECORD_SIZE), np.uint8)
        self._prefix_size = np.zeros(1, np.int64)

    @property
    def more(self) -> bool:
        """Whether there are bytes left to read."""
        return self.fault is None and self._at < len(self._message)

    def read(self, count: int) -> Block:
        """At most ``count`` ranges; fewer before the end or a fault."""
        timestamps: list[int] = []
        fields: list[tuple[int, int, int, int, int]] = []
        try:
            self._read_fields(count, timestamps, fields)
        except IndexError:
            self.fault = ProtocolViolation("message ends inside a range")
        except ProtocolViolation as violation:
            self.fault = violation
        table = np.array(fields, np.int64).reshape(-1, 5)
        bounds = self._bounds(timestamps[: len(fields)], table[:, 0], table[:, 1])
        block = Block(
            np.concatenate((self._bound, bounds)),
            np.concatenate((self._prefix_size, table[:, 1])),
            table[:, 2],
            table[:, 3:],
        )
        self._bound, self._prefix_size = block.bounds[-1:], block.prefix_sizes[-1:]
        return self._ascending(block)

    def _read_fields(
        self, count: int, timestamps: list[int], fields: list[tuple[int, int, int, int, int]]
    ) -> None:
        """The hot loop: per range where its prefix begins, its size, the mode, the payload."""
        message, at, timestamp = self._message, self._at, self._timestamp
        for _ in range(count):
            if at >= len(message):
                break
            offset, at = _varint(message, at)
            timestamp = next_timestamp(timestamp, offset)
            prefix_size, prefix_at = _varint(message, at)
            if prefix_size > ID_SIZE:
                raise ProtocolViolation("id prefix of a bound is longer than 32 bytes")
            mode, at = _varint(message, prefix_at + prefix_size)
            if mode == FINGERPRINT:
                end = at + FINGERPRINT_SIZE
            else:
                size, at = payload_size(message, at, mode)
                end = at + size
            if end > len(message):
                raise ProtocolViolation("message ends inside a range")
            timestamps.append(timestamp)
            fields.append((prefix_at, prefix_size, mode, at, end))
            at = end
        self._at, self._timestamp = at, timestamp

    def _bounds(self, timestamps: list[int], prefixes_at: Indices, sizes: Indices) -> Rows:
        bounds = np.zeros((len(timestamps), RECORD_SIZE), np.uint8)
        bounds[:, :8] = np.array(timestamps, ">u8").view(np.uint8).reshape(-1, 8)
        longest = int(sizes.max(initial=0))
        if longest:
            within = np.arange(longest)
            there: npt.NDArray[np.bool_] = within < sizes[:, None]
            at = np.where(there, prefixes_at[:, None] + within, 0)
            bounds[:, 8 : 8 + longest] = np.where(there, self._bytes[at], 0)
        return bounds

    def _ascending(self, block: Block) -> Block:
        """``block``, cut where its bounds go backwards."""
        keys = as_keys(block.bounds)
        backwards = np.flatnonzero(keys[1:] < keys[:-1])
        if not len(backwards):
            return block
        self.fault = ProtocolViolation("bounds go backwards")
        return block.head(int(backwards[0]))


def _varint(message: bytes, at: int) -> tuple[int, int]:
    """:func:`decode_varint`, quicker on one and two bytes."""
    first = message[at]
    if first < 0x80:
        return first, at + 1
    second = message[at + 1]
    if second < 0x80:
        return (first & 0x7F) << 7 | second, at + 2
    return decode_varint(message, at)
