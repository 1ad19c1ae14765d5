"""Imports and exports over a store in memory: outcomes, bad lines, order, failures."""

from __future__ import annotations

from collections.abc import Sequence
from io import BytesIO, StringIO
from pathlib import Path

from twisted.internet import reactor
from twisted.trial.unittest import TestCase

from negd.cli import lines
from negd.cli.export_events import export
from negd.cli.importing import NAMED, Report, import_events
from negd.errors import StorageError
from negd.interfaces import Outcome, Page, Verdict
from negd.nostr.event import Event, decode
from negd.nostr.filter import EVERYTHING, Filter
from negd.nostr.signing import Signer
from negd.storage.memory import MemoryStore

alice = Signer(b"\x01" * 32)


class Shown:
    """A meter that remembers."""

    def __init__(self) -> None:
        self.said: list[str] = []
        self.shown: list[tuple[int, int | None, str]] = []

    def show(self, done: int, total: int | None, note: str = "") -> None:
        self.shown.append((done, total, note))

    def say(self, text: str) -> None:
        self.said.append(text)

    def close(self) -> None:
        pass


class Full:
    """A file on a full disk."""

    def write(self, text: str) -> None:
        raise OSError(28, "No space left on device")


class ImportTests(TestCase):
    timeout = 60

    def setUp(self) -> None:
        self.store = MemoryStore(reactor)
        self.shown = Shown()
        self.rejects = StringIO()
        self.report = Report(self.shown, self.rejects)

    async def load(self, *given: bytes | Event) -> None:
        path = Path(self.mktemp())
        path.write_bytes(
            b"".join((one if isinstance(one, bytes) else one.encode()) + b"\n" for one in given)
        )
        with path.open("rb") as file:
            await import_events(reactor, self.store, file, self.report)
        self.assertEqual(self.shown.shown[-1][:2], (path.stat().st_size,) * 2)

    def counts(self) -> dict[str, int]:
        return {outcome.value: n for outcome, n in self.report.outcomes.items() if n}

    async def test_every_outcome_is_counted(self) -> None:
        note, gone = alice.sign(created_at=1000), alice.sign(created_at=1001)
        await self.load(
            note,
            note,
            gone,
            alice.sign(created_at=1002, kind=5, tags=[["e", gone.id]]),
            gone,
            alice.sign(created_at=1003, kind=0, content="new"),
            alice.sign(created_at=1000, kind=0, content="old"),
            alice.sign(created_at=1004, kind=20001),
            alice.sign(created_at=1005, tags=[["expiration", "1006"]]),
        )
        self.assertEqual(
            self.counts(),
            {
                "stored": 4,
                "duplicate": 1,
                "deleted": 1,
                "superseded": 1,
                "ephemeral": 1,
                "expired": 1,
            },
        )
        self.assertEqual(self.report.bad, 0)

    async def test_bad_lines_are_named_and_the_rest_is_stored(self) -> None:
        good, other = alice.sign(created_at=1000), alice.sign(created_at=1001)
        forged = other.encode().replace(other.sig.encode(), b"0" * 128)
        await self.load(good, b"", b"nonsense", forged, b"[]", other)
        self.assertEqual(self.counts(), {"stored": 2, "invalid": 3})
        said = "\n".join(self.shown.said)
        self.assertIn("negctl: line 3: not an event: ", said)
        self.assertIn("negctl: line 4: signature does not match", said)
        self.assertIn("negctl: line 5: not an event: ", said)
        self.assertEqual(await self.store.count(EVERYTHING), 2)

    async def test_many_bad_lines_are_named_no_more_but_all_are_noted(self) -> None:
        await self.load(*[b"x"] * (NAMED + 5))
        self.assertEqual(self.report.bad, NAMED + 5)
        self.assertEqual(len(self.shown.said), NAMED + 1)
        self.assertEqual(self.shown.said[-1], "negctl: further bad lines are only counted")
        self.assertEqual(len(self.rejects.getvalue().splitlines()), NAMED + 5)

    async def test_bad_lines_are_told_in_the_order_of_the_file(self) -> None:
        self.patch(lines, "_PIECE", 2000)
        self.patch(lines, "MAX_LINE", 1000)
        event = alice.sign(created_at=1000)
        forged = event.encode().replace(event.sig.encode(), b"0" * 128)
        changed = event.encode().replace(b"1000", b"1001")
        faults = {
            b"x" * 900: "not an event: JSON is malformed: invalid character (byte 0)",
            forged: "signature does not match",
            b"[" * 1001: "line is too long",
            changed: "id does not match the event",
        }
        given = [event.encode(), *faults] * 20
        await self.load(*given)
        self.assertEqual(
            self.rejects.getvalue().splitlines(),
            [
                f"line {number}: {faults[line]}"
                for number, line in enumerate(given, 1)
                if line in faults
            ],
        )
        self.assertEqual(self.counts(), {"stored": 1, "duplicate": 19, "invalid": 80})

    async def test_a_line_that_is_too_long_is_a_bad_line(self) -> None:
        self.patch(lines, "MAX_LINE", 1000)
        await self.load(b"[" * 1001, alice.sign(created_at=1000))
        self.assertEqual(self.counts(), {"stored": 1, "invalid": 1})
        self.assertEqual(self.shown.said, ["negctl: line 1: line is too long"])

    async def test_nothing_is_imported_from_nothing(self) -> None:
        with Path("/dev/null").open("rb") as file:
            await import_events(reactor, self.store, file, self.report)
        self.assertEqual(self.counts(), {})

    async def test_many_batches_overlap_and_none_is_lost(self) -> None:
        self.patch(lines, "_PIECE", 1000)
        events = [alice.sign(created_at=1000 + n) for n in range(50)]
        await self.load(*events)
        self.assertEqual(self.counts(), {"stored": 50})
        held = await self.store.known([event.id_bytes for event in events])
        self.assertEqual(len(held), 50)

    async def test_a_store_that_fails_ends_the_import(self) -> None:
        async def full(events: Sequence[Event]) -> list[Verdict]:
            raise StorageError("disk full")

        self.patch(self.store, "ingest", full)
        path = Path(self.mktemp())
        path.write_bytes(alice.sign(created_at=1000).encode())
        with path.open("rb") as file, self.assertRaises(StorageError):
            await import_events(reactor, self.store, file, self.report)
        self.assertEqual(self.counts(), {})

    async def test_bad_lines_that_cannot_be_noted_end_the_import(self) -> None:
        self.report = Report(self.shown, Full())
        self.patch(lines, "_PIECE", 100)
        good = [alice.sign(created_at=1000 + n) for n in range(50)]
        with self.assertRaises(OSError):
            await self.load(good[0], b"x", b"y", *good[1:])
        held = await self.store.count(EVERYTHING)
        self.assertGreater(held, 0)
        self.assertEqual(self.counts(), {"stored": held, "invalid": 2})

    async def test_progress_that_cannot_be_shown_ends_the_import(self) -> None:
        def closed(*_: object) -> None:
            raise BrokenPipeError

        self.patch(self.shown, "show", closed)
        with self.assertRaises(BrokenPipeError):
            await self.load(alice.sign(created_at=1000))
        self.assertEqual(self.counts(), {"stored": 1})

    async def test_blank_lines_are_lines_wherever_they_are(self) -> None:
        await self.load(b"", alice.sign(created_at=1000), b"  ", b"x", b"", b"\r")
        self.assertEqual(self.counts(), {"stored": 1, "invalid": 1})
        self.assertEqual(self.report.lines, 6)
        self.assertTrue(self.shown.said[0].startswith("negctl: line 4: "))
        first, *_, last = self.report.text("a", 1).splitlines()
        self.assertEqual((first, last), ("imported a: 6 lines in 1.0 s", "  blank       4"))

    def test_the_summary_has_every_outcome(self) -> None:
        for number, outcome in enumerate(Outcome):
            for _ in range(1200 if outcome is Outcome.STORED else number):
                self.report.judged(self.report.lines + 1, Verdict(outcome, "bad"))
        self.assertEqual(
            self.report.text("notes.jsonl", 2.04).splitlines(),
            [
                "imported notes.jsonl: 1,221 lines in 2.0 s",
                "  stored      1,200",
                "  duplicate       1",
                "  superseded      2",
                "  deleted         3",
                "  expired         4",
                "  ephemeral       5",
                "  invalid         6",
            ],
        )


