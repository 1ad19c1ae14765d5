"""Postings: what posting lists hold, and arrays of them.

A posting is 14 bytes: ``created_at`` (8), then the event's serial (6).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from negd.reconcile import RECORD_SIZE, RecordSet

SERIAL = 6
"""Bytes of a serial, big-endian: room for a thousand events a second for nine thousand years."""

POSTING = 8 + SERIAL

Times: TypeAlias = "npt.NDArray[np.uint64]"
Serials: TypeAlias = "npt.NDArray[np.int64]"
Mask: TypeAlias = "npt.NDArray[np.bool_]"
Rows: TypeAlias = "npt.NDArray[np.uint8]"


def serial_key(serial: int) -> bytes:
    """A serial as the store has it."""
    return serial.to_bytes(SERIAL, "big")


def posting(record: bytes, serial: bytes) -> bytes:
    """The posting of an event."""
    return record[:8] + serial


class Postings(NamedTuple):
    """Some postings, each serial once."""

    times: Times
    serials: Serials

    @classmethod
    def of(cls, rows: Rows) -> Postings:
        """Those in an array of shape (n, 14)."""
        return cls(numbers(rows[:, :8]).view(np.uint64), numbers(rows[:, 8:]))

    def where(self, mask: Mask) -> Postings:
        """Those at which ``mask`` is true."""
        return Postings(self.times[mask], self.serials[mask])

    def distinct(self) -> Postings:
        """Each serial once, in the order of serials."""
        serials, places = np.unique(self.serials, return_index=True)
        return Postings(self.times[places], serials)

    def between(self, since: int | None, until: int | None) -> Postings:
        """Those with ``since <= created_at <= until``; None is no bound."""
        if since is None and until is None:
            return self
        mask = np.ones(len(self.times), np.bool_)
        if since is not None:
            mask &= self.times >= np.uint64(since)
        if until is not None:
            mask &= self.times <= np.uint64(until)
        return self.where(mask)

    def among(self, others: Serials) -> Postings:
        """Those with one of these serials."""
        return self.where(np.isin(self.serials, others))

    def without(self, others: Serials) -> Postings:
        """Those with none of these serials."""
        return self.where(np.isin(self.serials, others, invert=True)) if len(others) else self


NONE = Postings(np.empty(0, np.uint64), np.empty(0, np.int64))


def record_set(times: Times, ids: Rows, *, copies: bool = False) -> RecordSet:
    """The records of these times and ids; quickest where the times ascend.

    :param copies: for a set that is kept and changed: see :meth:`RecordSet.from_records`.
    """
    words = np.empty((len(ids), RECORD_SIZE // 8), np.uint64)
    words[:, 0] = times.astype(">u8").view(np.uint64)
    words[:, 1:] = np.ascontiguousarray(ids).view(np.uint64)
    if (times[1:] >= times[:-1]).all():
        tied = times[1:] == times[:-1]
        tied = np.flatnonzero(np.append(tied, False) | np.append(False, tied))
        words[tied] = words[tied[_order(times[tied], ids[tied])]]
    else:
        words = words[_order(times, ids)]
    rows = words.view(np.uint8).reshape(-1, RECORD_SIZE)
    return RecordSet.from_records(rows, copies=copies)


def _order(times: Times, ids: Rows) -> Serials:
    """The order of records by 64 bits, which is nearly always the right one.

    The bits are what there is of seconds, then of the id.
    """
    if not len(times):
        return np.empty(0, np.int64)
    offsets = times - times.min()
    bits = np.uint64(min(max(int(offsets.max()).bit_length(), 1), 63))
    heads = np.ascontiguousarray(ids[:, :8]).view(">u8")[:, 0].astype(np.uint64)
    return np.argsort((offsets << (np.uint64(64) - bits)) | (heads >> bits), kind="stable")


def serials_in(keys: Iterable[bytes]) -> Serials:
    """The numbers that these serials are."""
    return numbers(np.frombuffer(b"".join(keys), np.uint8).reshape(-1, SERIAL))


def numbers(rows: Rows) -> Serials:
    """Big-endian numbers of up to 8 bytes, one a row."""
    width = rows.shape[1]
    padded = np.zeros((len(rows), 8), np.uint8)
    padded[:, 8 - width :] = rows
    return padded.view(">i8")[:, 0].astype(np.int64)
