"""The in-memory links keep the promises that the interfaces make."""

from __future__ import annotations

import pytest
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from zope.interface.verify import verifyObject

from negd.errors import PeerError
from negd.interfaces import IPeerDialer, IPeerLink, IPeerListener
from negd.nostr.filter import EVERYTHING
from negd.nostr.messages import (
    Delivered,
    Eose,
    Notice,
    Ok,
    encode_eose,
    encode_notice,
    encode_publish,
    encode_request,
)
from negd.nostr.signing import Signer
from negd.testing.links import (
    ConversationPeer,
    MemoryDialer,
    ScriptedPeer,
    drive,
    memory_backend,
    settle,
)
from negd.testing.listeners import RecordingListener

URL = "ws://peer.example/"


def _dialed(peer: ScriptedPeer) -> tuple[Clock, RecordingListener, IPeerLink]:
    clock, listener = Clock(), RecordingListener()
    link = drive(clock, MemoryDialer({URL: lambda: peer}, clock).dial(URL, listener))
    return clock, listener, link


def test_dialer_and_link_provide_their_interfaces() -> None:
    clock, _, link = _dialed(ScriptedPeer())
    verifyObject(IPeerLink, link)
    verifyObject(IPeerListener, RecordingListener())
    verifyObject(IPeerDialer, MemoryDialer({}, clock))


def test_an_answer_comes_decoded_and_never_within_send() -> None:
    clock, listener, link = _dialed(ScriptedPeer(lambda text: [encode_notice(text.decode())]))
    link.send(b"hello")
    assert listener.messages == []
    settle(clock)
    assert listener.messages == [Notice("hello")]


def test_what_is_no_message_is_told_as_unreadable() -> None:
    clock, listener, link = _dialed(ScriptedPeer(lambda _: [b"{}"]))
    link.send(b"hello")
    settle(clock)
    assert len(listener.complaints) == 1


def test_a_paused_link_delivers_nothing_until_it_is_resumed() -> None:
    clock, listener, link = _dialed(ScriptedPeer(lambda _: [encode_eose("a")]))
    link.pause()
    link.send(b"x")
    settle(clock)
    assert listener.messages == []
    link.resume()
    settle(clock)
    assert listener.messages == [Eose("a")]


def test_drained_waits_until_the_peer_has_everything() -> None:
    peer = ScriptedPeer()
    clock, _, link = _dialed(peer)
    link.send(b"x")
    drained = Deferred.fromCoroutine(link.drained())
    assert not drained.called
    settle(clock)
    assert drained.called
    assert peer.heard == [b"x"]


def test_the_end_is_told_once_to_both_after_what_was_under_way() -> None:
    peer = ScriptedPeer()
    clock, listener, link = _dialed(peer)
    peer.end.send(encode_eose("a"))
    peer.end.close("shutting down")
    link.close()
    settle(clock)
    link.send(b"too late")
    link.close()
    settle(clock)
    assert listener.messages == [Eose("a")]
    assert listener.reasons == ["shutting down"]
    assert peer.is_lost
    assert peer.heard == []


def test_nobody_there_and_a_refusal_are_peer_errors() -> None:
    clock = Clock()
    dialer = MemoryDialer({URL: PeerError("refused")}, clock)
    with pytest.raises(PeerError, match="refused"):
        drive(clock, dialer.dial(URL, RecordingListener()))
    with pytest.raises(PeerError, match="nobody"):
        drive(clock, dialer.dial("ws://other.example/", RecordingListener()))


def test_a_cancelled_dial_leaves_nothing_behind() -> None:
    clock = Clock()
    dial = Deferred.fromCoroutine(MemoryDialer({}, clock).dial(URL, RecordingListener()))
    dial.addErrback(lambda _: None)
    dial.cancel()
    assert clock.getDelayedCalls() == []


def test_a_peer_can_be_negd_itself() -> None:
    clock, listener = Clock(), RecordingListener()
    backend = memory_backend(clock)
    event = Signer(b"\x01" * 32).sign(created_at=1000)
    dialer = MemoryDialer({URL: lambda: ConversationPeer(backend)}, clock)
    link = drive(clock, dialer.dial(URL, listener))
    link.send(encode_publish(event.encode()))
    settle(clock)
    link.send(encode_request("a", [EVERYTHING]))
    settle(clock)
    assert listener.messages == [
        Ok(event.id, True, ""),
        Delivered("a", event, len(event.encode())),
        Eose("a"),
    ]
    link.close()
    settle(clock)
    assert listener.reasons == ["closed"]
