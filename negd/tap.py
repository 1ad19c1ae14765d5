"""``twistd negd``: its options, and the one place where the rooms of the house are put together."""

from __future__ import annotations

import gc
import os
import signal
import sys
from collections.abc import Sequence
from random import SystemRandom
from typing import Any, ClassVar, NoReturn, cast

import msgspec
from twisted.application.service import IService
from twisted.internet.endpoints import serverFromString
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import IListeningPort, IStreamServerEndpoint
from twisted.logger import Logger
from twisted.python import usage
from twisted.web.server import Site

from negd import __version__, config
from negd.control.server import ControlService
from negd.errors import ConfigError
from negd.interfaces import IEventStore, ILeases, IPeerSync, Use
from negd.keys import read_key
from negd.peers.listing import listing_of
from negd.peers.roster import Roster
from negd.peers.urls import canonical
from negd.service import Daemon, Undoing, give_up, stop_on
from negd.settings import RelaySettings, Settings
from negd.storage import open_store, store_summaries
from negd.storage.factory import check_store
from negd.sync.checking import Checkers
from negd.sync.intake import Intake
from negd.sync.node import Node
from negd.sync.offload import ThreadOffload
from negd.sync.sessions import SessionTable
from negd.web.figures import Sources
from negd.web.pulse import Pulse
from negd.web.site import make_site
from negd.websocket.client import Dialer
from negd.websocket.conversation import Backend
from negd.websocket.server import ClientFactory
from negd.websocket.terms import terms_of

_STORE = Settings().store
_LISTEN = Settings().websocket.listen[0]
_CONTROL = Settings().control.address

_THRESHOLD = 10_000
"""Objects made, and not gone, after which garbage is looked for. A sync has ten thousands under
way: with Python's 700, all of them were looked through twice a second, for 30 ms each time."""


class Options(usage.Options):
    """Options of ``twistd negd``; each beats what the configuration file says.

    :ivar settings: what the file and the options make together, once they are parsed.
    """

    synopsis = "[options]"  # twistd puts its own before it
    longdesc = "Keeps Nostr event sets equal with peer relays, and serves them (NIP-77)."
    optParameters: ClassVar[list[list[str | None]]] = [
        ["config", "c", None, "TOML file; etc/negd.toml of the sources shows every key"],
        ["store", "s", None, f"where events are kept, see --help-stores [default: {_STORE}]"],
        ["control", None, None, f"HOST:PORT or unix:PATH for gRPC [default: {_CONTROL}]"],
    ]

    settings: Settings

    def __init__(self) -> None:
        super().__init__()
        self["listen"] = []
        self["peer"] = []

    def opt_listen(self, endpoint: str) -> None:
        self["listen"].append(endpoint)

    opt_listen.__doc__ = (
        f"Twisted endpoint string for Nostr clients; may be repeated [default: {_LISTEN}]"
    )

    def opt_peer(self, url: str) -> None:
        """Relay to keep equal with, ws://... or wss://...; may be repeated"""
        self["peer"].append(url)

    def opt_help_stores(self) -> NoReturn:
        """List the kinds of stores, and exit"""
        print("\n".join(store_summaries()))
        sys.exit(0)

    def opt_version(self) -> NoReturn:
        """Show negd's version, and exit"""
        print(f"negd {__version__}")
        sys.exit(0)

    def parseOptions(self, options: list[str] | None = None) -> None:
        """Parse; a mistake ends the process with one line and status 1.

        twistd's own answer would be the whole help, on stdout, with the mistake below it.
        """
        try:
            super().parseOptions(options)
        except usage.UsageError as error:
            sys.exit(f"negd: {error}")

    def parseArgs(self, *surplus: str) -> None:
        """There are none.

        :raises usage.UsageError: there is one.
        """
        if surplus:
            raise usage.UsageError(f"{surplus[0]!r}: expected options only")

    def postOptions(self) -> None:
        """Read the file and put the options over it.

        The store string is looked at too: once twistd has forked, only the log would say.

        :raises usage.UsageError: a wrong key or value in either.
        """
        try:
            settings = config.load(self["config"]) if self["config"] else Settings()
            self.settings = config.override(
                settings,
                store=self["store"],
                listen=self["listen"],
                control=self["control"],
                peers=self["peer"],
            )
        except ConfigError as error:
            raise usage.UsageError(error.text) from None
        try:
            check_store(self.settings.store)
        except ConfigError as error:
            raise usage.UsageError(f"{self.source_of('store')}: {error.text}") from None

    def source_of(self, option: str) -> str:
        """Where what an option or its key in the file says comes from, as errors name it."""
        return "command line" if self[option] else self["config"] or "defaults"


def makeService(options: Options) -> IService:
    """The daemon that the options describe; it opens nothing yet."""
    from twisted.internet import reactor

    try:
        house = House(options.settings, reactor, options.source_of("listen"))
    except ConfigError as error:
        sys.exit(f"negd: {error.text}")
    return Daemon(house.open, reactor, give_up)


