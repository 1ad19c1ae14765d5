"""The process that checks events for another: ``python -m negd.sync.checker``, a socket as stdin.

It is asked in JSON lines and answers in MessagePack with a list: for each line the event, filed, or
what is wrong with it.  Either way four bytes of length go first.  It holds nothing, imports little
(10 MB of memory of its own), and ends when the socket closes, however that came about.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Sequence
from contextlib import suppress
from socket import MSG_WAITALL, socket
from typing import TypeAlias

import msgspec

from negd.nostr.event import Event, InvalidEvent, check, decode
from negd.nostr.filing import Filing

Checked: TypeAlias = list[Filing | str]
"""Each of some events as a store takes it, or what is wrong with it, in words."""

_LENGTH = 4

_NICE = 5
"""By how much others go before: a reactor that waits for a processor answers nobody."""

_lines = msgspec.json.Encoder()
_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Checked)


def check_lines(text: bytes) -> Checked:
    """The event on each line, unless its structure, its id or its signature is wrong."""
    return [_checked(line) for line in text.split(b"\n")]


def _checked(line: bytes) -> Filing | str:
    try:
        return checked(decode(line))
    except InvalidEvent as error:
        return error.text


def checked(event: Event) -> Filing | str:
    """The event filed, unless its id or its signature is wrong."""
    fault = check(event)
    return Filing.of(event) if fault is None else fault


def lines_of(events: Sequence[Event]) -> bytes:
    """What :func:`check_lines` takes, for events that are decoded already."""
    return _lines.encode_lines(events).removesuffix(b"\n")


def ask(connection: socket, text: bytes) -> Checked:
    """Have lines checked at the other end.

    :raises OSError: nobody answered, in time where the socket has a timeout; or what came is no
        answer, as where the program was replaced by one of another release.
    """
    _send(connection, text)
    try:
        answer = _decoder.decode(_receive(connection))
    except msgspec.MsgspecError as error:
        raise ConnectionError(f"not an answer: {error}") from None
    if len(answer) != text.count(b"\n") + 1:
        raise ConnectionError(f"{len(answer)} answers, not one for each line")
    return answer


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
    with suppress(OSError):  # a sandbox may forbid it
        os.nice(_NICE)
    with socket(fileno=0) as connection:
        serve(connection)


if __name__ == "__main__":
    main()
