"""The process that checks events for another: ``python -m negd.sync.checker``, a socket as stdin.

It is asked in JSON lines and answers with a JSON list: for each line what is wrong with the event,
or null.  Either way four bytes of length go first.  It holds nothing, imports little (10 MB of
memory of its own), and ends when the socket closes, however that came about.
"""

from __future__ import annotations

import signal
from collections.abc import Sequence
from contextlib import suppress
from socket import MSG_WAITALL, socket

import msgspec

from negd.nostr.event import Event, InvalidEvent, check, decode

Faults = list[str | None]
"""What is wrong with each of some events, in words; None where nothing is."""

_LENGTH = 4
_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(Faults)


def check_lines(text: bytes) -> Faults:
    """What is wrong with the event on each line: its structure, its id or its signature."""
    return [_fault(line) for line in text.split(b"\n")]


def _fault(line: bytes) -> str | None:
    try:
        return check(decode(line))
    except InvalidEvent as error:
        return error.text


def lines_of(events: Sequence[Event]) -> bytes:
    """What :func:`check_lines` takes, for events that are decoded already."""
    return _encoder.encode_lines(events).removesuffix(b"\n")


def ask(connection: socket, text: bytes) -> Faults:
    """Have lines checked at the other end.

    :raises OSError: nobody answered, in time where the socket has a timeout; or what came is no
        answer, as where the program was replaced by one of another release.
    """
    _send(connection, text)
    try:
        faults = _decoder.decode(_receive(connection))
    except msgspec.MsgspecError as error:
        raise ConnectionError(f"not an answer: {error}") from None
    if len(faults) != text.count(b"\n") + 1:
        raise ConnectionError(f"{len(faults)} answers, not one for each line")
    return faults


def serve(connection: socket) -> None:
    """Answer until the other end closes."""
    with suppress(ConnectionError):
        while True:
            _send(connection, _encoder.encode(check_lines(_receive(connection))))


def _send(connection: socket, data: bytes) -> None:
    connection.sendall(len(data).to_bytes(_LENGTH, "big"))
    connection.sendall(data)


def _receive(connection: socket) -> bytes:
    return _exactly(connection, int.from_bytes(_exactly(connection, _LENGTH), "big"))


def _exactly(connection: socket, size: int) -> bytes:
    parts = []
    while size:
        part = connection.recv(size, MSG_WAITALL)
        if not part:
            raise ConnectionError("the other end has closed")
        parts.append(part)
        size -= len(part)
    return b"".join(parts)


def main() -> None:
    """Serve on stdin. Signals that a whole group gets are its parent's business."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    with socket(fileno=0) as connection:
        serve(connection)


if __name__ == "__main__":
    main()
