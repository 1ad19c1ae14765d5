"""Who is gone and who is only slow, by autobahn's pings under a Clock."""

from __future__ import annotations

from typing import Any, cast

import autobahn.websocket.protocol
import pytest
from autobahn.websocket import USES_NVX
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from txaio.tx import config as txaio_config

from negd.settings import EndpointSettings
from negd.testing.links import memory_backend
from negd.websocket.server import ClientConnection, ClientFactory

HANDSHAKE = (
    b"GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)


def frame(opcode: int, payload: bytes = b"", fin: bool = True) -> bytes:
    """A client's frame, masked with zeros."""
    return bytes([(0x80 if fin else 0) | opcode, 0x80 | len(payload)]) + bytes(4) + payload


class Transport(StringTransport):
    """Keeps the producer and lets a test play the full buffer."""

    aborted = False
    producer: Any

    def abortConnection(self) -> None:
        super().abortConnection()
        self.aborted = True

    def setTcpNoDelay(self, enabled: bool) -> None:
        pass


class Connected:
    """A client whose handshake is done, over memory."""

    def __init__(self, clock: Clock) -> None:
        settings = EndpointSettings(ping_interval=10, ping_timeout=10)
        factory = ClientFactory(memory_backend(clock, settings), clock)
        self.transport = Transport()
        # As the HTTP channel is, from which the connection is taken over.
        self.transport.registerProducer(object(), True)
        self.connection: Any = cast(Any, factory.buildProtocol(None))
        self.connection.makeConnection(self.transport)
        self.connection.dataReceived(HANDSHAKE)
        assert isinstance(self.connection, ClientConnection)
        assert self.connection.conversation is not None


@pytest.fixture
def clock() -> Any:
    """A clock that autobahn's timers follow too."""
    clock, timers = Clock(), cast(Any, txaio_config)
    installed, timers.loop = timers.loop, clock
    yield clock
    timers.loop = installed


def test_autobahns_native_helpers_are_in_use() -> None:
    assert USES_NVX
    used: Any = autobahn.websocket.protocol
    assert "nvx" in type(used.create_xor_masker(b"mask", 4096)).__module__
    assert "nvx" in used.Utf8Validator.__module__


def test_a_client_that_answers_no_ping_is_dropped(clock: Clock) -> None:
    client = Connected(clock)
    clock.pump([1] * 25)
    assert client.transport.aborted


def test_a_client_that_sends_anything_is_alive(clock: Clock) -> None:
    client = Connected(clock)
    for _ in range(10):
        clock.pump([1] * 9)
        client.connection.dataReceived(frame(1, b"[", fin=False)[:-1])
        client.connection.dataReceived(b"[")
        client.connection.dataReceived(frame(0, b"]"))
    assert not client.transport.aborted


def test_a_client_that_is_not_read_is_not_dropped_for_its_silence(clock: Clock) -> None:
    client = Connected(clock)
    client.connection.pause()
    clock.pump([1] * 100)
    assert not client.transport.aborted
    client.connection.resume()
    clock.pump([1] * 25)
    assert client.transport.aborted


def test_pings_of_a_client_that_does_not_read_are_not_answered(clock: Clock) -> None:
    client = Connected(clock)
    client.transport.clear()
    client.connection.dataReceived(frame(9, b"one"))
    assert b"one" in client.transport.value()
    client.transport.producer.pauseProducing()
    client.transport.clear()
    client.connection.dataReceived(frame(9, b"two"))
    assert client.transport.value() == b""
    client.transport.producer.resumeProducing()


def test_endless_fragments_end_the_connection(clock: Clock) -> None:
    client = Connected(clock)
    client.connection.dataReceived(frame(1, b"[", fin=False))
    for _ in range(60):
        client.connection.dataReceived(frame(0, b"", fin=False) * 1000)
    assert client.transport.aborted


def test_a_closed_connection_does_not_linger(clock: Clock) -> None:
    client = Connected(clock)
    client.connection.dataReceived(frame(8, b"\x03\xe8"))
    assert client.transport.disconnecting
    assert not client.transport.aborted
    clock.pump([1] * 11)
    assert client.transport.aborted
