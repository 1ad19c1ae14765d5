"""Many varints at once."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

_LIMITS = np.array([1 << 7 * digits for digits in range(1, 10)], np.uint64)


def encode_varints(
    values: npt.NDArray[np.uint64] | npt.NDArray[np.int64],
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
    """Each value's bytes at the left of a row of shape (m, longest), and how many they are."""
    values = values.astype(np.uint64)
    sizes = np.searchsorted(_LIMITS, values, side="right") + 1
    left = sizes[:, None] - 1 - np.arange(sizes.max(initial=1))
    digits = values[:, None] >> (7 * np.maximum(left, 0)).astype(np.uint64)
    return (digits & np.uint64(0x7F) | (left > 0) * np.uint64(0x80)).astype(np.uint8), sizes
