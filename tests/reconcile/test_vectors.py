"""The reference implementation's own transcripts, replayed from both sides, byte for byte."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import pytest

from negd.reconcile import Initiator, RecordSet, Responder, pack

VECTORS = Path(os.environ.get("NEGD_VECTORS", Path(__file__).parents[3] / "shared" / "vectors"))
CASES = sorted(VECTORS.glob("*.json"))

pytestmark = pytest.mark.skipif(not CASES, reason=f"no transcripts in {VECTORS}")


def record_sets(case: dict[str, Any]) -> tuple[RecordSet, RecordSet]:
    """The initiator's and the responder's records, as the transcripts' README defines them."""
    client: list[bytes] = []
    server: list[bytes] = []
    for i in range(case["records"]):
        event_id = hashlib.sha256(f"negd:{case['name']}:{i}".encode()).digest()
        e = hashlib.sha256(event_id).digest()
        record = pack(1700000000 + int.from_bytes(e[:8], "big") % case["span"], event_id)
        client_only = e[8] < case["client_only"]
        if client_only or e[8] >= case["client_only"] + case["server_only"]:
            client.append(record)
        if not client_only:
            server.append(record)
    return RecordSet.from_records(b"".join(client)), RecordSet.from_records(b"".join(server))


def digest(ids: set[bytes]) -> dict[str, Any]:
    text = "\n".join(sorted(i.hex() for i in ids))
    return {"count": len(ids), "sha256": hashlib.sha256(text.encode()).hexdigest()}


def assert_sent(message: bytes, sender: str, sent: dict[str, Any]) -> None:
    assert sent["from"] == sender
    if "hex" in sent:
        assert message.hex() == sent["hex"]
    assert len(message) == sent["bytes"]
    assert hashlib.sha256(message).hexdigest() == sent["sha256"]


@pytest.mark.parametrize("path", CASES, ids=lambda path: path.stem)
def test_both_sides_send_the_reference_bytes_and_learn_the_reference_ids(path: Path) -> None:
    case = json.loads(path.read_text())
    client, server = record_sets(case)
    assert (len(client), len(server)) == (case["client_records"], case["server_records"])
    initiator = Initiator(client, case["initiator_frame_limit"])
    responder = Responder(server, case["responder_frame_limit"])
    have: set[bytes] = set()
    need: set[bytes] = set()
    transcript = iter(case["messages"])
    message: bytes | None = initiator.initiate()
    while message is not None:
        assert_sent(message, "initiator", next(transcript))
        answer = responder.reconcile(message).reply
        assert answer is not None
        assert_sent(answer, "responder", next(transcript))
        step = initiator.reconcile(answer)
        have.update(step.have)
        need.update(step.need)
        message = step.reply
    assert next(transcript, None) is None
    assert digest(have) == case["have"]
    assert digest(need) == case["need"]
