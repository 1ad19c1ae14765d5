"""Every knob of the daemon, with its default, unit and bounds: frozen values, no reading of files.

:mod:`negd.config` fills these from TOML and options; each room takes the one that is its own.
``etc/negd.toml`` shows them all, and a test holds the two equal.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

Count = Annotated[int, Meta(ge=1, le=2**31 - 1)]
Bytes = Annotated[int, Meta(ge=1, le=2**62)]
MessageBytes = Annotated[int, Meta(ge=4096, le=2**31 - 1)]
Seconds = Annotated[float, Meta(gt=0, le=1e9)]
FrameBytes = Annotated[int, Meta(ge=4096, le=2**31 - 1)]
Limit = Annotated[int, Meta(ge=0, le=2**62)]
LEAST_RATE = 10_000
"""Bytes a second: with fewer, one message takes longer than answers are waited for."""

LeaseSeconds = Annotated[float, Meta(ge=1, le=1e6)]
Fraction = Annotated[float, Meta(ge=0, le=1)]


class Section(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Base of the sections: immutable, and an unknown key is an error."""


class RelaySettings(Section, frozen=True):
    """Who this relay is: what its NIP-11 document says, and the key it signs with.

    :ivar key_file: path of a file with 64 hex digits, the secret key that answers peers who ask
        who we are (NIP-42); nothing for no answer.
    """

    name: str = "negd"
    description: str = "A relay mirror that keeps itself equal with its peers."
    contact: str = ""
    pubkey: str = ""
    key_file: str = ""


class StoreSettings(Section, frozen=True):
    """How events are kept, whichever store it is; docs/storage.md says what it means for which.

    :ivar durability: ``fsync`` answers for an event once it is on the disk; ``batched`` lets a
        power cut take the last moments, and is quicker.
    :ivar standing: NIP-01 filters whose records are kept ready as new events come.
    """

    durability: Literal["fsync", "batched"] = "fsync"
    standing: Annotated[tuple[dict[str, Any], ...], Meta(max_length=16)] = ()


class EndpointSettings(Section, frozen=True):
    """The WebSocket endpoint for Nostr clients.

    :ivar listen: Twisted server endpoint strings.
    :ivar max_message: bytes of one message, both ways.
    :ivar max_unanswered: commands of one client that are not answered; reading stops beyond it,
        and where they have more bytes than four messages may have.
    :ivar max_outgoing: bytes in line for one client; beyond it no commands are read, stored
        events wait, and subscriptions with new events end with CLOSED.
    :ivar stall: seconds after which a client that takes nothing is dropped.
    """

    listen: tuple[str, ...] = ("tcp:7777:interface=127.0.0.1",)
    max_connections: Count = 1000
    max_message: MessageBytes = 1_100_000
    max_subscriptions: Count = 64
    max_filters: Count = 16
    max_unanswered: Count = 4000
    max_outgoing: Bytes = 4_000_000
    ping_interval: Seconds = 30.0
    ping_timeout: Seconds = 30.0
    stall: Seconds = 60.0


class SessionSettings(Section, frozen=True):
    """Reconciliations that clients start, over WebSocket and gRPC alike.

    :ivar idle: seconds without a message after which a session is forgotten.
    :ivar max_records: the largest snapshot a session may be opened on.
    :ivar snapshot_bytes: memory that the snapshots of all sessions may hold.
    :ivar frame_limit: bytes of one reply, before hex.
    """

    max_sessions: Count = 1000
    max_per_connection: Count = 32
    idle: Seconds = 120.0
    max_records: Count = 50_000_000
    snapshot_bytes: Bytes = 2_000_000_000
    frame_limit: FrameBytes = 60_000


class IntakeSettings(Section, frozen=True):
    """The way of events into the store.

    :ivar batch: events checked and committed together at most.
    :ivar max_backlog: events waiting at most; submitters wait beyond it.
    :ivar checkers: processes that check signatures; 0 takes one per processor, four at most.
    """

    batch: Count = 1000
    max_backlog: Count = 20_000
    checkers: Annotated[int, Meta(ge=0, le=1024)] = 0


