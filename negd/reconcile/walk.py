"""One message read and answered, range by range: the plain form, which :mod:`batch` must equal."""

from __future__ import annotations

from negd.errors import ProtocolViolation
from negd.reconcile.ids import Ids
from negd.reconcile.output import Output
from negd.reconcile.records import RecordSet
from negd.reconcile.wire import (
    END,
    FINGERPRINT,
    ID_LIST,
    ID_SIZE,
    Bound,
    read_ranges,
)


class Walk:
    """Goes through the ranges of one message, learns from id lists and writes the answer.

    :param answers_lists: whether ids are answered by ids, as a responder does.
    :ivar have: ids we hold and the other side lacks, as far as its lists tell.
    :ivar need: ids the other side holds and we lack.
    """

    def __init__(self, records: RecordSet, frame_limit: int, *, answers_lists: bool) -> None:
        self.records = records
        self.out = Output(records, frame_limit)
        self.have = Ids()
        self.need = Ids()
        self.answers_lists = answers_lists

    def run(self, message: bytes) -> None:
        """Read ``message``; what lies behind the point where the answer is full is not read.

        :raises ProtocolViolation: a range is not as the protocol has it.
        """
        lower = 0
        settled: Bound | None = None
        for bound, mode, payload in read_ranges(message):
            upper = self.records.find(*bound, lower)
            if mode == ID_LIST and self.answers_lists:
                upper = self.answer_list(lower, upper, bound, payload, settled)
                if self.out.exceeded():
                    return self.answer_rest(upper)
                settled = None
            elif mode == FINGERPRINT and payload != self.records.fingerprint(lower, upper):
                if not self.answer_fingerprint(lower, upper, bound, settled):
                    return self.answer_rest(upper)
                settled = None
            else:
                if mode == ID_LIST:
                    self.learn(lower, upper, upper, payload)
                settled = bound
            lower = upper
        return None

    def learn(self, lo: int, end: int, hi: int, payload: bytes) -> None:
        """Compare a list for lo..hi with our ids of lo..end, which are those we tell.

        What lies between is left for later: to learn all of it again from each answer that the
        frame cuts short would cost a multiple of the set.
        """
        theirs = {payload[at : at + ID_SIZE] for at in range(0, len(payload), ID_SIZE)}
        if len(theirs) * ID_SIZE != len(payload):
            raise ProtocolViolation("id listed twice in one range")
        unknown = theirs.copy()
        # Not as sets: to subtract a few from a million holds up all threads for 0.1 s.
        for event_id in self.records.each_id(lo, end):
            if event_id in theirs:
                unknown.discard(event_id)
            else:
                self.have.append(event_id)
        self.need.extend(unknown - self.records.held_ids(unknown, end, hi))

    def answer_list(
        self, lo: int, hi: int, upper: Bound, payload: bytes, settled: Bound | None
    ) -> int:
        """List our ids of the range, as many as the frame takes; the index where the list ends."""
        end = hi
        if self.out.room is not None:
            end = min(hi, lo + (self.out.room - self.out.size) // ID_SIZE + 1)
        self.learn(lo, end, hi, payload)
        if end < hi:
            first_left_out = self.records.record(end)
            upper = Bound(int.from_bytes(first_left_out[:8], "big"), first_left_out[8:])
        if settled is not None:
            self.out.skip(settled)
        self.out.id_list(lo, end, upper)
        return end

    def answer_rest(self, lo: int) -> None:
        """The frame is full: one fingerprint stands for all that is left."""
        self.out.fingerprint(lo, len(self.records), END)

    def answer_fingerprint(self, lo: int, hi: int, upper: Bound, settled: Bound | None) -> bool:
        """Split the range; False, and nothing is written, if the frame does not take it."""
        fork = self.out.fork()
        if settled is not None:
            fork.skip(settled)
        fork.split(lo, hi, upper)
        return self.out.take(fork)
