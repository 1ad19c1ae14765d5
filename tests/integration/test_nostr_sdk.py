"""negd and the client of nostr-sdk, a Rust implementation: they end with the same events.

The client holds its events in its own LMDB database, so it pushes as well as it fetches.  Of the
events of these tests none replaces or deletes another: which of two versions a side keeps is
another test's matter.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path

import nostr_sdk as sdk
import pytest

from negd.nostr.event import Event
from negd.testing.processes import DaemonProcess
from tests.integration.conftest import MakeDaemon, ids_of, lasting_events
from tests.integration.local_relay import open_database


def run(scenario: Callable[[], Awaitable[None]]) -> None:
    """Run it on an event loop that nostr-sdk may call back on."""

    async def on_loop() -> None:
        sdk.uniffi_set_event_loop(asyncio.get_running_loop())
        await scenario()

    asyncio.run(on_loop())


async def database(folder: Path, events: Iterable[Event] = ()) -> sdk.NostrLmdb:
    held = await open_database(folder)
    found = [sdk.Event.from_json(event.encode().decode()) for event in events]
    await asyncio.gather(*(held.save_event(event) for event in found))
    return held


async def ids_in(held: sdk.NostrLmdb) -> set[str]:
    return {event.id().to_hex() for event in await held.query(sdk.Filter())}


async def client_of(daemon: DaemonProcess, held: sdk.NostrLmdb) -> sdk.Client:
    client = sdk.ClientBuilder().database(held).build()
    await client.add_relay(sdk.RelayUrl.parse(daemon.url))
    await client.connect()
    return client


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
