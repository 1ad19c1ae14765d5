"""Progress: a bar for a person, lines for a log."""

from __future__ import annotations

from io import StringIO

from twisted.internet.task import Clock

from negd.cli.meter import LINE_INTERVAL, Bar, Lines, meter


class Terminal(StringIO):
    """A stream that a person watches."""

    def isatty(self) -> bool:
        return True


def test_lines_come_at_a_modest_rate() -> None:
    stream, clock = StringIO(), Clock()
    lines = Lines("sync", "events", stream, clock.seconds)
    for done in range(0, 2000, 100):
        lines.show(done, 2000, "round 1")
        clock.advance(LINE_INTERVAL / 10)
    lines.close()
    assert stream.getvalue() == "sync: 1,000 of 2,000 events, round 1\n"


def test_lines_without_a_total_or_a_note() -> None:
    stream, clock = StringIO(), Clock()
    lines = Lines("import", "B", stream, clock.seconds)
    clock.advance(LINE_INTERVAL)
    lines.show(5, None)
    assert stream.getvalue() == "import: 5 B\n"


def test_what_is_said_is_a_line_of_its_own_in_both() -> None:
    for stream in (StringIO(), Terminal()):
        shown = meter("import", "B", stream)
        shown.show(1, 2)
        shown.say("negctl: line 7: not an event")
        shown.close()
        assert "negctl: line 7: not an event\n" in stream.getvalue()


def test_a_terminal_gets_a_bar_and_nothing_else_does() -> None:
    assert isinstance(meter("x", "events", Terminal()), Bar)
    assert isinstance(meter("x", "events", StringIO()), Lines)


def test_the_bar_tells_how_far_it_is() -> None:
    stream = Terminal()
    bar = Bar("wss://a", "events", stream)
    bar.show(250, 1000, "round 3")
    bar.show(1000, 1000, "round 4")
    bar.close()
    last = stream.getvalue().rpartition("\r")[2]
    assert last.startswith("wss://a: 100%|")
    assert "1000/1000 [" in last
    assert " events/s, round 4]" in last


def test_the_bar_does_without_a_total() -> None:
    stream = Terminal()
    bar = Bar("import -", "B", stream)
    bar.show(2_500_000, None, "100 lines")
    bar.close()
    assert "2.50M" in stream.getvalue()
