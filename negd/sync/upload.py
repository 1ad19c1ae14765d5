"""Pushing events: a window of EVENTs whose OKs are counted (NIP-01)."""

from __future__ import annotations

from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Iterable
from math import inf

from twisted.internet.task import deferLater

from negd.interfaces import Residue
from negd.nostr.messages import Ok, encode_publish
from negd.sync.contact import Contact
from negd.sync.dialogue import OkMailbox, Silence
from negd.sync.differences import Line
from negd.sync.ledger import Ledger
from negd.sync.node import Node
from negd.sync.refusals import asks_for_patience, holds_it

_TOGETHER = 100
"""OKs that are counted in one step of the progress."""

_PIECE = 500
"""Events sent in one turn of the reactor, which takes some 20 ms."""

_FIRST_PIECE = 64
_LARGEST = 4 << 20
"""Bytes of such a piece, as far as can be told from the one before."""

_PAUSE = 1.0
_LONGEST_PAUSE = 30.0
"""Seconds to send nothing to a peer that asks for patience."""

_MOST_PUT_OFF = 20
"""Tries of an event for which a peer asks for patience, while it takes others."""

_MOST_PAUSES = 10
"""Pauses in a row, three minutes together, after which a peer that takes nothing is left alone."""

_FEW = 8
"""Events after the last that it answered which a peer may drop without a word; before that, any."""

_NO_OK, _LOST = "no OK came", "the link ended before an OK came"
_MOST_LATE = 1000
"""Such events of which an answer that comes later yet is taken, or as many as a window has."""

_LEFT_ALONE = 60.0
"""Seconds for which it is: what it lacks is given up at once then, and noted."""


