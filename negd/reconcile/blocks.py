"""The ranges of a message read as columns, a block of them at a time."""

from __future__ import annotations

from array import array
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from negd.errors import ProtocolViolation
from negd.reconcile.arrays import RECORD_SIZE, Indices, Rows, as_keys
from negd.reconcile.wire import (
    FINGERPRINT,
    FINGERPRINT_SIZE,
    ID_LIST,
    ID_SIZE,
    INFINITY,
    Bound,
    decode_varint,
    payload_size,
    prefix_size,
)

Timestamps: TypeAlias = npt.NDArray[np.uint64]


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
        fields: list[int] = []
        try:
            self._read_fields(count, fields)
        except IndexError:
            self.fault = ProtocolViolation("message ends inside a range")
        except ProtocolViolation as violation:
            self.fault = violation
        table = np.frombuffer(array("Q", fields), np.uint64).reshape(-1, 6)
        places = table[:, 1:].astype(np.int64)
        bounds = self._bounds(table[:, 0], places[:, 0], places[:, 1])
        block = Block(
            np.concatenate((self._bound, bounds)),
            np.concatenate((self._prefix_size, places[:, 1])),
            places[:, 2],
            places[:, 3:],
        )
        self._bound, self._prefix_size = block.bounds[-1:], block.prefix_sizes[-1:]
        return self._ascending(block)

    def _read_fields(self, count: int, fields: list[int]) -> None:
        """Per range: timestamp, where the id prefix begins, its size, mode, payload from and to.

        The hot loop of reading, hence flat: no call for a number of one or two bytes, and a list
        of integers, which the garbage collector does not walk.
        """
        message, at, timestamp = self._message, self._at, self._timestamp
        length = len(message)
        for _ in range(count):
            if at >= length:
                break
            offset = message[at]
            if offset < 0x80:
                at += 1
            elif message[at + 1] < 0x80:
                offset = (offset & 0x7F) << 7 | message[at + 1]
                at += 2
            else:
                offset, at = decode_varint(message, at)
            timestamp = timestamp + offset - 1 if offset else INFINITY
            size, prefix_at = message[at], at + 1
            if size > ID_SIZE:
                size, prefix_at = prefix_size(message, at)
            mode = message[prefix_at + size]
            at = prefix_at + size + 1
            if mode == FINGERPRINT:
                end = at + FINGERPRINT_SIZE
            elif mode == ID_LIST and message[at] < 0x80:
                end = at + 1 + message[at] * ID_SIZE
                at += 1
            else:
                mode, at = decode_varint(message, at - 1)
                payload, at = payload_size(message, at, mode)
                end = at + payload
            if end > length or timestamp > INFINITY:
                raise _fault(timestamp)
            fields += timestamp, prefix_at, size, mode, at, end
            at = end
        self._at, self._timestamp = at, timestamp

    def _bounds(self, timestamps: Timestamps, prefixes_at: Indices, sizes: Indices) -> Rows:
        bounds = np.zeros((len(timestamps), RECORD_SIZE), np.uint8)
        bounds[:, :8] = timestamps.astype(">u8").view(np.uint8).reshape(-1, 8)
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


def _fault(timestamp: int) -> ProtocolViolation:
    if timestamp > INFINITY:
        return ProtocolViolation("timestamp of a bound does not fit 64 bits")
    return ProtocolViolation("message ends inside a range")
