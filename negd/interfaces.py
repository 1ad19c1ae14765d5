"""Where the services of negd meet: zope Interfaces, and the values that cross them.

Everything here may be used from the reactor thread only, unless a method says otherwise.
Methods written ``async def`` may be implemented as coroutine functions or return Deferreds; a
caller awaits them.  Ids are 32 raw bytes, records are 40 bytes (``created_at`` as big-endian u64,
then the id), times are Unix seconds.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import Any, NamedTuple

from zope.interface import Attribute, Interface

from negd.nostr.document import RelayDocument
from negd.nostr.event import Event
from negd.nostr.filing import Filing
from negd.nostr.filter import Filter
from negd.nostr.messages import RelayMessage
from negd.reconcile import RecordSet, Step
from negd.settings import StoreSettings

# --- bounds -------------------------------------------------------------------------------------


class Use(NamedTuple):
    """How much there is of something bounded.

    :ivar most: how much there may be.
    """

    now: int
    most: int


class PerClient(NamedTuple):
    """How much clients have of something that each may have so much of.

    :ivar total: what all of them have.
    :ivar largest: what the one has that has most.
    :ivar most: what one may have.
    """

    total: int
    largest: int
    most: int


@dataclass(frozen=True, slots=True)
class EndpointLoad:
    """What the clients of the WebSocket endpoint take up.

    :ivar unanswered: commands of theirs, of whatever kind, that are not answered yet.
    :ivar unanswered_bytes: of these commands.
    :ivar outgoing_bytes: in line for them.
    """

    connections: Use
    subscriptions: PerClient
    unanswered: PerClient
    unanswered_bytes: PerClient
    outgoing_bytes: PerClient


# --- ingest -------------------------------------------------------------------------------------


class Outcome(Enum):
    """What became of an event that was handed in."""

    __hash__ = object.__hash__  # each is one object; Enum's own hash is a call of Python code

    STORED = "stored"
    DUPLICATE = "duplicate"
    SUPERSEDED = "superseded"
    DELETED = "deleted"
    EXPIRED = "expired"
    EPHEMERAL = "ephemeral"
    INVALID = "invalid"


_ACCEPTED = {Outcome.STORED, Outcome.DUPLICATE, Outcome.EPHEMERAL}

_TEXTS = {
    Outcome.STORED: "",
    Outcome.EPHEMERAL: "",
    Outcome.DUPLICATE: "duplicate: already have this event",
    Outcome.SUPERSEDED: "replaced: have a newer event",
    Outcome.DELETED: "deleted: its author asked for its deletion",
    Outcome.EXPIRED: "invalid: event has expired",
    Outcome.INVALID: "invalid: event is not valid",
}


@dataclass(frozen=True, slots=True)
class Verdict:
    """An event's outcome.

    :ivar reason: for ``INVALID``, what is wrong with it, without prefix.
    """

    outcome: Outcome
    reason: str = ""

    @property
    def accepted(self) -> bool:
        """What ``OK`` says: true where the sender need not send the event again."""
        return self.outcome in _ACCEPTED

    @property
    def text(self) -> str:
        """What ``OK`` says in words: ``prefix: reason``, or nothing for a plain yes."""
        return f"invalid: {self.reason}" if self.reason else _TEXTS[self.outcome]


class IIntake(Interface):
    """The one way by which events reach the store: checked, batched, bounded."""

    async def submit(events: Sequence[Event]) -> list[Verdict]:
        """Check and store events of any origin; one verdict each, in order.

        Returns after the commit that holds them: an accepted event survives SIGKILL.

        :raises negd.errors.StorageError: none of these events may be taken for stored.
        """


# --- storage ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Page:
    """Part of an answer, newest first (ties: lower id first).

    :ivar events: the events' JSON as stored, compact UTF-8.
    :ivar last: the record to continue after, also where ``events`` are none; None when nothing is
        left.
    """

    events: list[bytes]
    last: bytes | None


@dataclass(frozen=True, slots=True)
class StoreStatistics:
    """:ivar events: how many are stored. :ivar bytes: size on disk, 0 where there is none."""

    events: int
    bytes: int


@dataclass(frozen=True, slots=True)
class VerifyReport:
    """What a look at everything found.

    :ivar events: how many were read.
    :ivar problems: one line each; empty means sound.
    :ivar repaired: how many wrong or missing entries were mended, and broken events removed.
    :ivar notes: what else is to be told of the repair, one line each.
    """

    events: int
    problems: list[str]
    repaired: int = 0
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class CompactReport:
    """Bytes on disk before and after; equal where there is nothing to give back."""

    before: int
    after: int


class IWatch(Interface):
    """A standing watch on a store."""

    def stop() -> None:
        """End it: the callback is not called again. Calling this twice is no error."""


class IEventStore(Interface):
    """A set of events under the rules of NIP-01, NIP-09 and NIP-40.

    Expired events are neither accepted, served nor counted, from the second they expire.
    Signatures are the business of :class:`IIntake`; a store takes events as checked.
    """

    generation: int = Attribute("Grows with every commit that changes what snapshots hold.")

    async def ingest(events: Sequence[Event | Filing]) -> list[Verdict]:
        """Store a batch in order, durably; one verdict each. Filings save the store work.

        ``INVALID`` comes only from a database of another maker, which has rules of its own.

        Watchers are told of stored and ephemeral events after the commit.

        :raises negd.errors.StorageError: none of the batch may be taken for stored; handing it
            in again does no harm.
        """

    async def snapshot(wanted: Filter) -> RecordSet:
        """The records of all events that match; ``limit`` keeps the newest.

        :raises negd.errors.StorageError: the storage failed.
        """

    async def query(wanted: Filter, after: bytes | None = None, page: int = 500) -> Page:
        """At most ``page`` matching events, newest first, continuing after a record.

        A page ends before that once its events have a megabyte, however large the next one is.

        ``limit`` is the caller's to count: a store gives pages until nothing is left.

        :raises negd.errors.StorageError: the storage failed.
        """

    async def fetch(ids: Sequence[bytes]) -> dict[bytes, bytes]:
        """The JSON of those of the events that are held, by id.

        :raises negd.errors.StorageError: the storage failed.
        """

    async def known(ids: Sequence[bytes]) -> set[bytes]:
        """Which of the ids are held.

        :raises negd.errors.StorageError: the storage failed.
        """

    async def count(wanted: Filter) -> int:
        """How many events match; at most ``limit``.

        :raises negd.errors.StorageError: the storage failed.
        """

    def watch(wanted: Filter, callback: Callable[[Event, bytes], None]) -> IWatch:
        """Call back with each new matching event and its JSON, in the order of commits.

        ``limit`` is ignored. An error raised by the callback is logged and ends nothing.
        """

    async def statistics() -> StoreStatistics:
        """Size and count, cheaply."""

    async def verify(progress: Callable[[int, int], None], repair: bool = False) -> VerifyReport:
        """Read everything: ids, signatures, and that every index agrees with the events.

        :param progress: told (events read, events in all), from the reactor thread; in a repair,
            once more from the start as they are written.
        :param repair: make the indexes agree with the events, and remove what is no valid
            event. The report has the problems as they were found.
        :raises negd.errors.StorageError: the storage failed, or it cannot be repaired from here.
        """

    async def compact(progress: Callable[[int, int], None]) -> CompactReport:
        """Give room that is not used back to the system.

        :param progress: told (events done, events in all), from the reactor thread; never where
            there is nothing to do.
        :raises negd.errors.StorageError: it failed, and the store is as it was.
        """


# --- peers --------------------------------------------------------------------------------------


class PeerStatus(Enum):
    """What a peer's sync is doing; the words of the control service."""

    IDLE = "idle"
    SYNCING = "syncing"
    ERROR = "error"


