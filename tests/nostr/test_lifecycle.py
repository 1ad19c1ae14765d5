"""When events end: replacement (NIP-01), deletion (NIP-09), expiry (NIP-40)."""

from __future__ import annotations

import pytest

from negd.nostr.kinds import is_addressable, is_ephemeral, is_replaceable
from negd.nostr.lifecycle import (
    Address,
    address_of,
    deletions_of,
    expiration_of,
    is_expired,
    replaces,
)
from negd.nostr.signing import Signer

alice, bob = Signer(b"\x01" * 32), Signer(b"\x02" * 32)


def test_kind_ranges_have_the_edges_of_nip01() -> None:
    assert [k for k in (0, 1, 2, 3, 4, 9999, 10000, 19999, 20000) if is_replaceable(k)] == [
        0,
        3,
        10000,
        19999,
    ]
    assert [k for k in (19999, 20000, 29999, 30000) if is_ephemeral(k)] == [20000, 29999]
    assert [k for k in (29999, 30000, 39999, 40000) if is_addressable(k)] == [30000, 39999]


def test_addresses() -> None:
    assert address_of(alice.sign(created_at=1, kind=1)) is None
    assert address_of(alice.sign(created_at=1, kind=0, tags=[["d", "x"]])) == Address(
        0, alice.pubkey, ""
    )
    listed = alice.sign(created_at=1, kind=30000, tags=[["d", "x"], ["d", "y"]])
    assert address_of(listed) == Address(30000, alice.pubkey, "x")
    for tags in ([], [["d"]], [["d", ""]]):
        assert address_of(alice.sign(created_at=1, kind=30000, tags=tags)) == Address(
            30000, alice.pubkey, ""
        )


def test_the_later_event_replaces_and_in_one_second_the_lower_id() -> None:
    old, new = alice.sign(created_at=1, kind=0), alice.sign(created_at=2, kind=0)
    assert replaces(new.record, old.record)
    assert not replaces(old.record, new.record)
    pair = [alice.sign(created_at=1, kind=0, content=text) for text in "ab"]
    low, high = sorted(pair, key=lambda event: event.id)
    assert replaces(low.record, high.record)
    assert not replaces(high.record, low.record)
    assert not replaces(low.record, low.record)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("100", 100),
        ("0", 0),
        ("", None),
        ("-1", None),
        ("1.5", None),
        ("٣", None),
        ("9" * 20, None),
    ],
)
def test_expiration(value: str, expected: int | None) -> None:
    event = alice.sign(created_at=1, tags=[["expiration", value]])
    assert expiration_of(event) == expected


def test_an_event_is_expired_from_its_second_on() -> None:
    event = alice.sign(created_at=1, tags=[["expiration", "100"]])
    assert not is_expired(event, 99.9)
    assert is_expired(event, 100)
    assert not is_expired(alice.sign(created_at=1), 10**12)


def test_a_deletion_names_ids_and_its_authors_own_addresses() -> None:
    victim = alice.sign(created_at=1)
    deletion = alice.sign(
        created_at=2,
        kind=5,
        tags=[
            ["e", victim.id],
            ["e", "short"],
            ["e", victim.id.upper()],
            ["e"],
            ["a", f"30000:{alice.pubkey}:name:with:colons"],
            ["a", f"0:{alice.pubkey}:"],
            ["a", f"0:{alice.pubkey}"],
            ["a", f"30000:{bob.pubkey}:x"],
            ["a", f"1:{alice.pubkey}:x"],
            ["a", "nonsense"],
        ],
    )
    found = deletions_of(deletion)
    assert found.ids == {victim.id_bytes}
    assert found.addresses == {
        Address(30000, alice.pubkey, "name:with:colons"),
        Address(0, alice.pubkey, ""),
    }


def test_other_kinds_delete_nothing() -> None:
    assert deletions_of(alice.sign(created_at=1, tags=[["e", "0" * 64]])).ids == frozenset()
