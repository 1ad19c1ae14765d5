"""What public servers say when they will not reconcile, and what is understood."""

from __future__ import annotations

import pytest

from negd.errors import PeerError
from negd.nostr.messages import Closed, NegErr, Notice
from negd.sync.refusals import (
    AuthRequired,
    NoReconciliation,
    TooManyRecords,
    concerns_negotiation,
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
    ],
)
def test_servers_that_cannot(text: str) -> None:
    assert type(refusal_of(NegErr("s", text))) is NoReconciliation
    assert type(refusal_of(Notice(text))) is NoReconciliation


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
    ],
)
def test_sets_that_are_too_large(answer: NegErr, limit: int | None) -> None:
    refusal = refusal_of(answer)
    assert isinstance(refusal, TooManyRecords)
    assert refusal.limit == limit


@pytest.mark.parametrize("text", ["auth-required: who are you", "restricted: members only"])
def test_servers_that_want_to_know_who_asks(text: str) -> None:
    assert type(refusal_of(Closed("s", text))) is AuthRequired


@pytest.mark.parametrize(
    "text",
    [
        "too many concurrent NEG requests",
        "negentropy error: something",
        "rate-limited: slow down",
        "CLOSED",
        "PROTOCOL-ERROR",
        "",
    ],
)
def test_other_refusals_are_told_and_no_more_is_concluded(text: str) -> None:
    refusal = refusal_of(NegErr("", text))
    assert type(refusal) is PeerError
    assert (text or "NEGERR") in refusal.text


@pytest.mark.parametrize("text", ["welcome", "rate limit: 5 notes a minute", "maintenance at 5"])
def test_notices_about_other_things_are_no_answers(text: str) -> None:
    assert not concerns_negotiation(Notice(text))


@pytest.mark.parametrize(
    "text",
    ["bad msg: unknown cmd", "negentropy error: x", "too many concurrent NEG requests"],
)
def test_notices_about_us(text: str) -> None:
    assert concerns_negotiation(Notice(text))