class Upload:
    """Takes ids that the peer lacks until there are no more, and sends it their events.

    At most ``upload_window`` events are unanswered at a time: a relay that drops what it cannot
    queue would otherwise lose some in silence.  One that asks for patience is given some, and has
    fewer events unanswered; where it takes nothing for minutes, the rest is given up in its words.

    :param moved: told of counts to add to the progress, by :class:`SyncProgress`'s names.
    """

    def __init__(
        self,
        peer: Contact,
        haves: Line,
        node: Node,
        ledger: Ledger,
        moved: Callable[..., None],
    ) -> None:
        self._peer = peer
        self._haves = haves
        self._store = node.store
        self._ledger = ledger
        self._settings = node.settings
        self._clock = node.clock
        self._longest = node.longest or inf
        self._moved = moved
        self._ready: list[tuple[bytes, bytes]] = []
        self._unanswered: dict[bytes, int] = {}
        self._sent = self._last_answered = 0
        self._window = node.settings.upload_window
        self._retried: set[bytes] = set()
        self._put_off: Counter[bytes] = Counter()
        self._piece = _FIRST_PIECE
        self._in_hand: list[bytes] = []
        self._pauses = 0
        self._refusal = ""
        self._alone_until = 0.0
        self._suspects: deque[bytes] = deque()
        self._written_off: OrderedDict[bytes, int] = OrderedDict()

    @property
    def under_way(self) -> list[bytes]:
        """Ids that were taken, and not answered for."""
        ready = [event_id for event_id, _ in self._ready]
        return [*self._unanswered, *self._in_hand, *ready, *self._suspects]

    async def run(self) -> None:
        """Push until the haves are finished and every event sent is answered.

        :raises negd.errors.PeerError: the peer fell silent or the link is lost.
        :raises negd.errors.StorageError: the events could not be read.
        """
        await self._ledger.begin()
        with self._peer.dialogue.oks() as box:
            try:
                await self._push(box)
            finally:
                if self._peer.dialogue.is_lost:
                    for event_id in self._unanswered:
                        self._ledger.note_lost(event_id, Residue.THEIRS_REJECTED, _LOST)

    async def _push(self, box: OkMailbox) -> None:
        while await self._load():
            sent = await self._send(box)
            if sent and len(self._haves) and len(self._unanswered) < self._window:
                await deferLater(self._clock, 0)  # for others, before more of the window
            elif self._unanswered:
                await self._settle(box)

    async def _load(self) -> bool:
        """Have events ready to send, waiting for ids only when no OK is due; false at the end."""
        while not self._ready:
            most = min(self._piece, self._window)
            ids = self._haves.take_ready(most)
            if not ids and self._unanswered:
                return True
            ids = ids or await self._haves.take(most)
            if ids:
                self._in_hand = ids
                await self._read(await self._unexplained(ids))
            elif self._suspects:
                self._in_hand = [self._suspects.popleft()]
                await self._read(self._in_hand)
            else:
                return False
            self._in_hand = []
        return True

    async def _unexplained(self, ids: list[bytes]) -> list[bytes]:
        """Those to be sent now: not those over which the link may have ended, again and again.

        A peer that hangs up on one event would never come to the others; such events are sent
        when all others are answered, one at a time.
        """
        wanted = await self._ledger.unexplained(ids)
        if len(wanted) < len(ids):
            self._moved(explained=len(ids) - len(wanted))
            self._forget(set(ids).difference(wanted))
        suspects = self._ledger.lost_again(wanted, _LOST)
        self._suspects.extend(suspects)
        return [i for i in wanted if i not in suspects] if suspects else wanted

    async def _read(self, wanted: list[bytes]) -> None:
        if self._clock.seconds() < self._alone_until:
            await self._give_up(wanted)
            return
        events = await self._store.fetch(wanted)
        if events:
            average = sum(map(len, events.values())) / len(events)
            self._piece = max(1, min(_PIECE, 2 * self._piece, int(_LARGEST / average)))
        if len(events) < len(wanted):
            self._moved(gone=len(wanted) - len(events))
            self._forget(set(wanted).difference(events))
        for event_id in filter(events.__contains__, wanted):
            message = encode_publish(events[event_id])
            if len(message) > self._longest:  # it would end the link, and all that is under way
                self._reject(event_id, f"longer than the {self._longest} bytes the peer reads")
            else:
                self._ready.append((event_id, message))

    async def _send(self, box: OkMailbox) -> int:
        """Send what is ready, as far as the window has room; how many events that were."""
        room = max(0, self._window - len(self._unanswered))
        sending, self._ready = self._ready[:room], self._ready[room:]
        for event_id, message in sending:
            self._sent += 1
            self._unanswered[event_id] = self._sent
            box.expect(event_id.hex())
            self._peer.link.send(message)
        await self._peer.link.drained()
        return len(sending)

    async def _settle(self, box: OkMailbox) -> None:
        """Account for the next OKs, as many as have come together."""
        try:
            first = await box.next(self._settings.answer, "OK for an event")
        except Silence:
            self._write_off(box)
        else:
            letters = [first, *box.ready(_TOGETHER)]
            await self._account([letter for letter in letters if isinstance(letter, Ok)])
        await self._ledger.write()

    async def _account(self, answers: list[Ok]) -> None:
        refused: list[tuple[bytes, str]] = []
        for answer in answers:
            event_id = bytes.fromhex(answer.event_id)
            place = self._unanswered.pop(event_id, 0)
            if event_id in self._written_off:
                place = self._reconsider(event_id)
            self._last_answered = max(self._last_answered, place)
            if answer.accepted or holds_it(answer.text):
                self._ledger.settle(event_id)
                self._forget([event_id])
            else:
                refused.append((event_id, answer.text))
        if len(refused) < len(answers):
            self._moved(sent=len(answers) - len(refused))
            self._pauses = 0
            self._window = min(self._window + 1, self._settings.upload_window)
        self._in_hand = [event_id for event_id, _ in refused]
        for event_id, text in refused:
            was_retried = event_id in self._retried
            self._retried.discard(event_id)
            if not was_retried and await self._peer.admitted_after(text):
                self._retried.add(event_id)
                self._haves.put_back([event_id])
            elif asks_for_patience(text) and self._is_worth_waiting(event_id):
                self._put_off[event_id] += 1
                self._haves.put_back([event_id])
            else:
                self._reject(event_id, text)
            self._in_hand.remove(event_id)
        asked = next((text for _, text in refused if asks_for_patience(text)), None)
        if asked is not None:
            await self._heed(asked)

    def _is_worth_waiting(self, event_id: bytes) -> bool:
        return self._pauses < _MOST_PAUSES and self._put_off[event_id] < _MOST_PUT_OFF

    async def _heed(self, asked: str) -> None:
        """Let the peer be as it asked: for a while, or where that was in vain for good."""
        if self._pauses < _MOST_PAUSES:
            await self._pause(asked)
            return
        self._refusal, self._pauses = asked, 0
        self._alone_until = self._clock.seconds() + _LEFT_ALONE
        self._window = self._settings.upload_window
        ready, self._ready = self._ready, []
        await self._give_up([event_id for event_id, _ in ready])

    async def _give_up(self, ids: list[bytes]) -> None:
        """Send none of these to a peer that is left alone."""
        for event_id in ids:
            self._reject(event_id, self._refusal)
        await self._ledger.write()

    async def _pause(self, asked: str) -> None:
        """Let the peer be for a while, longer each time in vain, and send less at a time then."""
        self._window = max(1, self._window // 2)
        await self._peer.let_be(asked, min(_LONGEST_PAUSE, _PAUSE * 2**self._pauses))
        self._pauses += 1

    def _write_off(self, box: OkMailbox) -> None:
        """Give up on what a peer, who answers otherwise, has left unanswered.

        :raises Silence: it has answered nothing that was sent after them, and they are not few.
        """
        unheard = self._sent - self._last_answered
        if unheard > _FEW:
            for event_id in self._unanswered:
                self._ledger.note_lost(event_id, Residue.THEIRS_REJECTED, _NO_OK)
            raise Silence(f"no OK for {unheard} events")
        for event_id in self._unanswered:
            self._count_refusal(event_id, _NO_OK)
            box.is_late(event_id.hex())
        self._written_off.update(self._unanswered)
        self._unanswered.clear()
        while len(self._written_off) > max(_MOST_LATE, self._settings.upload_window):
            event_id, _ = self._written_off.popitem(last=False)
            box.expect_no_more(event_id.hex())
            self._forget([event_id])

    def _reconsider(self, event_id: bytes) -> int:
        """The answer to an event that was written off has come after all; which of those sent."""
        place = self._written_off.pop(event_id)
        self._moved(rejected=-1)
        self._ledger.withdraw(event_id, Residue.THEIRS_REJECTED, _NO_OK)
        return place

    def _reject(self, event_id: bytes, text: str) -> None:
        self._forget([event_id])
        self._count_refusal(event_id, text)

    def _count_refusal(self, event_id: bytes, text: str) -> None:
        self._moved(rejected=1)
        self._ledger.note_refusal(event_id, Residue.THEIRS_REJECTED, text)

    def _forget(self, ids: Iterable[bytes]) -> None:
        """These are not tried again, for now; a tail may last for weeks."""
        for event_id in ids:
            self._retried.discard(event_id)
            self._put_off.pop(event_id, None)
