"""The wire form of negentropy messages, version 1: varints, bounds and ranges.

Source: negentropy-protocol-v1.md of hoytech/negentropy, named by NIP-77. A message is a version
byte and then ranges; a range is an upper bound (exclusive), a mode and what the mode carries.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from negd.errors import ProtocolViolation

PROTOCOL_VERSION = 0x61
ID_SIZE = 32
FINGERPRINT_SIZE = 16
INFINITY = 2**64 - 1
"""The timestamp beyond every record, written as 0."""

SKIP, FINGERPRINT, ID_LIST = 0, 1, 2

_LONGEST_VARINT = 10


class UnsupportedVersion(ProtocolViolation):
    """The other side does not speak version 1, or did not take our message for one.

    :ivar version: the version byte it answered with.
    """

    def __init__(self, text: str, version: int) -> None:
        super().__init__(text)
        self.version = version


class Bound(NamedTuple):
    """Where a range ends: before the first record not below (timestamp, id_prefix, 0, 0, ...)."""

    timestamp: int
    id_prefix: bytes = b""


END = Bound(INFINITY)


class Range(NamedTuple):
    """One range as it was read; it begins where the one before it ended.

    ``payload`` is empty for SKIP, 16 bytes for FINGERPRINT, whole 32-byte ids for ID_LIST.
    """

    upper: Bound
    mode: int
    payload: bytes


def encode_varint(value: int) -> bytes:
    """Base 128, most significant digit first, the high bit on all bytes but the last."""
    if value < 0x80:
        return bytes((value,))
    digits = [value & 0x7F]
    value >>= 7
    while value:
        digits.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes(reversed(digits))


def decode_varint(message: bytes, at: int) -> tuple[int, int]:
    """The number that begins at ``at``, and the position behind it.

    :raises ProtocolViolation: it is cut short, or does not fit 64 bits.
    """
    value = 0
    for position in range(at, min(at + _LONGEST_VARINT, len(message))):
        byte = message[position]
        value = value << 7 | byte & 0x7F
        if byte < 0x80 and value <= INFINITY:
            return value, position + 1
    if at + _LONGEST_VARINT > len(message):
        raise ProtocolViolation("message ends inside a number")
    raise ProtocolViolation("number does not fit 64 bits")


def read_ranges(message: bytes) -> Iterator[Range]:
    """The ranges of a message, behind its version byte, each read when it is asked for.

    :raises ProtocolViolation: the next range is not as the protocol has it.
    """
    at = 1
    previous = Bound(0)
    while at < len(message):
        upper, at = _read_bound(message, at, previous)
        mode, at = decode_varint(message, at)
        size, at = payload_size(message, at, mode)
        if size > len(message) - at:
            raise ProtocolViolation("message ends inside a range")
        yield Range(upper, mode, message[at : at + size])
        at += size
        previous = upper


def _read_bound(message: bytes, at: int, previous: Bound) -> tuple[Bound, int]:
    offset, at = decode_varint(message, at)
    timestamp = next_timestamp(previous.timestamp, offset)
    size, at = prefix_size(message, at)
    if size > len(message) - at:
        raise ProtocolViolation("message ends inside a bound")
    upper = Bound(timestamp, message[at : at + size])
    if _padded(upper) < _padded(previous):
        raise ProtocolViolation("bounds go backwards")
    return upper, at + size


def next_timestamp(previous: int, offset: int) -> int:
    """The timestamp of a bound, from the one before it and what is written.

    :raises ProtocolViolation: it does not fit 64 bits.
    """
    if not offset:
        return INFINITY
    timestamp = previous + offset - 1
    if timestamp > INFINITY:
        raise ProtocolViolation("timestamp of a bound does not fit 64 bits")
    return timestamp


def prefix_size(message: bytes, at: int) -> tuple[int, int]:
    """How many bytes of an id a bound has, and where they begin.

    :raises ProtocolViolation: more than 32, or no number.
    """
    size, at = decode_varint(message, at)
    if size > ID_SIZE:
        raise ProtocolViolation("id prefix of a bound is longer than 32 bytes")
    return size, at


def payload_size(message: bytes, at: int, mode: int) -> tuple[int, int]:
    """How many bytes a range of ``mode`` carries, and where they begin.

    :raises ProtocolViolation: the mode is unknown, or the count of ids no number.
    """
    if mode == SKIP:
        return 0, at
    if mode == FINGERPRINT:
        return FINGERPRINT_SIZE, at
    if mode == ID_LIST:
        count, at = decode_varint(message, at)
        return count * ID_SIZE, at
    raise ProtocolViolation(f"unknown mode {mode}")


def _padded(bound: Bound) -> tuple[int, bytes]:
    return bound.timestamp, bound.id_prefix.ljust(ID_SIZE, b"\0")
