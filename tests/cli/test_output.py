"""What people read: tables, times, counts."""

from __future__ import annotations

import pytest

from negd.cli.output import ago, complain, count, due, fields, interval, plain, span, table


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


def test_a_time_to_come_is_told_from_now_and_a_past_one_is_nothing() -> None:
    assert due(1061, 1000) == "in 1 min"
    assert due(1000, 1000) == due(5, 1000) == ""


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.25, "0.25 s"),
        (1, "1 s"),
        (600.0, "10 min"),
        (5400, "1 h 30 min"),
        (90061, "1 d 1 h 1 min 1 s"),
    ],
)
def test_an_interval_is_told_to_the_second(seconds: float, text: str) -> None:
    assert interval(seconds) == text


def test_fields_are_aligned_over_their_groups() -> None:
    assert fields([("a", "1"), ("bcd", "2")], [("ef", "3")]) == "a    1\nbcd  2\n\nef   3"


def test_words_of_others_do_not_reach_the_terminal_as_commands() -> None:
    assert plain("\x1b[2J\u202e a\n\tb") == "?[2J? a b"


def test_counts_are_grouped_and_agree_with_their_noun() -> None:
    assert [count(n, "event") for n in (0, 1, 1234)] == ["0 events", "1 event", "1,234 events"]


def test_a_complaint_is_one_line_whatever_is_in_it(capsys: pytest.CaptureFixture[str]) -> None:
    complain("two\nlines")
    assert capsys.readouterr().err == "negctl: two lines\n"
