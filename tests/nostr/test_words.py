"""What a peer says, made fit for people and bounded."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from negd.nostr.words import LONGEST, printable


@pytest.mark.parametrize(
    ("said", "kept"),
    [
        ("", ""),
        ("auth-required: we häve 🤙", "auth-required: we häve 🤙"),
        ("\x1b[31mred\nforged\t\u2028\u202e\x00\x7f", "?[31mred?forged?????"),
        ("x" * 201, "x" * 200),
    ],
)
def test_words_are_cut_and_made_printable(said: str, kept: str) -> None:
    assert printable(said) == kept


@given(st.text(), st.integers(0, 20))
def test_nothing_is_left_that_a_terminal_obeys(said: str, longest: int) -> None:
    kept = printable(said, longest)
    assert kept.isprintable()
    assert len(kept) == min(len(said), longest)
    assert printable(kept) == kept


def test_a_peer_may_say_enough_for_what_is_read_in_it() -> None:
    assert len("blocked: query matches too many records (1000000 > 500000)") < LONGEST
