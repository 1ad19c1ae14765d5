"""Speaks the line protocol of the reference's test suite (hoytech/negentropy, test/) with negd.

In: ``item,<created_at>,<hex id>``, ``seal``, ``initiate``, ``msg,<hex>``. Out, as an initiator:
``have,<hex id>`` and ``need,<hex id>``, each id once, then ``msg,<hex>`` or ``done``; as a
responder ``msg,<hex>``. The environment variable FRAMESIZELIMIT sets the frame limit in bytes.
Anything wrong ends the process with one line on stderr and exit status 1.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from negd.errors import NegdError
from negd.reconcile import Initiator, RecordSet, Responder, pack


class Harness:
    """One side of one reconciliation: lines in, lines out."""

    def __init__(self, frame_limit: int) -> None:
        self._frame_limit = frame_limit
        self._items: list[bytes] = []
        self._records: RecordSet | None = None
        self._initiator: Initiator | None = None
        self._responder = Responder(RecordSet.EMPTY, frame_limit)
        self._told: set[str] = set()

    def answer(self, line: str) -> list[str]:
        """The lines that answer ``line``.

        :raises ValueError: it is not a line of the protocol, or comes out of order.
        :raises NegdError: the message in it is refused.
        """
        command, *fields = line.split(",")
        match command, fields:
            case "item", [created_at, event_id] if self._records is None:
                self._items.append(pack(int(created_at), bytes.fromhex(event_id)))
                return []
            case "seal", [] if self._records is None:
                self._records = RecordSet.from_records(b"".join(self._items))
                self._responder = Responder(self._records, self._frame_limit)
                return []
            case "initiate", [] if self._records is not None and self._initiator is None:
                self._initiator = Initiator(self._records, self._frame_limit)
                return [f"msg,{self._initiator.initiate().hex()}"]
            case "msg", [message] if self._records is not None:
                return self._reconcile(bytes.fromhex(message))
        raise ValueError(f"unexpected line {line[:80]!r}")

    def _reconcile(self, message: bytes) -> list[str]:
        if self._initiator is None:
            step = self._responder.reconcile(message)
            return [f"msg,{step.reply.hex() if step.reply else ''}"]
        step = self._initiator.reconcile(message)
        learned = [f"have,{i.hex()}" for i in step.have] + [f"need,{i.hex()}" for i in step.need]
        news = [line for line in learned if line not in self._told]
        self._told.update(news)
        return [*news, "done" if step.reply is None else f"msg,{step.reply.hex()}"]


def run(lines: Iterable[str]) -> None:
    """Answer ``lines`` on stdout, flushing after each."""
    harness = Harness(int(os.environ.get("FRAMESIZELIMIT") or 0))
    for line in lines:
        if line := line.strip():
            answer = harness.answer(line)
            if answer:
                print(*answer, sep="\n", flush=True)


if __name__ == "__main__":
    try:
        run(sys.stdin)
    except (ValueError, NegdError) as error:
        sys.exit(f"harness: {error}")