class House:
    """The rooms, opened in order, one handed to another.

    :param reactor: the reactor, whole: each room is given what it asks for.
    :param source: where the endpoint strings come from, as errors name it.
    :raises ConfigError: an endpoint string or a key file that cannot be read.
    """

    _log = Logger()

    def __init__(self, settings: Settings, reactor: Any, source: str) -> None:
        self._settings = settings
        self._reactor = reactor
        self._listeners = [
            Listener(reactor, text, source, f"websocket.listen[{index}]")
            for index, text in enumerate(settings.websocket.listen)
        ]
        self._signer = read_key(settings.relay.key_file) if settings.relay.key_file else None
        self._is_open = False
        self._pulse = Pulse(reactor)

    async def open(self, undoing: Undoing) -> None:
        """Open everything: the storage first, as it is closed last, and the peers last.

        :raises negd.errors.NegdError: what cannot be opened, and why.
        """
        settings, reactor = self._settings, self._reactor
        stop_on(signal.SIGTERM, reactor)
        storage = await open_store(settings.store, reactor, settings=settings.storage)
        undoing.push("storage", storage.close)
        checkers = Checkers(reactor, settings.intake.checkers)
        undoing.push("checkers", checkers.stop)
        answering = ThreadOffload(reactor, os.cpu_count() or 1, "answering")
        undoing.push("answering", answering.stop)
        intake = Intake(storage.events, settings.intake, checkers)
        sessions = SessionTable(storage.events, settings.sessions, reactor, answering)
        terms = {canonical(peer.url): terms_of(peer) for peer in settings.peer}
        dialer = Dialer(reactor, settings.sync, terms=terms)
        node = Node(storage.events, intake, dialer, settings.sync, reactor, answering, self._signer)
        roster = Roster(node, storage.book, SystemRandom(), ILeases(storage, None))
        control = ControlService(reactor, settings.control, sessions, roster, lambda: self._is_open)
        await self._open_endpoints(
            undoing, storage.events, intake, sessions, roster, dialer, checkers, control
        )
        control.startService()
        undoing.push("control", control.stopService)
        undoing.push("peers", roster.stop)
        checkers.start()
        await roster.start([listing_of(peer) for peer in settings.peer])
        self._is_open = True
        # What is there now stays: looking through it for garbage held up the reactor for 70 ms.
        gc.collect()
        gc.freeze()
        gc.set_threshold(_THRESHOLD)
        self._pulse.start()  # what the start held up is no news
        undoing.push("pulse", self._pulse.stop)
        self._log.info(
            "negd is up: serving {listen}, control on {control}, storing in {store}",
            listen=served_on(settings.websocket.listen),
            control=control.address,
            store=settings.store,
        )

    async def _open_endpoints(
        self,
        undoing: Undoing,
        store: IEventStore,
        intake: Intake,
        sessions: SessionTable,
        peers: IPeerSync,
        dialer: Dialer,
        checkers: Checkers,
        control: ControlService,
    ) -> None:
        """Let Nostr clients in.

        When the daemon stops, the ports close first, then what was accepted gets its OK, and
        then the clients get their goodbye.
        """
        settings, reactor = self._settings, self._reactor
        backend = Backend(intake, store, sessions, settings.websocket, reactor)
        clients = ClientFactory(backend, reactor, dialer.handshakes)
        undoing.push("clients", clients.close)
        undoing.push("intake", intake.stop)
        undoing.push("sessions", sessions.close_all)
        sources = Sources(
            store=store,
            peers=peers,
            sync=settings.sync,
            endpoint=clients.load,
            sessions=lambda: Use(sessions.live, settings.sessions.max_sessions),
            snapshot_bytes=lambda: Use(sessions.snapshots.nbytes, settings.sessions.snapshot_bytes),
            outcomes=lambda: intake.outcomes,
            backlog=lambda: Use(intake.backlog, settings.intake.max_backlog),
            checkers=lambda: checkers.processes,
            control_calls=lambda: control.calls,
            control_streams=lambda: control.streams,
            refusals=lambda: backend.refusals | sessions.refusals | control.refusals,
            late=lambda: self._pulse.worst,
            clock=reactor,
        )
        site = make_site(clients.as_resource(), sources, self._about(), settings.websocket, reactor)
        for listener in self._listeners:
            port = await listener.listen(site)
            undoing.push(f"port {listener.text}", port.stopListening)

    def _about(self) -> RelaySettings:
        """What this relay says of itself; without a public key of its own, that of its key."""
        relay = self._settings.relay
        if self._signer is None or relay.pubkey:
            return relay
        return msgspec.structs.replace(relay, pubkey=self._signer.pubkey)


def served_on(listen: Sequence[str]) -> str:
    """Who is served, for the log: those who come to the endpoints, or nobody."""
    return ", ".join(listen) or "no clients"


class Listener:
    """An endpoint string, read, which nobody listens on yet.

    :param source: where the string stands, and ``key`` by which name; errors name both.
    :raises ConfigError: it cannot be read, or a file that it names cannot.
    """

    def __init__(self, reactor: Any, text: str, source: str, key: str) -> None:
        self.text = text
        self._source = source
        self._key = key
        self._endpoint = self._read(reactor)

    async def listen(self, site: Site) -> IListeningPort:
        """Open the port.

        :raises ConfigError: it cannot be opened.
        """
        try:
            return await self._endpoint.listen(site)
        except CannotListenError as error:
            why = getattr(error.socketError, "strerror", None) or error.socketError
            raise ConfigError(f"cannot listen on {self.text}: {why}") from None
        except Exception as error:  # OverflowError for a port, OSError for a path, by its kind
            why = getattr(error, "strerror", None) or error
            raise self._wrong(f"expected an endpoint that can be opened ({why})") from None

    def _read(self, reactor: Any) -> IStreamServerEndpoint:
        try:
            return cast(IStreamServerEndpoint, serverFromString(reactor, self.text))
        except Exception as error:  # its parsers raise what their own calls raise
            if isinstance(error, OSError) and error.filename:
                raise self._wrong(f"{error.filename} cannot be read: {error.strerror}") from None
            expected = f"expected a Twisted server endpoint such as {_LISTEN} ({error})"
            raise self._wrong(expected) from None

    def _wrong(self, what: str) -> ConfigError:
        return config.mistake(self._source, self._key, self.text, what)
