"""Why ids stay different with one peer, so that they are not tried again at every sync.

Consulted before a fetch and a push; never left out of a fingerprint.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from negd.interfaces import IPeerBook, LedgerEntry, Residue
from negd.sync.node import Node
from negd.sync.refusals import asks_for_patience, asks_who_we_are, has_deleted_it

_WRITE_AT = 1000
_MOST_DOUBLINGS = 6
_MOST_REASONS = 20
_PATIENCE = 60.0
"""Seconds after which what came too fast for a peer is tried again."""
_SETTLED = 30 * 24 * 3600.0
"""Seconds until something is tried again that will not change."""

_STRUCK_OUT = 1000
"""Entries of each reason that a sync may drop."""

_MOST_MET = 100_000
"""Entries come upon in one run; beyond it none are struck out after it."""

_TIMES_AT_ONCE = 4
_LONGEST = 200
"""Characters kept of what was said."""


class Ledger:
    """One peer's ledger during one run; written to the peer book in few commits.

    A difference is tried again ``ledger_retry`` seconds after the first try in vain, and later
    each time.

    :param book: None where the peer is not listed: nothing is looked up or kept then.
    :param is_whole: whether the run is about all that is kept equal with the peer.
    :ivar write_at: how much is noted before it is written.
    :ivar reasons: what was said of the tries in vain of this run, the first so many texts, and
        how often.
    :ivar open: of these, what is known to differ still and has no ids.
    """

    def __init__(
        self, node: Node, book: IPeerBook | None, url: str, is_whole: bool = False
    ) -> None:
        self._store = node.store
        self._book = book
        self._url = url
        self._clock = node.clock
        self._retry = node.settings.ledger_retry
        self._retried: dict[bytes, LedgerEntry] = {}
        self._entries: dict[bytes, LedgerEntry] = {}
        self._settled: list[bytes] = []
        self._met: set[bytes] | None = set() if is_whole else None
        self._found: dict[bytes, LedgerEntry] = {}
        self.write_at = _WRITE_AT
        self.reasons: Counter[str] = Counter()
        self.open: Counter[str] = Counter()

    async def begin(self) -> None:
        """Look at what is there: what a tail notes from now on is not this run's to drop.

        :raises negd.errors.StorageError: it could not be read.
        """
        if self._book is None or self._met is None:
            return
        for residue in await self._book.residues(self._url):
            self._found.update(await self._book.entries(self._url, residue, _STRUCK_OUT))

    async def unexplained(self, ids: Sequence[bytes]) -> list[bytes]:
        """Those of the ids that are to be tried now, in order; also those that are being tried.

        :raises negd.errors.StorageError: it is not known which these are.
        """
        if self._book is None or not ids:
            return list(ids)
        entries = await self._book.ledger(self._url, ids)
        self._meet(entries)
        waiting = (await self._waiting(entries)).difference(self._retried)
        for event_id in entries.keys() - waiting:
            self._retried.setdefault(event_id, entries[event_id])
        return [event_id for event_id in ids if event_id not in waiting]

    async def _waiting(self, entries: Mapping[bytes, LedgerEntry]) -> set[bytes]:
        """Those whose time has not come, and that would still lose to what they lost to."""
        now = self._clock.seconds()
        waiting = {event_id for event_id, entry in entries.items() if entry.retry_at > now}
        winners = {i: bytes.fromhex(entries[i].lost_to) for i in waiting if entries[i].lost_to}
        if winners:
            held = await self._store.known(list(set(winners.values())))
            waiting -= {event_id for event_id, winner in winners.items() if winner not in held}
        return waiting

    def remark(self, text: str) -> None:
        """Something about differences that have no ids, for :attr:`reasons`."""
        if text in self.reasons or len(self.reasons) < _MOST_REASONS:
            self.reasons[text] += 1

    def leave_open(self, text: str) -> None:
        """As :meth:`remark`; whoever asks how the peer stands is to be told of it as well."""
        if text in self.open or len(self.open) < _MOST_REASONS:
            self.open[text] += 1
        self.remark(text)

    @property
    def is_kept(self) -> bool:
        """Whether what is noted is looked up at later syncs."""
        return self._book is not None

    def note(
        self,
        event_id: bytes,
        residue: Residue,
        text: str,
        *,
        is_settled: bool = False,
        lost_to: bytes = b"",
    ) -> None:
        """A try was in vain, and this is why.

        :param is_settled: whether a further try would be in vain as well.
        :param lost_to: the newer version that we hold: while we do, it would.
        """
        text = text[:_LONGEST]
        self.remark(text)
        if self._book is None:
            return
        earlier = self._retried.pop(event_id, None)
        tries = 1 if earlier is None else earlier.tries + 1
        first = min(self._retry, _PATIENCE) if asks_for_patience(text) else self._retry
        wait = _SETTLED if is_settled or lost_to else self._wait(tries, first)
        retry_at = self._clock.seconds() + wait
        self._enter(event_id, LedgerEntry(residue, text, tries, retry_at, lost_to.hex()))

    def _enter(self, event_id: bytes, entry: LedgerEntry) -> None:
        self._entries[event_id] = entry
        self._meet([event_id])

    def _meet(self, ids: Iterable[bytes]) -> None:
        """Remember what was come upon, or that it is too much to be remembered."""
        if self._met is not None:
            self._met.update(ids)
            if len(self._met) > _MOST_MET:
                self._met = None

    def _wait(self, tries: int, first: float) -> float:
        return first * float(2 ** min(tries - 1, _MOST_DOUBLINGS))

    def note_refusal(self, event_id: bytes, residue: Residue, text: str) -> None:
        """As :meth:`note`, for a peer's words; they may mean that it wants to know who we are."""
        why = Residue.AUTH_GATED if asks_who_we_are(text) else residue
        self.note(event_id, why, text, is_settled=has_deleted_it(text))

    def note_lost(self, event_id: bytes, residue: Residue, text: str) -> None:
        """The link has ended in the middle of a try; the event may be the reason, or not.

        It is tried again at once, then a few times by itself, and waits from then on.

        :param text: the same for all that may become of such a try.
        """
        if self._book is None:
            return
        times = self._times_lost(event_id, text) + 1
        wait = 0 if times <= _TIMES_AT_ONCE else self._wait(times - _TIMES_AT_ONCE, self._retry)
        retry_at = self._clock.seconds() + wait
        self._enter(event_id, LedgerEntry(residue, text, times, retry_at))

    def lost_again(self, ids: Sequence[bytes], text: str) -> dict[bytes, int]:
        """Those in the middle of whose tries a link has ended twice in a row or more; how often."""
        return {i: times for i in ids if (times := self._times_lost(i, text)) > 1}

    def _times_lost(self, event_id: bytes, text: str) -> int:
        """How often in a row a link has ended in the middle of a try of that event."""
        entry = self._retried.get(event_id)
        return entry.tries if entry is not None and entry.text == text else 0

    def withdraw(self, event_id: bytes, residue: Residue, text: str) -> None:
        """What was noted of a try of this run was said too soon: the try goes on."""
        if self.reasons[text] > 1:
            self.reasons[text] -= 1
        else:
            del self.reasons[text]
        if self._book is not None:
            noted = self._entries.pop(event_id, None) or LedgerEntry(residue, text, 1, 0)
            self._retried[event_id] = replace(noted, tries=noted.tries - 1)

    def settle(self, event_id: bytes) -> None:
        """The event has moved: nothing is left to explain."""
        if self._retried.pop(event_id, None) is not None:
            self._settled.append(event_id)

    async def write(self, at_least: int | None = None) -> None:
        """Hand what was noted to the peer book, once there is enough of it.

        :param at_least: how much that is, in place of :attr:`write_at`.
        :raises negd.errors.StorageError: it could not be written.
        """
        enough = max(1, self.write_at if at_least is None else at_least)
        if self._book is None or len(self._entries) + len(self._settled) < enough:
            return
        entries, self._entries = self._entries, {}
        settled, self._settled = self._settled, []
        await self._book.write_ledger(self._url, entries, settled)

    async def strike_out_the_rest(self) -> None:
        """Drop what a sync that has found all differences did not come upon: it is none any more.

        :raises negd.errors.StorageError: it could not be written.
        """
        if self._book is None or self._met is None:
            return
        left = [event_id for event_id in self._found if event_id not in self._met]
        entries = await self._book.ledger(self._url, left) if left else {}
        gone = [event_id for event_id, entry in entries.items() if entry == self._found[event_id]]
        if gone:
            await self._book.write_ledger(self._url, {}, gone)
