"""Why ids stay different with one peer, so that they are not tried again at every sync.

Consulted before a fetch and a push; never left out of a fingerprint.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace

from twisted.internet.interfaces import IReactorTime

from negd.interfaces import IPeerBook, LedgerEntry, Residue
from negd.sync.refusals import asks_for_patience, asks_who_we_are

_WRITE_AT = 1000
_MOST_DOUBLINGS = 6
_MOST_REASONS = 20
_PATIENCE = 60.0
"""Seconds after which what came too fast for a peer is tried again."""
_SETTLED = 30 * 24 * 3600.0
"""Seconds until something is tried again that will not change."""

_STRUCK_OUT = 1000
"""Entries of each reason that are looked at after a sync."""

_MOST_MET = 100_000
"""Entries come upon in one run; beyond it none are struck out after it."""

_TIMES_AT_ONCE = 4
_LOST = "the link ended before an OK came"
_LONGEST = 200
"""Characters kept of what was said."""


class Ledger:
    """One peer's ledger during one run; written to the peer book in few commits.

    :param book: None where the peer is not listed: nothing is looked up or kept then.
    :param is_whole: whether the run is about all that is kept equal with the peer.
    :param retry: seconds after which a difference is tried again, doubled by every try in vain.
    :ivar reasons: what was said of the tries in vain of this run, the first so many texts, and
        how often.
    """

    def __init__(
        self,
        book: IPeerBook | None,
        url: str,
        clock: IReactorTime,
        retry: float,
        is_whole: bool = False,
    ) -> None:
        self._book = book
        self._url = url
        self._clock = clock
        self._retry = retry
        self._retried: dict[bytes, LedgerEntry] = {}
        self._entries: dict[bytes, LedgerEntry] = {}
        self._settled: list[bytes] = []
        self._met: set[bytes] | None = set() if is_whole else None
        self.reasons: Counter[str] = Counter()

    async def unexplained(self, ids: Sequence[bytes]) -> list[bytes]:
        """Those of the ids that are to be tried now, in order."""
        if self._book is None or not ids:
            return list(ids)
        entries = await self._book.ledger(self._url, ids)
        self._meet(entries)
        now = self._clock.seconds()
        self._retried.update(
            (event_id, entry) for event_id, entry in entries.items() if entry.retry_at <= now
        )
        return [i for i in ids if i not in entries or entries[i].retry_at <= now]

    def remark(self, text: str) -> None:
        """Something about differences that have no ids, for :attr:`reasons`."""
        if text in self.reasons or len(self.reasons) < _MOST_REASONS:
            self.reasons[text] += 1

    def note(
        self, event_id: bytes, residue: Residue, text: str, *, is_settled: bool = False
    ) -> None:
        """A try was in vain, and this is why.

        :param is_settled: whether a further try would be in vain as well.
        """
        text = text[:_LONGEST]
        self.remark(text)
        if self._book is None:
            return
        earlier = self._retried.pop(event_id, None)
        tries = 1 if earlier is None else earlier.tries + 1
        first = min(self._retry, _PATIENCE) if asks_for_patience(text) else self._retry
        wait = _SETTLED if is_settled else self._wait(tries, first)
        self._enter(event_id, LedgerEntry(residue, text, tries, self._clock.seconds() + wait))

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
        self.note(event_id, Residue.AUTH_GATED if asks_who_we_are(text) else residue, text)

    def note_lost(self, event_id: bytes) -> None:
        """The link has ended before an event was answered; it may be the reason, or not.

        It is tried again at once, then a few times by itself, and waits from then on.
        """
        if self._book is None:
            return
        times = self.times_lost(event_id) + 1
        wait = 0 if times <= _TIMES_AT_ONCE else self._wait(times - _TIMES_AT_ONCE, self._retry)
        retry_at = self._clock.seconds() + wait
        self._enter(event_id, LedgerEntry(Residue.THEIRS_REJECTED, _LOST, times, retry_at))

    def times_lost(self, event_id: bytes) -> int:
        """How often in a row a link has ended before that event, which is tried, was answered."""
        entry = self._retried.get(event_id)
        return entry.tries if entry is not None and entry.text == _LOST else 0

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

    async def write(self, at_least: int = _WRITE_AT) -> None:
        """Hand what was noted to the peer book, once there is enough of it.

        :raises negd.errors.StorageError: it could not be written.
        """
        if self._book is None or len(self._entries) + len(self._settled) < max(at_least, 1):
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
        for residue in await self._book.residues(self._url):
            entries = await self._book.entries(self._url, residue, _STRUCK_OUT)
            gone = [event_id for event_id in entries if event_id not in self._met]
            if gone:
                await self._book.write_ledger(self._url, {}, gone)