class ExportTests(TestCase):
    timeout = 60

    async def test_events_come_newest_first_and_no_more_than_the_limit(self) -> None:
        store = MemoryStore(reactor)
        events = [alice.sign(created_at=1000 + n, kind=1 + n % 2 * 6) for n in range(1200)]
        await store.ingest(events)
        for wanted, expected in (
            (EVERYTHING, events[::-1]),
            (Filter.build(kinds=[7]), events[::-2]),
            (Filter(limit=700), events[:-701:-1]),
            (Filter(limit=0), []),
        ):
            out = BytesIO()
            progress: list[int] = []
            done = await export(store, wanted, out, progress.append)
            self.assertEqual([decode(line) for line in out.getvalue().splitlines()], expected)
            self.assertEqual(done, len(expected))
            self.assertEqual(progress[-1:], [done] if expected else [])

    async def test_no_more_is_read_than_the_limit(self) -> None:
        store = MemoryStore(reactor)
        await store.ingest([alice.sign(created_at=1000 + n, kind=1) for n in range(600)])
        read: list[int] = []
        query = store.query

        async def counted(wanted: Filter, after: bytes | None, page: int) -> Page:
            found = await query(wanted, after, page)
            read.append(len(found.events))
            return found

        self.patch(store, "query", counted)
        await export(store, Filter(limit=503), BytesIO(), lambda done: None)
        self.assertEqual(read, [500, 3])
