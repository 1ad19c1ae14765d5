"""Throws bytes at the reconciler: ``python tests/fuzz_reconcile.py [libFuzzer options]``.

Needs atheris (``pip install atheris``), which no other test does. Whatever the bytes, both forms
of the walk must come to the same end, and a refusal must be a ProtocolViolation; anything else is
a finding. The first byte chooses the set, the role and the frame limit; the rest is the message.
"""

from __future__ import annotations

import random
import sys
from pathlib import Path

import atheris  # type: ignore[import-untyped]

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

with atheris.instrument_imports(include=["negd.reconcile"]):
    from negd.errors import ProtocolViolation
    from negd.reconcile import RecordSet, pack
    from negd.reconcile.batch import BatchWalk
    from negd.reconcile.walk import Walk

LIMITS = (0, 4096)


def small_set(seed: int) -> RecordSet:
    dice = random.Random(seed)
    count, span, alike = ((0, 1, 1), (40, 2, 30), (200, 100, 0), (600, 3, 1))[seed]
    ids = (bytes(alike) + dice.randbytes(32 - alike) for _ in range(count))
    return RecordSet.from_records(b"".join(pack(dice.randrange(span), i) for i in ids))


SETS = [small_set(seed) for seed in range(4)]


def outcome(walk_class: type[Walk], choice: int, message: bytes) -> tuple[object, ...]:
    limit, answers = LIMITS[choice >> 3 & 1], bool(choice & 16)
    walk = walk_class(SETS[choice & 3], limit, answers_lists=answers)
    try:
        walk.run(message)
    except ProtocolViolation:
        return ("refused",)
    reply = walk.out.message()
    assert not limit or len(reply) <= limit
    return reply, sorted(walk.have), sorted(walk.need)


def test_one_input(data: bytes) -> None:
    if data:
        choice, message = data[0], b"\x61" + data[1:]
        assert outcome(BatchWalk, choice, message) == outcome(Walk, choice, message)


if __name__ == "__main__":
    atheris.Setup(sys.argv, test_one_input)
    atheris.Fuzz()
