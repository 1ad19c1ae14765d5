"""What people read: tables, times, counts."""

from __future__ import annotations

import pytest

from negd.cli.output import ago, complain, count, span, table


def test_columns_are_aligned_and_lines_end_where_their_text_does() -> None:
    rows = [("wss://a", "1,234", ""), ("wss://longer", "5", "no answer")]
    assert table(("PEER", "EVENTS", "ERROR"), rows, right=("EVENTS",)).splitlines() == [
        "PEER          EVENTS  ERROR",
        "wss://a        1,234",
        "wss://longer       5  no answer",
    ]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(-5, "0 s"), (0, "0 s"), (59.9, "59 s"), (60, "1 min"), (7199, "1 h"), (172800, "2 d")],
)
def test_a_span_is_one_number_and_one_unit(seconds: float, text: str) -> None:
    assert span(seconds) == text


def test_a_time_is_told_from_now_and_zero_is_never() -> None:
    assert ago(1000, 1061) == "1 min ago"
    assert ago(0, 1061) == "never"


def test_counts_are_grouped_and_agree_with_their_noun() -> None:
    assert [count(n, "event") for n in (0, 1, 1234)] == ["0 events", "1 event", "1,234 events"]


def test_a_complaint_is_one_line_whatever_is_in_it(capsys: pytest.CaptureFixture[str]) -> None:
    complain("two\nlines")
    assert capsys.readouterr().err == "negctl: two lines\n"
