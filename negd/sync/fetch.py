"""Fetching events by their ids, several REQs in flight."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection

from negd.errors import PeerError
from negd.interfaces import Residue
from negd.nostr.filter import Filter
from negd.sync.arrivals import Arrivals
from negd.sync.contact import Contact
from negd.sync.dialogue import Silence
from negd.sync.differences import Differences
from negd.sync.ledger import Ledger
from negd.sync.node import Node
from negd.sync.refusals import asks_for_less, asks_for_patience, is_about_number, limit_in
from negd.sync.request import Answer, Requests
from negd.sync.suspects import Suspects
from negd.sync.together import together

_MOST_TRIES = 3
"""REQs that may be refused for an id before it counts as unfetchable."""

_SMALLEST_CAP = 5
"""Events that any peer returns to a REQ, if it has them."""

_MOST_SAME = 3
"""REQs in a row that may bring the same number of events, and not all that were asked for."""

_MOST_OF_CUT = 4
"""Times as many events as are missing: with more, it is a few ids that are not served."""

_LEAST_AFTER_SILENCE = 20
"""Ids that a peer may be asked for which has not answered a REQ for more."""

_MOST_SILENCES = 8
"""REQs in a row without an answer after which the peer is silent, and not about some ids."""

_MOST_IN_VAIN = 10_000
"""Ids in a row that a peer may list and not return: one that makes them up has no end of them."""

_LARGEST = 4 << 20
"""Bytes of an answer from which on the rest is asked for again, in smaller parts."""

_PATIENT_TRIES = 8
"""As many where it is asked for too much at a time: for a minute and a half."""

_PAUSE = 1.0
_LONGEST_PAUSE = 30.0
"""Seconds to let a peer be that refused a REQ: it may have too many of them open. Doubled after
each further refusal of an id."""

_LOST, _UNANSWERED = "the link ended before it came", "no answer to a REQ for it"


class Fetch:
    """Takes needed ids until there are no more, and has their events stored.

    Each of the batches in flight waits for its events to be stored before it asks for more: a
    slow store slows the asking, and memory holds no more than the batches in flight.  A peer
    that returns only so many events is asked for so many, and one that refuses a REQ has fewer
    of them open.

    A single event can be what a peer falls silent or hangs up over, or what we cannot read: ids of
    which that may be so are :class:`Suspects`.

    :param cap: events the peer is known to return to a REQ at most; None where none is known.
    :param in_flight: REQs it is known to let be open at a time; None where no limit is known.
    :param moved: told of counts to add to the progress, by :class:`SyncProgress`'s names.
    :ivar cap: as given, or as found since.
    :ivar in_flight: as found; where nothing was refused one more than given, as a peer's
        refusals may have been for the moment only.
    """

    def __init__(
        self,
        peer: Contact,
        needs: Differences,
        arrivals: Arrivals,
        ledger: Ledger,
        node: Node,
        cap: int | None,
        in_flight: int | None,
        moved: Callable[..., None],
    ) -> None:
        self._peer = peer
        self._requests = Requests(peer, node.settings.answer, _LARGEST)
        self._needs = needs
        self._arrivals = arrivals
        self._ledger = ledger
        self._settings = node.settings
        self.cap = cap
        self.in_flight = in_flight
        self._moved = moved
        self._open_lanes = self._asking = 0
        self._returned = self._same = 0
        self._tries: Counter[bytes] = Counter()
        self._suspects = Suspects()
        self._fewer = node.settings.fetch_batch
        self._most_answered = self._silences = self._in_vain = 0

    async def run(self) -> None:
        """Fetch until the needs are finished and none is left.

        :raises negd.errors.PeerError: the peer fell silent or the link is lost.
        :raises negd.errors.StorageError: events could not be stored.
        """
        most = self._settings.fetch_in_flight
        lanes = self._welcome_lanes = min(most, self.in_flight or most)
        try:
            await together(*(self._lane() for _ in range(lanes)))
            while self._suspects:
                await self._fetch(self._suspects.take())
                await self._lane()  # for what was put back
            self._give_up(self._suspects.sentence(), _UNANSWERED)
        finally:
            if self._welcome_lanes < lanes:
                self.in_flight = self._welcome_lanes
            elif self.in_flight is not None:
                self.in_flight = lanes + 1 if lanes < most else None

    async def _lane(self) -> None:
        """One REQ after another, until all is fetched or the peer has too many of them open."""
        self._open_lanes += 1
        is_welcome = True
        # The last lane stays, refused or not: somebody must ask for what was put back.
        while is_welcome or self._open_lanes == 1:
            ids = await self._needs.take(self._batch())
            if not ids:
                break
            wanted = await self._ledger.unexplained(ids)
            if len(wanted) < len(ids):
                self._moved(explained=len(ids) - len(wanted))
            wanted = self._without_suspects(wanted)
            if wanted:
                is_welcome = await self._fetch(wanted)
        self._open_lanes -= 1
        if not is_welcome and self._open_lanes:
            self._welcome_lanes -= 1

    def _batch(self) -> int:
        most = self._settings.fetch_batch
        return min(most, self.cap or most, self._fewer)

    def _without_suspects(self, ids: list[bytes]) -> list[bytes]:
        """Those to be asked for now: not those over which the link may have ended before."""
        times = self._ledger.lost_again(ids, _LOST)
        self._suspects.set_aside(times)
        return [i for i in ids if i not in times] if times else ids

    async def _fetch(self, ids: list[bytes]) -> bool:
        """One REQ; false where the peer refused one more."""
        asked = set(ids)
        self._asking += 1
        try:
            answer = await self._requests.ask(
                Filter.build(ids=ids), lambda event: event.id_bytes in asked, len(ids)
            )
        finally:
            self._asking -= 1
        missing = [event_id for event_id in ids if event_id not in answer.events]
        if self._peer.dialogue.is_lost:
            for event_id in missing:
                self._ledger.note_lost(event_id, Residue.UNFETCHABLE, _LOST)
        if answer.events:
            self._in_vain = 0
            for event_id in self._tries.keys() & answer.events.keys():
                del self._tries[event_id]
        await self._arrivals.take(answer.events)
        missing = self._without_spoilt(missing)
        if isinstance(answer.failure, Silence):
            self._wonder(answer.failure, ids, missing)
            return True
        if answer.failure is not None:
            raise answer.failure
        self._heard(len(ids))
        return await self._follow_up(ids, answer, missing)

    def _without_spoilt(self, ids: list[bytes]) -> list[bytes]:
        """Those worth asking for again: not those that cannot be read, for the second time."""
        spoilt = self._peer.dialogue.spoilt
        again = {i for i in ids if i in spoilt and self._tries[i]} if spoilt else set[bytes]()
        self._give_up(again, "cannot be read")
        return [event_id for event_id in ids if event_id not in again] if again else ids

    async def _follow_up(self, ids: list[bytes], answer: Answer, missing: list[bytes]) -> bool:
        """Do what is to be done about what an answer did not bring."""
        if answer.is_cut:
            self._fewer = len(answer.events)
            self._needs.put_back(missing)
            return True
        self._fewer = min(2 * self._fewer, self._settings.fetch_batch)
        if answer.refusal is None:
            await self._miss(missing, len(answer.events))
            return True
        if len(ids) > 1 and asks_for_less(answer.refusal):
            self._ask_for_less(min(limit_in(answer.refusal) or len(ids), len(ids) // 2))
            self._needs.put_back(missing)
            return True
        if missing:
            await self._retry(missing, answer.refusal)
        return False

    def _wonder(self, silence: Silence, ids: list[bytes], missing: list[bytes]) -> None:
        """A REQ was not answered: for its size, for an id in it, or the peer says nothing more.

        :raises Silence: it is that.
        """
        self._silences += 1
        if self._silences == _MOST_SILENCES:
            raise silence
        if len(ids) > max(self._most_answered, _LEAST_AFTER_SILENCE):
            self._ask_for_less(max(_LEAST_AFTER_SILENCE, len(ids) // 4))
            self._needs.put_back(missing)
        else:
            self._suspects.narrow_down(missing)

    def _heard(self, asked: int) -> None:
        """The peer has answered a REQ for so many ids: it was not silent about all."""
        self._silences = 0
        self._most_answered = max(self._most_answered, asked)
        self._give_up(self._suspects.sentence(), _UNANSWERED)

    def _ask_for_less(self, cap: int) -> None:
        self.cap = max(1, min(cap, self._batch()))

    async def _miss(self, ids: list[bytes], returned: int) -> None:
        """Ask again for ids that a REQ did not bring; not for ever.

        A peer that returns the same number again and again has a cap.  Other numbers are ids that
        it lists and does not serve.
        """
        is_cut = _SMALLEST_CAP <= returned <= _MOST_OF_CUT * len(ids)
        if is_cut and returned < self._batch():
            self._same = self._same + 1 if returned == self._returned else 1
            self._returned = returned
            if self._same == _MOST_SAME:
                self.cap = returned
                self._needs.put_back(ids)
                return
        most = _MOST_TRIES if returned else 1
        again = self._worth_another_try(ids, most, "not returned")
        self._in_vain += len(ids) - len(again)
        if self._in_vain > _MOST_IN_VAIN:
            raise PeerError(f"the peer lists ids and returns none of the last {self._in_vain:,}")
        self._needs.put_back(again)
        await self._ledger.write()

    def _worth_another_try(self, ids: list[bytes], most: int, text: str) -> list[bytes]:
        """Those of the ids that were tried less often than that; the others are given up."""
        self._tries.update(ids)
        self._give_up([event_id for event_id in ids if self._tries[event_id] >= most], text)
        return [event_id for event_id in ids if self._tries[event_id]]

    def _give_up(self, ids: Collection[bytes], text: str) -> None:
        if ids:
            self._moved(unfetchable=len(ids))
        for event_id in ids:
            self._tries.pop(event_id, None)
            fault = self._peer.dialogue.spoilt.get(event_id)
            said = text if fault is None else f"cannot be read: {fault}"
            self._ledger.note_refusal(event_id, Residue.UNFETCHABLE, said)

    async def _retry(self, ids: list[bytes], refusal: str) -> None:
        """Ask again, a little later, for ids of a REQ that was refused; give up after a while."""
        await self._peer.admitted_after(refusal)
        most = _PATIENT_TRIES if asks_for_patience(refusal) else _MOST_TRIES
        again = self._worth_another_try(ids, most, refusal)
        if again:
            if not self._asking and self._tries[again[0]] > 1 and is_about_number(refusal):
                self._peer.give_up_tail(refusal)  # there is no other that may be one too many
            pause = min(_LONGEST_PAUSE, _PAUSE * 2 ** (self._tries[again[0]] - 1))
            await self._peer.let_be(refusal, pause)
            self._needs.put_back(again)
        await self._ledger.write()
