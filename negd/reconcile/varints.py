"""Many varints at once."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt


def encode_varints(
    values: npt.NDArray[np.uint64] | npt.NDArray[np.int64],
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
    """Each value's bytes at the right of a row of shape (m, longest), and how many they are."""
    longest = max(1, -(-int(values.max(initial=0)).bit_length() // 7))
    sizes = np.ones(len(values), np.int64)
    digits = np.empty((len(values), longest), np.uint8)
    digits[:, -1] = values & values.dtype.type(0x7F)
    for left in range(1, longest):
        values = values >> values.dtype.type(7)
        sizes += values > 0
        digits[:, -1 - left] = values & values.dtype.type(0x7F) | values.dtype.type(0x80)
    return digits, sizes
