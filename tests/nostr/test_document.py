"""Relay information documents (NIP-11) as they are found, well made or not."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from negd.nostr.document import RelayDocument, decode
from negd.settings import EndpointSettings, RelaySettings
from negd.web.nip11 import document


def decoded(fields: Any) -> RelayDocument | None:
    return decode(json.dumps(fields).encode())


def test_what_a_sync_can_use_is_read() -> None:
    found = decoded(
        {
            "name": "a relay",
            "software": "git+https://github.com/hoytech/strfry.git",
            "version": "1.0.4",
            "supported_nips": [77, 1, 2, 9, 1],
            "negentropy": 1,
            "limitation": {
                "max_limit": 500,
                "max_message_length": 131072,
                "max_subscriptions": 20,
                "auth_required": True,
                "payment_required": True,
            },
        }
    )
    assert found == RelayDocument(
        software="git+https://github.com/hoytech/strfry.git",
        version="1.0.4",
        supported_nips=(1, 2, 9, 77),
        max_message_length=131072,
        max_subscriptions=20,
        max_limit=500,
        auth_required=True,
        payment_required=True,
    )


def test_our_own_document_is_read() -> None:
    endpoint = EndpointSettings(max_subscriptions=7, max_message=5000)
    found = decoded(document(RelaySettings(), endpoint))
    assert found is not None
    assert (found.software, found.max_subscriptions, found.max_message_length) == ("negd", 7, 5000)
    assert 77 in found.supported_nips


@pytest.mark.parametrize("data", [b"", b"no json", b"[]", b'"text"', b"null", b"\xff", b'{"a":'])
def test_what_is_no_object_is_no_document(data: bytes) -> None:
    assert decode(data) is None


@pytest.mark.parametrize("odd", [None, 0, -1, 1.5, True, "500", [], {}, 10**30])
def test_a_limit_that_is_no_number_of_anything_is_left_out(odd: Any) -> None:
    names = ("max_limit", "max_message_length", "max_subscriptions")
    assert decoded({"limitation": dict.fromkeys(names, odd)}) == RelayDocument()


@pytest.mark.parametrize("odd", [None, 5, "text", [1, "50", 9.5, -3, True, None]])
def test_fields_of_another_type_are_left_out(odd: Any) -> None:
    found = decoded({"software": [odd], "supported_nips": odd, "limitation": odd})
    assert found == RelayDocument(supported_nips=(1,) if isinstance(odd, list) else ())


def test_a_document_is_kept_small_and_printable() -> None:
    found = decoded({"software": "x\n\x1b" + "y" * 10_000, "supported_nips": list(range(10_000))})
    assert found is not None
    assert found.software.startswith("x??y")
    assert len(msgspec.json.encode(found)) < 2000


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)
names = st.sampled_from(["software", "version", "supported_nips", "limitation", "max_limit"])


@given(st.dictionaries(names, json_values | st.dictionaries(names, json_values)) | json_values)
def test_no_json_is_too_odd(fields: Any) -> None:
    found = decoded(fields)
    assert found is None or msgspec.convert(msgspec.to_builtins(found), RelayDocument) == found


@given(st.binary())
def test_no_octets_are_too_odd(data: bytes) -> None:
    decode(data)
