"""Whole syncs over real sockets with relays that refuse, or misbehave, in every way seen."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from msgspec import structs
from twisted.internet import reactor as installed_reactor
from twisted.internet.defer import Deferred
from twisted.internet.tcp import Client
from twisted.trial.unittest import TestCase

from negd.errors import PeerError
from negd.interfaces import Direction, PeerProfile, Residue
from negd.nostr.event import Event
from negd.nostr.filter import EVERYTHING, Filter, from_json
from negd.nostr.signing import Signer
from negd.reconcile import RecordSet, Responder
from negd.settings import SyncSettings
from negd.storage.memory import MemoryBook
from negd.sync import negotiation
from negd.sync.node import Node
from negd.sync.offload import inline
from negd.sync.run import SyncRun
from negd.testing.links import memory_backend
from negd.testing.relays import Act, Drop, Goodbye, ScriptedRelay, until
from negd.websocket.client import Dialer

reactor: Any = installed_reactor
alice = Signer(b"\x01" * 32)
OURS = [alice.sign(created_at=1000 + n, content=f"ours {n}") for n in range(30)]
THEIRS = [alice.sign(created_at=1000 + n, content=f"theirs {n}") for n in range(30)]
ALL = {event.id_bytes for event in (*OURS, *THEIRS)}

Bend = Callable[["Scripted", list[Any]], "Iterable[object] | None"]


@dataclass
class Scripted:
    """A small relay with NIP-77, some of whose answers ``bend`` makes: JSON values, or acts.

    Where ``bend`` gives None the relay answers as it should.
    """

    bend: Bend
    held: dict[bytes, Event] = field(default_factory=lambda: {e.id_bytes: e for e in THEIRS})
    responder: Responder | None = None
    said: list[str] = field(default_factory=list)

    def __call__(self, payload: bytes) -> list[Act]:
        message = json.loads(payload)
        self.said.append(message[0])
        answers = self.bend(self, message)
        if answers is None:
            answers = self.answer(message)
        return [a if isinstance(a, Act) else json.dumps(a).encode() for a in answers]

    def answer(self, message: list[Any]) -> list[list[object]]:
        match message:
            case ["REQ", name, wanted]:
                shown = self.matching(from_json(wanted))
                return [*(event_for(name, event) for event in shown), ["EOSE", name]]
            case ["EVENT", _]:
                event = next(e for e in OURS if e.id == message[1]["id"])
                self.held[event.id_bytes] = event
                return [["OK", event.id, True, ""]]
            case ["NEG-OPEN", name, wanted, text]:
                records = b"".join(event.record for event in self.matching(from_json(wanted)))
                self.responder = Responder(RecordSet.EMPTY.insert(records), 60_000)
                return self.reply(name, text)
            case ["NEG-MSG", name, text]:
                return self.reply(name, text)
        return []

    def reply(self, name: str, text: str) -> list[list[object]]:
        assert self.responder is not None
        return [
            ["NEG-MSG", name, (self.responder.reconcile(bytes.fromhex(text)).reply or b"").hex()]
        ]

    def matching(self, wanted: Filter) -> list[Event]:
        found = [event for event in self.held.values() if wanted.matches(event)]
        return sorted(found, key=lambda e: (-e.created_at, e.id))[: wanted.limit]


def event_for(name: str, event: Event) -> list[object]:
    return ["EVENT", name, json.loads(event.encode())]


def refuses(*answer: object) -> Bend:
    """Answers NEG-OPEN so; NAME stands for its subscription."""

    def bend(relay: Scripted, message: list[Any]) -> Iterable[object] | None:
        if message[0] != "NEG-OPEN":
            return None
        return [[message[1] if part == "NAME" else part for part in answer]]

    return bend


def mute(relay: Scripted, message: list[Any]) -> Iterable[object] | None:
    return [] if message[0] == "NEG-OPEN" else None


NO_NIP77 = {
    "disabled": refuses("NOTICE", "ERROR: bad msg: negentropy disabled"),
    "unknown cmd": refuses("NOTICE", "ERROR: bad msg: unknown cmd"),
    "unknown label": refuses("NOTICE", "unknown envelope label"),
    "not parsed": refuses("NOTICE", "could not parse command"),
    "unknown type": refuses("NOTICE", "Unknown message type: NEG-OPEN"),
    "five elements": refuses("NOTICE", "ERROR: bad msg: negentropy query missing elements"),
    "closed": refuses("CLOSED", "NAME", "unsupported: no NEG-OPEN here"),
    "NEG-ERR": refuses("NEG-ERR", "NAME", "blocked: Negentropy sync is disabled"),
    "nip77 disabled": refuses("NEG-ERR", "NAME", "closed: nip77 disabled"),
    "unknown handle": refuses("NEG-ERR", "NAME", "closed: unknown subscription handle"),
    "NEG-ERROR": refuses("NEG-ERROR", "NAME", "unsupported: disabled"),
    "empty id": refuses("NEG-ERR", "", "closed: nip77 disabled"),
    "odd fourth element": refuses("NEG-ERR", "NAME", "closed: nip77 disabled", {"limit": "none"}),
    "silence": mute,
    "version 0": refuses("NEG-MSG", "NAME", "60"),
    "61 alone": refuses("NEG-MSG", "NAME", "61"),
    "failed": refuses("NOTICE", "negentropy error: something"),
    "bare closed": refuses("NEG-ERR", "NAME", "CLOSED"),
    "bare error": refuses("NEG-ERR", "NAME", "PROTOCOL-ERROR"),
    "too many, however few": refuses("NEG-ERR", "NAME", "blocked: too many query results"),
    "too long, however short": refuses("NOTICE", "ERROR: message too large"),
    "not hex": refuses("NEG-MSG", "NAME", "zz"),
    "empty": refuses("NEG-MSG", "NAME", ""),
    "cut short": refuses("NEG-MSG", "NAME", "6101"),
    "no mode": refuses("NEG-MSG", "NAME", "61ff"),
    "no version": refuses("NEG-MSG", "NAME", "ff"),
}

AT_TIMES = {
    "busy": refuses("NOTICE", "too many concurrent NEG requests"),
    "rate-limited": refuses("NEG-ERR", "NAME", "rate-limited: slow down"),
    "auth": refuses("CLOSED", "NAME", "auth-required: not for you"),
}
"""Refusals that say nothing about another time."""


def small(*answer: object) -> Bend:
    """Refuses sets of more than 10 records so."""

    def bend(relay: Scripted, message: list[Any]) -> Iterable[object] | None:
        if message[0] == "NEG-OPEN" and len(relay.matching(from_json(message[2]))) > 10:
            return [[message[1] if part == "NAME" else part for part in answer]]
        return None

    return bend


TOO_LARGE = {
    "fourth element": small("NEG-ERR", "NAME", "blocked: too many query results", 10),
    "N > M": small("NEG-ERR", "NAME", "blocked: query matches too many records (30 > 10)"),
    "no number": small("NEG-ERR", "NAME", "blocked: too many events"),
    "empty id": small("NEG-ERR", "", "blocked: too many query results"),
}


class Ends(TestCase):
    timeout = 30

    async def sync(
        self, bend: Bend, direction: Direction = Direction.BOTH, **settings: Any
    ) -> tuple[Scripted, SyncRun]:
        """A sync to its end; its failure is raised."""
        script = Scripted(bend)
        relay = ScriptedRelay(reactor, script)
        await relay.start()
        self.addCleanup(self.see_off, relay)
        given = SyncSettings(**settings)
        backend = memory_backend(reactor)
        await backend.store.ingest(OURS)
        self.store, self.book, self.url = backend.store, MemoryBook(), relay.url
        self.node = Node(
            backend.store, backend.intake, Dialer(reactor, given), given, reactor, inline
        )
        await self.sync_again(direction)
        return script, self.run_

    async def sync_again(self, direction: Direction = Direction.BOTH) -> None:
        """One more sync with the same peer, whose ledger is kept."""
        self.run_ = SyncRun(
            self.node, self.url, EVERYTHING, direction, self.book, PeerProfile(), lambda _: None
        )
        await self.run_.run()

    async def see_off(self, relay: ScriptedRelay) -> None:
        """Stop a relay, and wait for the end of our links."""
        await relay.stop()
        await until(reactor, lambda: not any(isinstance(r, Client) for r in reactor.getReaders()))

    async def held(self) -> set[bytes]:
        return {record[8:] for record in await self.store.snapshot(EVERYTHING)}


class RefusalTests(Ends):
    async def test_without_nip77_events_move_by_pages(self) -> None:
        for name, bend in NO_NIP77.items():
            first_answer = 0.3 if name in ("silence", "not hex") else 90.0
            script, run = await self.sync(bend, first_answer=first_answer)
            assert (await self.held(), set(script.held)) == (ALL, ALL), name
            assert run.profile.nip77 is False, name
            assert run.profile.refusal, name

    async def test_a_peer_that_may_reconcile_another_time_is_paged_through_this_time(self) -> None:
        self.patch(negotiation, "PAUSES", (0.05, 0.05))
        for name, bend in AT_TIMES.items():
            script, run = await self.sync(bend)
            assert (await self.held(), set(script.held)) == (ALL, ALL), name
            assert run.profile.nip77 is None, name

    async def test_a_set_that_is_too_large_is_reconciled_in_windows(self) -> None:
        for name, bend in TOO_LARGE.items():
            script, run = await self.sync(bend)
            assert (await self.held(), set(script.held)) == (ALL, ALL), name
            assert run.profile.nip77 is True, name
            assert script.said.count("NEG-OPEN") > 3, name
            if name in ("fourth element", "N > M"):
                assert run.profile.max_records == 10, name


def paged(bend: Bend) -> Bend:
    """Does so, and knows no NEG-OPEN."""
    plain = refuses("NOTICE", "ERROR: bad msg: unknown cmd")
    return lambda relay, message: plain(relay, message) or bend(relay, message)


class PageTests(Ends):
    async def test_pages_are_as_large_as_the_peer_takes(self) -> None:
        def bend(relay: Scripted, message: list[Any]) -> Iterable[object] | None:
            if message[0] == "REQ" and message[2]["limit"] > 10:
                return [["CLOSED", message[1], "invalid: limit too large (max 10)"]]
            return None

        script, _ = await self.sync(paged(bend))
        assert await self.held() == set(script.held) == ALL

    async def test_a_peer_that_takes_no_notice_of_times_is_not_taken_to_be_equal(self) -> None:
        def bend(relay: Scripted, message: list[Any]) -> Iterable[object] | None:
            if message[0] != "REQ":
                return None
            return relay.answer(["REQ", message[1], {"limit": 10}])

        error = await self.assertFailure(Deferred.fromCoroutine(self.sync(paged(bend))), PeerError)
        assert "shows events of other times" in str(error)


def replacing(label: str, *answers: object) -> Bend:
    """Says this in place of the answer to messages of that label; NAME as in :func:`refuses`."""

    def bend(relay: Scripted, message: list[Any]) -> Iterable[object] | None:
        if message[0] != label:
            return None
        return [
            [message[1] if part == "NAME" else part for part in answer]
            if isinstance(answer, list)
            else answer
            for answer in answers
        ]

    return bend


class MisbehaviourTests(Ends):
    """None of it is trusted, all of it is counted, and what is good arrives."""

    async def test_ids_in_upper_case_and_answers_given_twice_are_understood(self) -> None:
        def bend(relay: Scripted, message: list[Any]) -> Iterable[object] | None:
            if message[0] == "EVENT":
                (answer,) = relay.answer(message)
                answer[1] = str(answer[1]).upper()
                return [answer, answer]
            return None

        script, run = await self.sync(bend)
        assert set(script.held) == ALL
        assert (run.progress.sent, run.progress.rejected) == (30, 0)

    async def test_events_in_upper_case_are_no_events(self) -> None:
        def bend(relay: Scripted, message: list[Any]) -> Iterable[object] | None:
            if message[0] != "REQ":
                return None
            *events, end = relay.answer(message)
            events[0][2]["id"] = events[0][2]["id"].upper()  # type: ignore[index]
            return [*events, end]

        _, run = await self.sync(bend)
        assert run.progress.fetched >= 29
        assert run.profile.faults["unreadable"] >= 1

    async def test_events_are_not_trusted(self) -> None:
        forged = event_for("NAME", replace_content(THEIRS[0]))
        unsigned = event_for("NAME", THEIRS[1])
        del unsigned[2]["sig"]  # type: ignore[attr-defined]
        stranger = event_for("NAME", alice.sign(created_at=1, content="nobody asked"))

        def bend(relay: Scripted, message: list[Any]) -> Iterable[object] | None:
            if message[0] != "REQ" or len(message[2]["ids"]) < 30:
                return None
            bad = [[label, message[1], event] for label, _, event in (forged, unsigned, stranger)]
            *good, end = relay.answer(message)
            again = good[5]
            kept = [a for a in good if a[2]["id"] not in (THEIRS[0].id, THEIRS[1].id)]  # type: ignore[index]
            return [*bad, again, *kept, again, end]

        _, run = await self.sync(bend)
        assert await self.held() == ALL - {THEIRS[0].id_bytes}
        assert run.profile.faults == {
            "invalid": 1, "unreadable": 1, "unasked": 1, "repeated": 2,
        }  # fmt: skip
        residues = await self.book.residues(self.url)
        assert residues == {Residue.OURS_REJECTED: 1}

    async def test_what_comes_after_a_close_is_dropped(self) -> None:
        def bend(relay: Scripted, message: list[Any]) -> Iterable[object] | None:
            if message[0] == "CLOSE":
                return [event_for(message[1], OURS[0]), ["EOSE", message[1]]]
            if message[0] == "NEG-CLOSE":
                return [["NEG-MSG", message[1], "6100000200"], ["NEG-ERR", message[1], "closed:"]]
            return None

        script, run = await self.sync(bend)
        assert (await self.held(), set(script.held)) == (ALL, ALL)
        assert run.profile.faults == {}

    async def test_too_much_of_what_was_not_asked_for_ends_the_sync(self) -> None:
        strangers = [alice.sign(created_at=n, content="spam") for n in range(300)]

        def bend(relay: Scripted, message: list[Any]) -> Iterable[object] | None:
            return [event_for(message[1], e) for e in strangers] if message[0] == "REQ" else None

        done = Deferred.fromCoroutine(self.sync(bend))
        error = await self.assertFailure(done, PeerError)
        assert "not asked for" in str(error)
        assert not await self.held() & {event.id_bytes for event in strangers}
        assert self.run_.profile.faults["unasked"] > 30

    async def test_an_oversized_message_ends_the_link(self) -> None:
        bend = replacing("REQ", ["NOTICE", "x" * 20_000])
        done = Deferred.fromCoroutine(self.sync(bend, max_message=10_000))
        error = await self.assertFailure(done, PeerError)
        assert "exceeds payload limit" in str(error)
        assert self.run_.profile.faults == {"unreadable": 1}

    async def test_an_event_that_cannot_be_had_keeps_no_other_from_coming(self) -> None:
        bad = THEIRS[7]

        def spoiling(*answers: object) -> Bend:
            def bend(relay: Scripted, message: list[Any]) -> Iterable[object] | None:
                is_it = message[0] == "REQ" and bad.id in message[2]["ids"]
                return answers if is_it else None

            return bend

        def malformed(relay: Scripted, message: list[Any]) -> Iterable[object] | None:
            answers = relay.answer(message)
            for answer in answers:
                if message[0] == "REQ" and answer[0] == "EVENT" and answer[2]["id"] == bad.id:  # type: ignore[index]
                    answer[2]["tags"] = [["t", 7]]  # type: ignore[index]
            return answers

        too_long = json.dumps(["NOTICE", "x" * 20_000]).encode()
        for bend, words in (
            (malformed, "cannot be read: "),
            (spoiling(Drop()), "the link ended before it came"),
            (spoiling(too_long), "the link ended before it came"),
            (spoiling(), "no answer to a REQ for it"),
        ):
            sync = self.sync(bend, max_message=10_000, answer=0.3)
            syncing: Deferred[object] = Deferred.fromCoroutine(sync)
            for _ in range(8):
                try:
                    await syncing
                    break
                except PeerError:
                    syncing = Deferred.fromCoroutine(self.sync_again())
            assert self.run_.progress.complete, words
            assert await self.held() == ALL - {bad.id_bytes}, words
            entries = await self.book.entries(self.url, Residue.UNFETCHABLE, 9)
            assert list(entries) == [bad.id_bytes], words
            assert entries[bad.id_bytes].text.startswith(words)

    async def test_a_link_that_ends_in_the_middle_is_told_with_its_reason(self) -> None:
        for act, words in ((Drop(), "lost"), (Goodbye("busy"), "closed the link")):
            done = Deferred.fromCoroutine(self.sync(replacing("REQ", act)))
            error = await self.assertFailure(done, PeerError)
            assert words in str(error)

    async def test_silence_in_the_middle_is_told(self) -> None:
        for label, words in (("REQ", "no answer to a REQ"), ("EVENT", "no OK")):
            error = await self.assertFailure(
                Deferred.fromCoroutine(self.sync(replacing(label), answer=0.5)), PeerError
            )
            assert words in str(error)

    async def test_a_negentropy_message_that_cannot_be_read_is_counted(self) -> None:
        for text in ("61ff", "6101", "ff", "", "zz"):
            _, run = await self.sync(refuses("NEG-MSG", "NAME", text), first_answer=0.3)
            assert run.profile.faults == {"unreadable": 1}, text
            assert await self.held() == ALL, text


def replace_content(event: Event) -> Event:
    """The event with other words under the same id and signature."""
    return structs.replace(event, content="forged")
