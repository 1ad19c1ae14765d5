"""negd and nostr-sdk, a Rust implementation, over loopback: they end with the same events.

The client and the relay of nostr-sdk hold their events in its own LMDB database, so its client
pushes as well as it fetches.  Of the events of these tests none replaces or deletes another:
which of two versions a side keeps is another test's matter.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path

import nostr_sdk as sdk
import pytest

from negd.control.client import ControlClient
from negd.interfaces import SyncProgress
from negd.nostr.event import Event
from negd.testing.processes import DaemonProcess
from tests.integration.conftest import MakeDaemon, ids_of, lasting_events

ENOUGH = 1_000_000
"""A rate that no test reaches; the relay's own is 60 events a minute."""


def run(scenario: Callable[[], Awaitable[None]]) -> None:
    """Run it on an event loop that nostr-sdk may call back on."""

    async def on_loop() -> None:
        sdk.uniffi_set_event_loop(asyncio.get_running_loop())
        await scenario()

    asyncio.run(on_loop())


async def database(folder: Path, events: Iterable[Event] = ()) -> sdk.NostrLmdb:
    folder.mkdir(parents=True)
    held = await sdk.NostrLmdb.open(str(folder))
    for event in events:
        await held.save_event(sdk.Event.from_json(event.encode().decode()))
    return held


async def ids_in(held: sdk.NostrLmdb) -> set[str]:
    return {event.id().to_hex() for event in await held.query(sdk.Filter())}


async def client_of(daemon: DaemonProcess, held: sdk.NostrLmdb) -> sdk.Client:
    client = sdk.ClientBuilder().database(held).build()
    await client.add_relay(sdk.RelayUrl.parse(daemon.url))
    await client.connect()
    return client


async def relay_over(held: sdk.NostrLmdb) -> tuple[sdk.LocalRelay, str]:
    rate = sdk.RateLimit(max_reqs=ENOUGH, notes_per_minute=ENOUGH)
    relay = sdk.LocalRelayBuilder().addr("127.0.0.1").database(held).rate_limit(rate).build()
    await relay.run()
    return relay, str(await relay.url())


@pytest.mark.parametrize("direction", ["UP", "DOWN", "BOTH"])
def test_its_client_syncs_with_negd(
    make_daemon: MakeDaemon, tmp_path: Path, direction: str
) -> None:
    events = lasting_events(900)
    daemon = make_daemon(events=events[:-200])
    daemon.start()
    ours = {event.id for event in events[:-200]}
    theirs = {event.id for event in events[200:]}

    async def scenario() -> None:
        held = await database(tmp_path / "sdk", events[200:])
        client = await client_of(daemon, held)
        options = sdk.SyncOptions().direction(sdk.SyncDirection[direction])
        done = await client.sync(sdk.Filter(), opts=options)
        assert not done.failed
        assert len(done.report.local) == len(theirs - ours)
        assert len(done.report.remote) == len(ours - theirs)
        after = await ids_in(held)
        await client.shutdown()
        assert after == (theirs if direction == "UP" else theirs | ours)
        assert ids_of(daemon) == (ours if direction == "DOWN" else theirs | ours)

    run(scenario)


def test_what_negd_answered_with_ok_survives_being_killed(
    make_daemon: MakeDaemon, tmp_path: Path
) -> None:
    events = lasting_events(60)
    daemon = make_daemon()
    daemon.start()

    async def scenario() -> None:
        client = await client_of(daemon, await database(tmp_path / "sdk"))
        for event in events:
            sent = await client.send_event(sdk.Event.from_json(event.encode().decode()))
            assert not sent.failed
        daemon.kill()
        await client.shutdown()

    run(scenario)
    assert ids_of(daemon) == {event.id for event in events}


def test_negd_syncs_with_its_relay_both_ways(make_daemon: MakeDaemon, tmp_path: Path) -> None:
    events = lasting_events(1500)
    daemon = make_daemon(events=events[:-400])
    daemon.start()

    def sync(url: str) -> SyncProgress:
        with ControlClient(daemon.control) as client:
            (*_, last) = client.sync(url)
            return last

    async def scenario() -> None:
        held = await database(tmp_path / "sdk", events[400:])
        relay, url = await relay_over(held)
        last = await asyncio.to_thread(sync, url)
        assert last.complete
        assert (last.fetched, last.sent) == (400, 400)
        again = await asyncio.to_thread(sync, url)
        assert again.complete and (again.have, again.need) == (0, 0)
        assert await ids_in(held) == {event.id for event in events}
        relay.shutdown()

    run(scenario)
    assert ids_of(daemon) == {event.id for event in events}