class ControlSettings(Section, frozen=True):
    """The gRPC control service.

    :ivar address: ``HOST:PORT`` or ``unix:PATH``.
    :ivar workers: pool threads; each running SyncWithPeer stream holds one.
    :ivar deadline: seconds after which a call that waits for the reactor fails.
    :ivar max_message: bytes of one message, both ways.
    """

    address: str = "127.0.0.1:50064"
    workers: Count = 16
    deadline: Seconds = 60.0
    max_message: MessageBytes = 16 * 1024 * 1024


class SyncSettings(Section, frozen=True):
    """Syncs with peers; a ``[[peer]]`` entry may set its own direction, filter and interval.

    :ivar interval: seconds between the end of a sync and the next one.
    :ivar concurrent: peers synced at the same time.
    :ivar turn: seconds after which a sync, while others wait in line, joins it at its end.
    :ivar frame_limit: bytes of one negentropy message, before hex.
    :ivar fetch_batch: ids asked for by one REQ.
    :ivar fetch_in_flight: REQs unanswered at a time.
    :ivar upload_window: EVENTs unanswered at a time.
    :ivar first_answer: seconds a peer may take for its first NEG-MSG.
    :ivar answer: seconds a peer may take for any other answer.
    :ivar connect: seconds a TCP connection and WebSocket handshake may take.
    :ivar max_message: bytes of one message from a peer.
    :ivar backoff_first: seconds to wait after a first failure; doubled after each further one.
    :ivar backoff_most: seconds to wait at the most.
    :ivar jitter: the part of a wait that is random.
    :ivar max_peers: peers listed at the most.
    :ivar private_targets: whether peers may be at loopback, private and similar addresses.
    :ivar ledger_retry: seconds until an explained difference is tried once more; doubled after
        each try in vain, up to 64 times that.
    :ivar lease: seconds after which, of nodes on one store, another one syncs the peers of one
        that died; four times within them the nodes look who does what.
    """

    interval: Seconds = 600.0
    concurrent: Count = 4
    turn: Seconds = 60.0
    frame_limit: FrameBytes = 60_000
    fetch_batch: Count = 200
    fetch_in_flight: Count = 8
    upload_window: Count = 64
    first_answer: Seconds = 90.0
    answer: Seconds = 30.0
    connect: Seconds = 20.0
    max_message: MessageBytes = 4 * 1024 * 1024
    backoff_first: Seconds = 5.0
    backoff_most: Seconds = 3600.0
    jitter: Fraction = 0.2
    max_peers: Count = 1000
    private_targets: bool = True
    ledger_retry: Seconds = 3600.0
    lease: LeaseSeconds = 60.0


class PeerSettings(Section, frozen=True):
    """One ``[[peer]]``.

    :ivar direction: ``up`` sends, ``down`` fetches, ``both`` does both.
    :ivar filter: a NIP-01 filter that limits what is kept equal.
    :ivar interval: seconds between syncs; none takes the one of ``[sync]``.
    :ivar tail: whether new events move as they come, over a link that is kept open.
    :ivar proxy: ``socks5://[USER:PASSWORD@]HOST:PORT``; nothing for none.
    :ivar compression: whether to offer the peer permessage-deflate.
    :ivar max_rate: bytes a second that a link carries, each way; 0 for no limit.
    :ivar max_events: events that one sync moves, both ways together; 0 for no limit.
    """

    url: str
    direction: Literal["up", "down", "both"] = "both"
    filter: dict[str, Any] = {}
    interval: Seconds | None = None
    tail: bool = True
    proxy: str = ""
    compression: bool = False
    max_rate: Limit = 0
    max_events: Limit = 0


class Settings(Section, frozen=True):
    """All of it. ``store`` is a store string; see ``twistd -n negd --help-stores``."""

    store: str = "lmdb:negd-data"
    storage: StoreSettings = StoreSettings()
    relay: RelaySettings = RelaySettings()
    websocket: EndpointSettings = EndpointSettings()
    sessions: SessionSettings = SessionSettings()
    intake: IntakeSettings = IntakeSettings()
    control: ControlSettings = ControlSettings()
    sync: SyncSettings = SyncSettings()
    peer: tuple[PeerSettings, ...] = ()