class Fault(Enum):
    """What a peer does wrong, and a sync survives."""

    UNREADABLE = "unreadable"
    """A message that is no message of a relay."""
    UNASKED = "unasked"
    """An event that was not asked for."""
    INVALID = "invalid"
    """An event whose id or signature is wrong."""
    REPEATED = "repeated"
    """An event that was sent before, to the same REQ."""


@dataclass(frozen=True, slots=True)
class PeerProfile:
    """What was learned of a peer's ways, so that it is not learned again at every sync.

    :ivar nip77: whether it reconciles; None while that is not known.
    :ivar found_at: second of that finding; one of False is doubted after a while.
    :ivar refusal: its words where it does not reconcile.
    :ivar max_records: the largest set it reconciles, where it said so or was found to refuse.
    :ivar ids_per_request: events it returns to a REQ at most, where it returned fewer than asked.
    :ivar document: what it said of itself (NIP-11) when it was last asked and answered.
    :ivar described_at: second at which it was last asked.
    :ivar requests_in_flight: REQs it lets be open at a time, where it refused more.
    :ivar frame_limit: bytes of a negentropy message, where it refused larger ones.
    :ivar faults: how often it did what it should not, by :class:`Fault`'s words.
    :ivar broken_off: reconciliations in a row that it did not end, and nothing moved.
    :ivar limited_at: second at which the last of its limits was found (``max_records``,
        ``frame_limit``, ``ids_per_request``); they are forgotten after a while.
    """

    nip77: bool | None = None
    found_at: float = 0
    refusal: str = ""
    max_records: int | None = None
    ids_per_request: int | None = None
    document: RelayDocument | None = None
    described_at: float = 0
    requests_in_flight: int | None = None
    frame_limit: int | None = None
    faults: Mapping[str, int] = field(default_factory=dict)
    broken_off: int = 0
    limited_at: float = 0


