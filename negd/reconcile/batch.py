"""One message read and answered, its ranges many at a time: :class:`Walk`, made fast."""

from __future__ import annotations

import numpy as np

from negd.reconcile.arrays import Indices, Mask, as_keys
from negd.reconcile.blocks import Block, BlockReader
from negd.reconcile.compare import match
from negd.reconcile.layout import encode, id_rows, lay_out
from negd.reconcile.walk import Walk
from negd.reconcile.wire import FINGERPRINT, FINGERPRINT_SIZE, ID_LIST, ID_SIZE

_BLOCK = 4096
"""Ranges read at a time: what bounds the memory in use beside message and answer."""

_ANSWER = 16 * 29
"""Bytes that answer a fingerprint which differs, about."""

_FEWEST = 32
"""A block has its price, however few its ranges."""


class BatchWalk(Walk):
    """Writes the same bytes as :class:`Walk` and learns the same ids."""

    def run(self, message: bytes) -> None:
        reader = BlockReader(message)
        lower, settled, read = 0, False, 0
        while reader.more and len(block := reader.read(self._ahead(read))):
            read += len(block)
            found = self.records.find_many(as_keys(block.bounds[1:]))
            edges = np.concatenate(([lower], found))
            speaking = self._speaking(message, block, edges)
            spoken = np.flatnonzero(speaking)
            after_skip = np.concatenate(([settled], ~speaking[:-1]))[spoken]
            answered = self._answer(block, edges, spoken, after_skip)
            if answered < len(spoken):
                stop = int(spoken[answered])
                self._learn(message, block, edges, stop)
                return self._fill(message, block, edges, stop, bool(after_skip[answered]))
            self._learn(message, block, edges, len(block))
            lower, settled = int(edges[-1]), not speaking[-1]
        if reader.fault is not None:
            raise reader.fault
        return None

    def _ahead(self, read: int) -> int:
        """How many ranges to read next: about as many as fill the frame, going by those read."""
        if self.out.room is None:
            return _BLOCK
        left = self.out.room - self.out.size
        each = self.out.size // read if read else _ANSWER
        return min(_BLOCK, left // max(each, 1) + _FEWEST)

    def _speaking(self, message: bytes, block: Block, edges: Indices) -> Mask:
        """Which ranges are answered: fingerprints unlike ours, and lists if we answer them."""
        speaking: Mask = (block.modes == ID_LIST) & self.answers_lists
        which = np.flatnonzero(block.modes == FINGERPRINT)
        if len(which):
            # A view of the 16 bytes at every place of the message, to take those of payloads from.
            count, form = len(message) - FINGERPRINT_SIZE + 1, f"V{FINGERPRINT_SIZE}"
            anywhere = np.ndarray(count, form, message, strides=(1,))
            theirs = anywhere[block.payloads[which, 0]].view(np.uint64).reshape(-1, 2)
            ours = self.records.fingerprints(edges[which], edges[which + 1]).view(np.uint64)
            speaking[which] = (ours != theirs).any(axis=1)
        return speaking

    def _answer(self, block: Block, edges: Indices, spoken: Indices, after_skip: Mask) -> int:
        """Write answers as long as the frame takes them whole; how many it took."""
        if not len(spoken):
            return 0
        layout, ends = lay_out(
            self.records, block, edges, spoken, after_skip, self.out.last_timestamp
        )
        taken = len(spoken)
        if self.out.room is not None:
            filled = self.out.size + np.cumsum(layout.sizes())[ends - 1]
            taken = int(np.searchsorted(filled, self.out.room, side="right"))
        if taken:
            layout = layout.head(int(ends[taken - 1]))
            self.out.append(encode(self.records, layout))
            self.out.last_timestamp = layout.last_timestamp()
            self.out.has_fingerprint |= bool((layout.modes == FINGERPRINT).any())
            self.out.has_id_list |= bool((layout.modes == ID_LIST).any())
        return taken

    def _fill(
        self, message: bytes, block: Block, edges: Indices, index: int, after_skip: bool
    ) -> None:
        """Range ``index`` does not fit: list what ids of it do, and let one fingerprint end it."""
        lo, hi = int(edges[index]), int(edges[index + 1])
        if block.modes[index] == ID_LIST:
            begin, end = block.payloads[index].tolist()
            settled = block.bound(index) if after_skip else None
            hi = self.answer_list(lo, hi, block.bound(index + 1), message[begin:end], settled)
        self.answer_rest(hi)

    def _learn(self, message: bytes, block: Block, edges: Indices, count: int) -> None:
        """Compare the lists among the first ``count`` ranges with our ids."""
        lists = np.flatnonzero(block.modes[:count] == ID_LIST)
        if not len(lists):
            return
        los, his = edges[lists], edges[lists + 1]
        places = block.payloads[lists]
        payloads = [message[begin:end] for begin, end in places.tolist()]
        theirs = np.frombuffer(b"".join(payloads), np.uint8).reshape(-1, ID_SIZE)
        their_lists = np.repeat(lists, (places[:, 1] - places[:, 0]) // ID_SIZE)
        ours = id_rows(self.records, los, his)
        matched = match(ours, np.repeat(lists, his - los), theirs, their_lists)
        if matched is None:
            for lo, hi, payload in zip(los.tolist(), his.tolist(), payloads, strict=True):
                self.learn(lo, hi, hi, payload)
            return
        self.have.add_rows(ours, ~matched[0])
        self.need.add_rows(theirs, ~matched[1])
