"""The arrays of the socket: what is read, what is written, how bad ones are answered."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from negd.nostr import messages as m
from negd.nostr.filter import EVERYTHING, Filter
from negd.nostr.signing import Signer
from negd.nostr.words import printable

event = Signer(b"\x01" * 32).sign(created_at=1, content="é\u2028")
names = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=64)
words = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)


@given(names, st.binary(max_size=100), words)
def test_what_a_client_sends_is_read_back(name: str, message: bytes, text: str) -> None:
    wanted = Filter.build(kinds=[1], tags={"t": [text]})
    assert m.decode_client(m.encode_publish(event.encode())) == m.Publish(event)
    assert m.decode_client(m.encode_request(name, [wanted, EVERYTHING])) == m.Request(
        name, (wanted, EVERYTHING)
    )
    assert m.decode_client(m.encode_close(name)) == m.Close(name)
    assert m.decode_client(m.encode_auth(event)) == m.Auth(event)
    assert m.decode_client(m.encode_neg_open(name, wanted, message)) == m.NegOpen(
        name, wanted, message
    )
    assert m.decode_client(m.encode_neg_msg(name, message)) == m.NegMsg(name, message)
    assert m.decode_client(m.encode_neg_close(name)) == m.NegClose(name)


@given(names, st.binary(max_size=100), words, st.booleans())
def test_what_a_relay_sends_is_read_back(
    name: str, message: bytes, said: str, accepted: bool
) -> None:
    text = printable(said)
    assert m.decode_relay(m.encode_delivered(name, event.encode())) == m.Delivered(
        name, event, len(event.encode())
    )
    assert m.decode_relay(m.encode_ok(event.id, accepted, text)) == m.Ok(event.id, accepted, text)
    assert m.decode_relay(m.encode_eose(name)) == m.Eose(name)
    assert m.decode_relay(m.encode_closed(name, text)) == m.Closed(name, text)
    assert m.decode_relay(m.encode_notice(text)) == m.Notice(text)
    assert m.decode_relay(m.encode_neg_msg(name, message)) == m.NegMsg(name, message)
    assert m.decode_relay(m.encode_neg_err(name, text)) == m.NegErr(name, text)
    assert m.decode_relay(m.encode_neg_err(name, text, 5)) == m.NegErr(name, text, 5)


def test_plain_utf8_and_no_escapes_where_none_are_needed() -> None:
    assert "é\u2028".encode() in m.encode_publish(event.encode())


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("", ["NOTICE", "invalid: message is not a JSON array"]),
        ("{}", ["NOTICE", "invalid: message is not a JSON array"]),
        ("[]", ["NOTICE", "invalid: message is an empty array"]),
        ("[1]", ["NOTICE", "invalid: message does not begin with a label"]),
        ('["WHAT"]', ["NOTICE", "invalid: unknown message 'WHAT'"]),
        ('["EVENT"]', ["NOTICE", "invalid: EVENT has too few elements"]),
        ('["EVENT",{"id":"xy"}]', ["NOTICE", "invalid: not an event"]),
        ('["EVENT",{"id":"' + "a" * 64 + '"}]', ["OK", "a" * 64, False, "invalid: not an event"]),
        ('["EVENT",{"id":"' + "A" * 64 + '"}]', ["OK", "A" * 64, False, "invalid: not an event"]),
        ('["REQ","s"]', ["CLOSED", "s", "invalid: REQ has no filter"]),
        ('["REQ","s",{"x":1}]', ["CLOSED", "s", "invalid: unknown filter field 'x'"]),
        ('["REQ","",{}]', ["NOTICE", "invalid: subscription id is not"]),
        ('["REQ","' + "s" * 65 + '",{}]', ["NOTICE", "invalid: subscription id is not"]),
        ('["REQ",5,{}]', ["NOTICE", "invalid: REQ cannot be read"]),
        ('["NEG-OPEN","s",{}]', ["NEG-ERR", "s", "invalid: NEG-OPEN has too few elements"]),
        ('["NEG-OPEN","s",{},"6"]', ["NEG-ERR", "s", "invalid: negentropy message is not hex"]),
        ('["NEG-OPEN","s",{},"6 1"]', ["NEG-ERR", "s", "invalid: negentropy message is not hex"]),
        ('["NEG-OPEN","s",{},16,"61"]', ["NEG-ERR", "s", "invalid: NEG-OPEN of an old draft"]),
        ('["NEG-MSG","s",1]', ["NEG-ERR", "s", "invalid: negentropy message is not hex"]),
        ('["NEG-CLOSE"]', ["NOTICE", "invalid: NEG-CLOSE has too few elements"]),
    ],
)
def test_a_bad_message_is_answered_in_its_own_form(text: str, answer: list[object]) -> None:
    with pytest.raises(m.InvalidMessage) as caught:
        m.decode_client(text)
    got = json.loads(m.encode_refusal(caught.value))
    assert got[:-1] == answer[:-1]
    assert got[-1].startswith(answer[-1])


@given(st.text(max_size=60) | st.binary(max_size=60))
def test_no_message_raises_anything_else(text: str | bytes) -> None:
    for decode in (m.decode_client, m.decode_relay):
        try:
            decode(text)
        except m.InvalidMessage:
            pass


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
)
LABELS = ["EVENT", "REQ", "CLOSE", "AUTH", "OK", "EOSE", "CLOSED", "NOTICE"]
LABELS += ["NEG-OPEN", "NEG-MSG", "NEG-CLOSE", "NEG-ERR"]


@given(st.sampled_from(LABELS), st.lists(json_values, max_size=4))
def test_known_labels_with_any_elements_are_read_or_refused(
    label: str, elements: list[object]
) -> None:
    text = json.dumps([label, *elements])
    for decode in (m.decode_client, m.decode_relay):
        try:
            decode(text)
        except m.InvalidMessage as error:
            json.loads(m.encode_refusal(error))


def test_odd_servers_are_understood() -> None:
    assert m.decode_relay('["NEG-ERROR","s","x"]') == m.NegErr("s", "x")
    assert m.decode_relay('["NEG-ERR","","CLOSED"]') == m.NegErr("", "CLOSED")
    assert m.decode_relay('["NEG-ERR","s","x",18446744073709551616]') == m.NegErr("s", "x")
    assert m.decode_relay('["NEG-ERR","s","blocked: x","many"]') == m.NegErr("s", "blocked: x")
    assert m.decode_relay('["NEG-ERR","s"]') == m.NegErr("s", "")
    assert m.decode_relay('["CLOSED","s"]') == m.Closed("s", "")
    assert m.decode_relay('["OK","x",true]') == m.Ok("x", True, "")
    assert m.decode_relay('["OK","x",false,null]') == m.Ok("x", False, "")
    assert m.decode_relay('["CLOSED","s",null]') == m.Closed("s", "")
    assert m.decode_relay('["NEG-ERR","s",null,7]') == m.NegErr("s", "", 7)
    assert m.decode_relay('["NOTICE",null]') == m.Notice("")
    assert m.decode_relay('["COUNT","s",{}]') == m.Unrecognised("COUNT")


@pytest.mark.parametrize(
    "begin", [["CLOSED", "s"], ["NOTICE"], ["OK", event.id, False], ["NEG-ERR", "s"]]
)
def test_what_a_relay_says_for_people_is_cut_and_printable(begin: list[object]) -> None:
    said = "auth-required: \x1b[31mred\n2026-01-01 forged " + "x" * 100_000
    told = m.decode_relay(json.dumps([*begin, said]))
    assert isinstance(told, m.Closed | m.Notice | m.Ok | m.NegErr)
    assert told.text.startswith("auth-required: ?[31mred?2026-01-01 forged xxx")
    assert told.text.isprintable()
    assert len(told.text) == 200


def test_a_relay_cannot_have_itself_quoted_in_a_complaint() -> None:
    for label in LABELS:
        for said in ("\x1b\n" * 10_000, {"\x1b\n" * 10_000: 1}, [{"id": "\x1b" * 10_000}], 1.5):
            text = json.dumps([label, said, said, said])
            try:
                m.decode_relay(text)
            except m.InvalidMessage as error:
                assert error.text.isprintable()
                assert len(error.text) < 200