@dataclass(frozen=True, slots=True)
class PeerState:
    """What is remembered of a peer's syncs.

    :ivar last_sync: second of the last success; 0 for never.
    :ivar events_synced: events fetched and sent, over all time.
    :ivar consecutive_failures: since the last success.
    :ivar next_sync: not before that second, after failures; 0 for no wait.
    :ivar configured: whether the configuration lists it, of any node where several share a store;
        else it was added by a call.
    """

    last_sync: int = 0
    events_synced: int = 0
    status: PeerStatus = PeerStatus.IDLE
    last_error: str = ""
    consecutive_failures: int = 0
    next_sync: float = 0
    profile: PeerProfile = PeerProfile()
    configured: bool = False


class Residue(Enum):
    """Why an id stays different between a peer and us."""

    OURS_REJECTED = "ours-rejected"
    """We hold something against the event: superseded, deleted, expired, invalid."""
    THEIRS_REJECTED = "theirs-rejected"
    """The peer answered ``OK false``."""
    UNFETCHABLE = "unfetchable"
    """The peer listed the id and did not return the event."""
    AUTH_GATED = "auth-gated"
    """The peer wants to know who we are (NIP-42) and did not take our answer, or got none."""


@dataclass(frozen=True, slots=True)
class LedgerEntry:
    """One open difference with a peer.

    :ivar text: what was said: an ``OK`` text, a verdict.
    :ivar tries: how often it was tried in vain.
    :ivar retry_at: not to be tried before that second.
    :ivar lost_to: hex id of the newer version that we hold; while we do, it need not be tried.
    """

    residue: Residue
    text: str
    tries: int
    retry_at: float
    lost_to: str = ""


