"""Fingerprints: SHA-256 over the sum of ids mod 2**256 (little-endian) and their count, 16 bytes.

The sums come as eight u32 lanes, each added up in u64 and not yet carried over.
"""

from __future__ import annotations

import hashlib

import numpy as np

from negd.reconcile.arrays import Indices, Rows, as_bytes
from negd.reconcile.sums import LANES, Lanes
from negd.reconcile.varints import encode_varints
from negd.reconcile.wire import FINGERPRINT_SIZE, encode_varint

_DIGEST_SIZE = 32


def fingerprint_of(lanes: Lanes, count: int) -> bytes:
    """The fingerprint of ``count`` ids whose sum is ``lanes``, shape (8,)."""
    even = int.from_bytes(lanes[0::2].tobytes(), "little")
    odd = int.from_bytes(lanes[1::2].tobytes(), "little")
    total = (even + (odd << 32)) % (1 << 256)
    digest = hashlib.sha256(total.to_bytes(32, "little") + encode_varint(count)).digest()
    return digest[:FINGERPRINT_SIZE]


def fingerprints_of(lanes: Lanes, counts: Indices) -> Rows:
    """Many at once: of sums of shape (m, 8), which are used up, the fingerprints, (m, 16)."""
    for lane in range(LANES - 1):
        lanes[:, lane + 1] += lanes[:, lane] >> np.uint64(32)
    totals = lanes.astype("<u4").view(np.uint8)
    varints, sizes = encode_varints(counts)
    fingerprints = np.empty((len(counts), FINGERPRINT_SIZE), np.uint8)
    for size in range(1, varints.shape[1] + 1):
        which = np.flatnonzero(sizes == size)
        hashed = np.concatenate((totals[which], varints[which, -size:]), axis=1)
        fingerprints[which] = _sha256_of_rows(hashed)[:, :FINGERPRINT_SIZE]
    return fingerprints


def _sha256_of_rows(rows: Rows) -> Rows:
    sha256 = hashlib.sha256
    digests = [sha256(row).digest() for row in as_bytes(rows)]
    return np.frombuffer(b"".join(digests), np.uint8).reshape(-1, _DIGEST_SIZE)
