"""What public servers say when they will not reconcile, and what is understood."""

from __future__ import annotations

import pytest

from negd.errors import PeerError
from negd.nostr.messages import Closed, NegErr, Notice
from negd.sync.refusals import (
    AuthRequired,
    NoReconciliation,
    TooManyRecords,
    TooMuch,
    asks_for_less,
    concerns_a_request,
    concerns_negotiation,
    has_deleted_it,
    holds_it,
    is_about_number,
    limit_in,
    refusal_of,
)


@pytest.mark.parametrize(
    "text",
    [
        "ERROR: bad msg: negentropy disabled",
        "bad msg: unknown cmd",
        "ERROR: unknown envelope label",
        "could not parse command",
        "Unknown message type: NEG-OPEN",
        "ERROR: negentropy query missing elements",
        "blocked: Negentropy sync is disabled",
        "closed: nip77 disabled",
        "closed: unknown subscription handle",
        "negentropy error: something",
        "CLOSED",
        "PROTOCOL-ERROR",
        "",
    ],
)
def test_servers_that_cannot(text: str) -> None:
    for answer in (NegErr("s", text), NegErr("", text), Closed("s", text), Notice(text)):
        refusal = refusal_of(answer, has_begun=False)
        assert isinstance(refusal, NoReconciliation)
        assert refusal.is_lasting
        assert (text or type(answer).__name__.upper()) in refusal.text
        assert type(refusal_of(answer, has_begun=True)) is PeerError


def test_what_a_peer_that_reconciles_says_besides_is_no_want_of_nip77() -> None:
    restarting = NegErr("s", "closed: relay is restarting")
    assert type(refusal_of(restarting, has_begun=False, has_ended=True)) is PeerError
    disabled = NegErr("s", "closed: nip77 disabled")
    refusal = refusal_of(disabled, has_begun=False, has_ended=True)
    assert isinstance(refusal, NoReconciliation)
    assert refusal.is_lasting


@pytest.mark.parametrize(
    ("text", "limit"),
    [
        ("error: too many ids in filter (max 50)", 50),
        ("invalid: filter too large", None),
        ("blocked: too many items in filter", None),
        ("ERROR: bad req: too many ids in filter", None),
        ("invalid: limit exceeded", None),
    ],
)
def test_servers_that_want_to_be_asked_for_less(text: str, limit: int | None) -> None:
    assert asks_for_less(text)
    assert limit_in(text) == limit
    assert concerns_a_request(f"{text} of this REQ")


@pytest.mark.parametrize(
    ("text", "is_it"),
    [
        ("too many concurrent REQs", True),
        ("ERROR: max subscriptions exceeded", True),
        ("rate-limited: too many subscriptions", True),
        ("rate-limited: slow down", False),
        ("blocked: too many ids", False),
    ],
)
def test_servers_that_have_too_many_requests_open(text: str, is_it: bool) -> None:
    assert is_about_number(text) is is_it


@pytest.mark.parametrize(
    "text", ["rate-limited: slow down", "too many concurrent REQs", "blocked:"]
)
def test_servers_that_want_something_else(text: str) -> None:
    assert not asks_for_less(text)


def test_a_failure_says_nothing_about_another_time() -> None:
    refusal = refusal_of(NegErr("s", "error: database is busy"), has_begun=False)
    assert isinstance(refusal, NoReconciliation)
    assert not refusal.is_lasting


@pytest.mark.parametrize(
    ("answer", "limit"),
    [
        (NegErr("s", "blocked: too many query results", 500_000), 500_000),
        (NegErr("s", "blocked: too many query results"), None),
        (NegErr("s", "blocked: query matches too many records (1200000 > 1000000)"), 1_000_000),
        (NegErr("s", "blocked: too many events"), None),
        (NegErr("s", f"blocked: too many records (limit {'9' * 5000})"), None),
        (NegErr("s", "blocked: this query is too big"), None),
        (NegErr("s", "something new", 10), 10),
        (NegErr("s", "blocked: too many events, try later"), None),
        (NegErr("s", "RESULTS_TOO_BIG"), None),
        (NegErr("s", "FILTER_TOO_BROAD"), None),
        (NegErr("s", "error: query exceeds limit"), None),
        (NegErr("s", "error: max records exceeded"), None),
        (NegErr("s", "matches more than 10 events"), None),
    ],
)
def test_sets_that_are_too_large(answer: NegErr, limit: int | None) -> None:
    for has_begun in (True, False):
        refusal = refusal_of(answer, has_begun)
        assert isinstance(refusal, TooManyRecords)
        assert refusal.limit == limit


@pytest.mark.parametrize("text", ["auth-required: who are you", "restricted: members only"])
def test_servers_that_want_to_know_who_asks(text: str) -> None:
    refusal = refusal_of(Closed("s", text), has_begun=False)
    assert isinstance(refusal, AuthRequired)
    assert refusal.said == text


@pytest.mark.parametrize(
    "text",
    [
        "too many concurrent NEG requests",
        "rate-limited: slow down",
        "rate-limited: too many events a minute",
        "blocked: you have exceeded your rate limit",
        "error: exceeds maximum number of concurrent sessions (limit 5)",
        "blocked: too many sessions (limit 1000), try later",
        "blocked: the memory for sessions is spent, try later",
    ],
)
def test_servers_that_want_patience(text: str) -> None:
    for answer in (NegErr("", text), Notice(text)):
        refusal = refusal_of(answer, has_begun=False)
        assert isinstance(refusal, TooMuch)
        assert refusal.said == text


@pytest.mark.parametrize(
    "text",
    [
        "welcome",
        "rate limit: 5 notes a minute",
        "maintenance at 5",
        "error: event too large: 70000 > 65536",
        "invalid: event too large",
        "ERROR: bad event: invalid message",
        "error: could not parse event",
        "too many tags",
        "content too long",
        "ERROR: bad req: filter too large",
    ],
)
def test_notices_about_other_things_are_no_answers(text: str) -> None:
    assert not concerns_negotiation(Notice(text))


@pytest.mark.parametrize(
    "text",
    ["bad msg: unknown cmd", "negentropy error: x", "too many concurrent NEG requests"],
)
def test_notices_about_us(text: str) -> None:
    assert concerns_negotiation(Notice(text))


HEX = "ab" * 32


@pytest.mark.parametrize(
    ("text", "held", "deleted"),
    [
        ("duplicate: have it", True, False),
        ("Duplicate", True, False),
        (f"blocked: event already exists: {HEX}", True, False),
        ("deleted: user requested deletion", False, True),
        (f"blocked: blocked: {HEX} has been deleted", False, True),
        ("replaced: have newer event", False, False),
        ("blocked: event is older than existing replaceable event", False, False),
        ("duplicates are not the reason", False, False),
        ("blocked: deletions are not taken", False, False),
        ("", False, False),
    ],
)
def test_events_that_need_not_be_sent_again(text: str, held: bool, deleted: bool) -> None:
    assert (holds_it(text), has_deleted_it(text)) == (held, deleted)