class IPeerBook(Interface):
    """Peers, their state and their ledgers, kept through restarts. Keys are canonical URLs."""

    async def peers() -> dict[str, PeerState]:
        """Every listed peer and its state."""

    async def put(url: str, state: PeerState) -> None:
        """List a peer, or replace its state, durably.

        :raises negd.errors.StorageError: it is not kept.
        """

    async def update(url: str, state: PeerState) -> None:
        """Replace the state of a peer that is listed; one that is not stays unlisted.

        Another node on the same store may have removed it.

        :raises negd.errors.StorageError: it is not kept.
        """

    async def remove(url: str) -> None:
        """Forget a peer, its state and its ledger; an unknown one is no error."""

    async def ledger(url: str, ids: Sequence[bytes]) -> dict[bytes, LedgerEntry]:
        """What is written of those ids with that peer."""

    async def residues(url: str) -> dict[Residue, int]:
        """How many ledger entries a peer has of each reason."""

    async def entries(url: str, residue: Residue, most: int) -> dict[bytes, LedgerEntry]:
        """Up to ``most`` ledger entries of one reason, in the order in which they are due."""

    async def write_ledger(
        url: str, entries: Mapping[bytes, LedgerEntry], settled: Sequence[bytes]
    ) -> None:
        """Add or replace entries and drop the settled ids, in one commit.

        The ledger of one peer is bounded; the entries next to be retried are dropped first.

        :raises negd.errors.StorageError: nothing was written.
        """

    async def clear_ledger(url: str) -> None:
        """Drop every entry of a peer's ledger; the peer and its state stay.

        :raises negd.errors.StorageError: nothing was dropped.
        """


class IStorage(Interface):
    """One opened storage."""

    events = Attribute("The IEventStore.")
    book = Attribute("The IPeerBook.")

    async def close() -> None:
        """Finish what was accepted, then let go of files and connections."""


class ILeases(Interface):
    """Which of several nodes on one store does what only one of them should do.

    An IStorage that nodes can share provides this too: ``ILeases(storage, None)`` asks for it.
    A lease ends by itself, so a node that dies keeps the others out for no longer than that.
    """

    async def hold(name: str, seconds: float) -> bool:
        """Take a lease, or keep it, for so long from now; False while another node has it.

        A holder calls this again well before that time is over. It stops what the lease is for
        when it is told False, and when the time is over without an answer.

        :raises negd.errors.StorageError: it is not known who has it.
        """

    async def release(name: str) -> None:
        """Give a lease back; one that another node has is no error.

        :raises negd.errors.StorageError: it ends by itself.
        """


class IStoreFactory(Interface):
    """A kind of storage; a ``twisted.plugin`` provides it, so that other packages can add some.

    A store string is ``scheme:argument``, as in ``lmdb:/var/lib/negd``.
    """

    scheme = Attribute("The word before the colon.")
    summary = Attribute("One line for ``--help-stores``: the form of the argument, what it is.")

    def check(argument: str) -> None:
        """Look at the argument alone, before a reactor runs; nothing is opened.

        :raises negd.errors.ConfigError: it is not of this storage's form.
        """

    async def open(
        argument: str,
        reactor: Any,
        read_only: bool = False,
        settings: StoreSettings = StoreSettings(),
    ) -> IStorage:
        """Open the storage, creating it where it is missing (unless read-only).

        :param settings: those that mean nothing for this kind of storage are ignored.
        :raises negd.errors.ConfigError: the argument is not of this storage's form.
        :raises negd.errors.StorageError: it cannot be opened; the text says why.
        :raises negd.errors.DamagedStore: it cannot before it is salvaged.
        """

    async def salvage(
        argument: str, reactor: Any, progress: Callable[[int, int], None]
    ) -> list[str]:
        """Make a storage that is too damaged to be opened anew, of what is left of it.

        :param progress: told (done, in all) of what is looked at, from the reactor thread.
        :returns: what is to be told of it, one line each: what was saved, what was lost.
        :raises negd.errors.StorageError: it cannot be done; all is as it was.
        """


# --- sessions -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class SessionInfo:
    """A live reconciliation that a client started."""

    connection: str
    subscription: str
    created_at: int
    last_activity: int
    rounds: int


