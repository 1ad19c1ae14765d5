"""Numbers, bounds and ranges as they are read and written."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from negd.errors import ProtocolViolation
from negd.reconcile.varints import encode_varints
from negd.reconcile.wire import (
    FINGERPRINT,
    ID_LIST,
    INFINITY,
    SKIP,
    Bound,
    Range,
    decode_varint,
    encode_varint,
    read_ranges,
)

u64 = st.integers(0, 2**64 - 1)


@given(u64, st.binary(max_size=3), st.binary(max_size=3))
def test_a_number_is_read_back_from_wherever_it_stands(
    value: int, before: bytes, after: bytes
) -> None:
    written = encode_varint(value)
    message = before + written + after
    assert decode_varint(message, len(before)) == (value, len(before) + len(written))


@pytest.mark.parametrize(
    ("value", "written"),
    [
        (0, "00"),
        (127, "7f"),
        (128, "8100"),
        (16383, "ff7f"),
        (16384, "818000"),
        (2**64 - 1, "81ffffffffffffffff7f"),
    ],
)
def test_a_number_has_its_most_significant_digit_first(value: int, written: str) -> None:
    assert encode_varint(value).hex() == written


@pytest.mark.parametrize(
    "hex_bytes",
    ["", "80", "ff", "ffffffffffffffffff", "82808080808080808000", "ffffffffffffffffffff7f"],
)
def test_a_number_cut_short_or_past_64_bits_is_refused(hex_bytes: str) -> None:
    with pytest.raises(ProtocolViolation):
        decode_varint(bytes.fromhex(hex_bytes), 0)


@given(st.lists(u64, max_size=50))
def test_many_numbers_are_written_as_one_by_one(values: list[int]) -> None:
    rows, sizes = encode_varints(np.array(values, np.uint64))
    width = rows.shape[1]
    written = [bytes(row)[width - size :] for row, size in zip(rows, sizes.tolist(), strict=True)]
    assert written == [encode_varint(value) for value in values]


def test_a_message_is_read_as_the_ranges_in_it() -> None:
    message = bytes.fromhex(
        "61"  # version
        "8301" "00" "00"  # until 384 (offset 385): skip
        "01" "02" "abcd" "01" + "11" * 16 +  # until (384, abcd): a fingerprint
        "00" "00" "02" "01" + "22" * 32  # until the end: one id
    )  # fmt: skip
    assert list(read_ranges(message)) == [
        Range(Bound(384), SKIP, b""),
        Range(Bound(384, b"\xab\xcd"), FINGERPRINT, b"\x11" * 16),
        Range(Bound(INFINITY), ID_LIST, b"\x22" * 32),
    ]
