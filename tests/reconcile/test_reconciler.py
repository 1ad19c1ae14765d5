"""What two sides learn from each other, whatever they hold and however small their frames."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from negd.errors import ProtocolViolation
from negd.reconcile import Initiator, RecordSet, Responder, Step, UnsupportedVersion, pack
from negd.reconcile.wire import FINGERPRINT, ID_LIST, read_ranges


def event_id(dice: random.Random, alike: int) -> bytes:
    """An id whose first ``alike`` bytes are those of all others."""
    return bytes(alike) + dice.randbytes(32 - alike)


def records_of(count: int, seed: int, span: int = 1000, alike: int = 0) -> list[bytes]:
    dice = random.Random(seed)
    return [pack(1000 + dice.randrange(span), event_id(dice, alike)) for _ in range(count)]


def set_of(records: list[bytes]) -> RecordSet:
    return RecordSet.from_records(b"".join(records))


def run(
    ours: RecordSet, theirs: RecordSet, limits: tuple[int, int] = (0, 0)
) -> tuple[list[Step], list[Step]]:
    """A whole reconciliation: the steps of the initiator and those of the responder."""
    initiator, responder = Initiator(ours, limits[0]), Responder(theirs, limits[1])
    steps: list[Step] = []
    answers: list[Step] = []
    message: bytes | None = initiator.initiate()
    while message is not None:
        answers.append(responder.reconcile(message))
        assert answers[-1].reply is not None
        steps.append(initiator.reconcile(answers[-1].reply))
        message = steps[-1].reply
    return steps, answers


def learned(steps: list[Step]) -> tuple[set[bytes], set[bytes]]:
    return {i for s in steps for i in s.have}, {i for s in steps for i in s.need}


def ids(records: list[bytes]) -> set[bytes]:
    return {record[8:] for record in records}


LIMITS = st.sampled_from([0, 4096, 5000, 20000])


@settings(max_examples=80, deadline=None)
@given(
    st.tuples(*[st.integers(0, 2**32)] * 3),
    st.tuples(st.sampled_from([0, 1, 40, 1500]), st.integers(0, 300), st.integers(0, 300)),
    st.sampled_from([1, 3, 1000, 10**9]),
    st.sampled_from([0, 1, 24]),
    st.tuples(LIMITS, LIMITS),
)
def test_the_initiator_learns_exactly_the_difference(
    seeds: tuple[int, int, int],
    counts: tuple[int, int, int],
    span: int,
    alike: int,
    limits: tuple[int, int],
) -> None:
    both, left, right = (
        records_of(count, seed * 3 + which, span, alike)
        for which, (count, seed) in enumerate(zip(counts, seeds, strict=True))
    )
    ours, theirs = set_of(both + left), set_of(both + right)
    steps, answers = run(ours, theirs, limits)
    assert learned(steps) == (ids(left), ids(right))
    for limit, sent in zip(limits, (steps, answers), strict=True):
        assert all(len(step.reply or b"") <= limit for step in sent if limit)
    assert [step.complete for step in steps] == [False] * (len(steps) - 1) + [True]


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32), st.integers(0, 200), st.integers(0, 200), st.tuples(LIMITS, LIMITS))
def test_what_the_responder_learns_is_true_and_its_complete_is_the_last_word(
    seed: int, left_count: int, right_count: int, limits: tuple[int, int]
) -> None:
    both, left, right = (
        records_of(count, seed * 3 + which, 50)
        for which, count in enumerate((600, left_count, right_count))
    )
    steps, answers = run(set_of(both + left), set_of(both + right), limits)
    have, need = learned(answers)
    assert have <= ids(right)
    assert need <= ids(left)
    for step, answer in zip(steps, answers, strict=True):
        assert answer.complete == (FINGERPRINT not in modes(answer.reply))
        if answer.complete:
            assert step.complete


def modes(message: bytes | None) -> list[int]:
    return [mode for _, mode, _ in read_ranges(message or b"")]


def test_the_responder_tells_what_an_id_list_told_it() -> None:
    mine, yours, shared = (records_of(1, seed) for seed in (1, 2, 3))
    message = Initiator(set_of(yours + shared)).initiate()
    step = Responder(set_of(mine + shared)).reconcile(message)
    assert (step.have, step.need, step.complete) == ([mine[0][8:]], [yours[0][8:]], True)


def test_a_list_cut_at_the_frame_limit_tells_what_the_answer_tells() -> None:
    mine, yours, shared = records_of(900, 1), records_of(8, 2), records_of(8, 3)
    message = Initiator(set_of(yours + shared)).initiate()
    step = Responder(set_of(mine + shared), 4096).reconcile(message)
    assert step.reply is not None
    told = {i for _, mode, p in read_ranges(step.reply) if mode == ID_LIST for i in _ids(p)}
    assert set(step.have) == told - ids(shared)
    assert 100 < len(step.have) < 200
    assert set(step.need) == ids(yours)


def _ids(payload: bytes) -> list[bytes]:
    return [payload[at : at + 32] for at in range(0, len(payload), 32)]


def test_equal_sets_are_settled_by_the_first_answer() -> None:
    records = set_of(records_of(5000, 1))
    steps, answers = run(records, records)
    assert [step.reply for step in answers] == [b"\x61"]
    assert steps == [Step(None, [], [], complete=True)]
    assert answers[0].complete


@pytest.mark.parametrize("limit", [1, 4095, -1])
def test_a_frame_limit_too_small_to_work_with_is_refused(limit: int) -> None:
    with pytest.raises(ValueError, match="4096"):
        Initiator(RecordSet.EMPTY, limit)
    with pytest.raises(ValueError, match="4096"):
        Responder(RecordSet.EMPTY, limit)


class TestVersions:
    @pytest.mark.parametrize("version", [0x60, *range(0x62, 0x70)])
    def test_a_responder_answers_an_unknown_version_with_its_own(self, version: int) -> None:
        step = Responder(set_of(records_of(9, 1))).reconcile(bytes([version]) + b"whatever")
        assert step == Step(b"\x61", [], [], complete=False)

    @pytest.mark.parametrize("message", [b"", b"\x00", b"\x5f", b"\x70\x00", b"\xff"])
    def test_any_other_first_byte_is_an_error(self, message: bytes) -> None:
        with pytest.raises(ProtocolViolation):
            Responder(RecordSet.EMPTY).reconcile(message)
        initiator = Initiator(RecordSet.EMPTY)
        initiator.initiate()
        with pytest.raises(ProtocolViolation) as caught:
            initiator.reconcile(message)
        assert not isinstance(caught.value, UnsupportedVersion)

    @pytest.mark.parametrize("version", [0x60, 0x62, 0x6F])
    def test_an_initiator_is_told_of_another_version(self, version: int) -> None:
        initiator = Initiator(set_of(records_of(900, 1)))
        initiator.initiate()
        with pytest.raises(UnsupportedVersion) as caught:
            initiator.reconcile(bytes([version]))
        assert caught.value.version == version

    def test_our_version_alone_is_no_answer_to_ids(self) -> None:
        initiator = Initiator(set_of(records_of(9, 1)))
        initiator.initiate()
        with pytest.raises(UnsupportedVersion) as caught:
            initiator.reconcile(b"\x61")
        assert caught.value.version == 0x61

    def test_nor_to_ids_later_in_the_run(self) -> None:
        ours, theirs = records_of(1000, 1), records_of(1000, 2)
        initiator = Initiator(set_of(ours))
        reply = Responder(set_of(theirs)).reconcile(initiator.initiate()).reply
        assert initiator.reconcile(reply or b"").reply is not None
        with pytest.raises(UnsupportedVersion):
            initiator.reconcile(b"\x61")

    def test_it_ends_a_run_of_fingerprints(self) -> None:
        initiator = Initiator(set_of(records_of(900, 1)))
        initiator.initiate()
        assert initiator.reconcile(b"\x61").complete