class ISessions(Interface):
    """Reconciliations with clients, whichever way they came; keyed (connection, subscription)."""

    async def open(connection: str, subscription: str, wanted: Filter, message: bytes) -> Step:
        """Start a session on a snapshot and answer its first message; replaces a live one.

        :raises negd.errors.NegdError: its ``answer`` is for ``NEG-ERR``; the session is gone.
        """

    async def message(connection: str, subscription: str, message: bytes) -> Step:
        """Answer a further message; calls of one session are answered in the order they came.

        :raises negd.errors.Unknown: there is no such session.
        :raises negd.errors.NegdError: as for :meth:`open`; the session is gone.
        """

    def close(connection: str, subscription: str) -> None:
        """End a session; with an empty connection, every session of that subscription id."""

    def close_connection(connection: str) -> None:
        """End every session of a connection."""

    def sessions() -> list[SessionInfo]:
        """The live sessions, oldest first."""


# --- links to peers -----------------------------------------------------------------------------


class IPeerListener(Interface):
    """What a link tells."""

    def received(message: RelayMessage) -> None:
        """The peer sent a message."""

    def unreadable(text: str, event_id: str = "") -> None:
        """The peer sent something that is no message of a relay.

        :param event_id: in hex, where it is to be an event and so much of it can be read.
        """

    def lost(reason: str) -> None:
        """The link is gone. Called once, after which nothing comes any more."""


class IPeerLink(Interface):
    """An open WebSocket to a relay."""

    url = Attribute("The peer's canonical URL.")

    def send(text: bytes) -> None:
        """Send one message; dropped where the link is gone."""

    async def drained() -> None:
        """Return once what was sent has mostly left for the network; at once on a lost link."""

    def pause() -> None:
        """Stop reading from the peer."""

    def resume() -> None:
        """Read on."""

    def close() -> None:
        """Say goodbye and close; ``lost`` follows."""


class IPeerDialer(Interface):
    """Opens links."""

    async def dial(url: str, listener: IPeerListener) -> IPeerLink:
        """A link whose WebSocket handshake is done.

        Cancelling the Deferred gives up the attempt.

        :raises negd.errors.PeerError: no connection, a refused handshake, a time-out.
        """

    async def describe(url: str) -> RelayDocument | None:
        """What the peer says of itself (NIP-11), within seconds.

        None where it says nothing, or nothing that can be read: no reason not to dial it.
        """


# --- peer sync ----------------------------------------------------------------------------------


class Direction(Enum):
    """Which way events move in a sync."""

    UP = "up"
    DOWN = "down"
    BOTH = "both"


@dataclass(frozen=True, slots=True)
class SyncProgress:
    """How far a sync has come.

    :ivar round: NEG-MSG exchanges so far.
    :ivar have: ids found that we hold and the peer lacks.
    :ivar need: the reverse.
    :ivar fetched: events received and stored, or already there.
    :ivar already: of those fetched, the events that were already there.
    :ivar sent: events that the peer accepted.
    :ivar rejected: events that the peer did not accept.
    :ivar refused: events received that we did not accept.
    :ivar unfetchable: ids that the peer listed and did not return.
    :ivar explained: differences left alone because the ledger explains them.
    :ivar gone: differences that ended before their turn came: events that were replaced or
        deleted here meanwhile.
    :ivar reasons: why events did not move, in the words of whoever refused, and how many; the
        first so many reasons of a run.
    :ivar complete: true in the last progress of a run that succeeded.
    """

    peer: str
    round: int = 0
    have: int = 0
    need: int = 0
    fetched: int = 0
    already: int = 0
    sent: int = 0
    rejected: int = 0
    refused: int = 0
    unfetchable: int = 0
    explained: int = 0
    gone: int = 0
    reasons: Mapping[str, int] = field(default_factory=dict)
    complete: bool = False

    @property
    def moved(self) -> int:
        """Events that one side has now and had not before."""
        return self.fetched - self.already + self.sent

    def plus(self, **more: int) -> SyncProgress:
        """These counts with some of them increased."""
        return replace(self, **{name: getattr(self, name) + n for name, n in more.items()})


@dataclass(frozen=True, slots=True)
class PeerDescription:
    """A peer's terms, how it is, and what stays different.

    :ivar url: canonical.
    :ivar listed: whether it is kept equal with; one that is not is only being synced.
    :ivar interval: seconds between syncs.
    :ivar tail: whether new events move as they come.
    :ivar linked: whether a link to it is kept open.
    :ivar elsewhere: whether another node on the same store keeps equal with it.
    :ivar residues: how many differences its ledger explains, by reason.
    :ivar entries: some of them, of each reason those that are due first.
    :ivar proxy: the SOCKS5 proxy on the way to it, without a password; nothing for none.
    :ivar compression: whether permessage-deflate is offered.
    :ivar max_rate: bytes a second that a link carries, each way; 0 for no limit.
    :ivar max_events: events that one sync moves; 0 for no limit.
    :ivar tail_refused: the peer's words, where it has ended the tail and that begins again later.
    """

    url: str
    listed: bool
    direction: Direction
    wanted: Filter
    interval: float
    tail: bool
    linked: bool
    state: PeerState
    residues: Mapping[Residue, int]
    entries: Mapping[bytes, LedgerEntry]
    proxy: str = ""
    compression: bool = False
    max_rate: int = 0
    max_events: int = 0
    elsewhere: bool = False
    tail_refused: str = ""


class IPeerSync(Interface):
    """The peers of this node and the syncs with them."""

    async def add(url: str) -> None:
        """List a peer and start keeping equal with it; a listed one is no error.

        :raises negd.errors.ConfigError: not a relay's URL, or one that is forbidden.
        """

    async def remove(url: str) -> None:
        """Stop what runs with a peer and forget it; an unknown one is no error."""

    def peers() -> list[str]:
        """The listed peers' canonical URLs, sorted."""

    def states() -> dict[str, PeerState]:
        """The state of every listed peer."""

    def visits() -> dict[str, PeerState]:
        """The state of every other peer that is being synced."""

    def state(url: str) -> PeerState | None:
        """The state of one of all those, by a URL in any spelling; None for an unknown one.

        :raises negd.errors.ConfigError: not a relay's URL.
        """

    async def describe(url: str, entries: int) -> PeerDescription:
        """All about a peer that is listed or being synced, by a URL in any spelling.

        :param entries: of how many differences to tell more, for each reason.
        :raises negd.errors.ConfigError: not a relay's URL.
        :raises negd.errors.Unknown: it is neither listed nor being synced.
        :raises negd.errors.StorageError: its ledger cannot be read.
        """

    async def forget_ledger(url: str) -> int:
        """Let the next sync try again what a peer's ledger explains; how many differences.

        :raises negd.errors.ConfigError: not a relay's URL.
        :raises negd.errors.Unknown: the peer is not listed.
        :raises negd.errors.StorageError: nothing was forgotten.
        """

    def active() -> bool:
        """Whether syncs start by themselves: at start, at intervals, after failures."""

    def resume_background() -> None:
        """Let syncs start by themselves; calling this twice is no error."""

    def pause_background() -> None:
        """Let no further sync start by itself; one that runs goes on, ``sync`` still works.

        Calling this twice is no error.
        """

    async def trigger(url: str | None, wanted: Filter) -> None:
        """Start a sync with a peer, or with all; returns when it is under way or in line.

        Of all, those that are being synced are synced once more after it, unless it is the same.

        :raises negd.errors.ConfigError: not a relay's URL, or one that is forbidden.
        :raises negd.errors.Unknown: the peer is not listed.
        :raises negd.errors.LimitReached: a sync with this peer is already running; or, of all
            peers, with some another waits for the one that runs. The others' have begun.
        """

    async def sync(
        url: str, wanted: Filter, progress: Callable[[SyncProgress], None]
    ) -> SyncProgress:
        """Sync with a peer, listed or not, to the end; returns the last progress.

        ``progress`` is told of each round and each batch. Cancelling the Deferred stops the run.

        :raises negd.errors.ConfigError: not a relay's URL, or one that is forbidden.
        :raises negd.errors.LimitReached: a sync with this peer is already running.
        :raises negd.errors.PeerError: the run failed; what was stored by then is kept.
        """
