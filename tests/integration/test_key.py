"""A daemon with a key of its own."""

from __future__ import annotations

import asyncio
import json
import subprocess
from pathlib import Path
from urllib.request import Request, urlopen

import nostr_sdk as sdk
import pytest

from negd.control.client import ControlClient
from negd.errors import PeerError
from negd.nostr.signing import Signer
from tests.integration.conftest import MakeDaemon, ids_of, lasting_events
from tests.integration.test_nostr_sdk import ENOUGH, database, ids_in, run

SECRET = b"\x05" * 32


def configuration(folder: Path) -> list[str]:
    """The options of a daemon whose configuration names a key file in the folder."""
    file = folder / "negd.toml"
    file.write_text(f'[relay]\nkey_file = "{folder / "key"}"\n')
    return ["--config", str(file)]


def test_its_public_key_is_shown(make_daemon: MakeDaemon, tmp_path: Path) -> None:
    (tmp_path / "key").write_text(SECRET.hex())
    (tmp_path / "key").chmod(0o600)
    with make_daemon(options=configuration(tmp_path)) as daemon:
        url = daemon.url.replace("ws:", "http:")
        with urlopen(Request(url, headers={"Accept": "application/nostr+json"})) as answer:
            assert json.load(answer)["pubkey"] == Signer(SECRET).pubkey


def test_without_the_file_it_does_not_start(make_daemon: MakeDaemon, tmp_path: Path) -> None:
    daemon = make_daemon(options=configuration(tmp_path))
    daemon.spawn(stderr=subprocess.PIPE)
    assert daemon.wait(within=30) == 1
    assert daemon.stderr is not None
    said = daemon.stderr.read().decode()
    assert said.startswith(f"negd: relay.key_file = '{tmp_path}/key': it cannot be read: No such")
    assert said.count("\n") == 1


@pytest.mark.parametrize("with_key", [True, False])
def test_a_relay_that_asks_who_we_are_is_answered(
    make_daemon: MakeDaemon, tmp_path: Path, with_key: bool
) -> None:
    ours, theirs = lasting_events(300)[:150], lasting_events(300)[150:]
    (tmp_path / "key").write_text(SECRET.hex())
    (tmp_path / "key").chmod(0o600)
    daemon = make_daemon(events=ours, options=configuration(tmp_path) if with_key else [])
    daemon.start()

    async def scenario() -> None:
        held = await database(tmp_path / "sdk", theirs)
        rate = sdk.RateLimit(max_reqs=ENOUGH, notes_per_minute=ENOUGH)
        asking = sdk.LocalRelayBuilderNip42(mode=sdk.LocalRelayBuilderNip42Mode.BOTH)
        builder = sdk.LocalRelayBuilder().addr("127.0.0.1").database(held).rate_limit(rate)
        relay = builder.nip42(asking).build()
        await relay.run()
        url = str(await relay.url())
        try:
            with ControlClient(daemon.control) as client:
                syncing = asyncio.to_thread(lambda: list(client.sync(url)))
                if with_key:
                    assert (await syncing)[-1].complete
                else:
                    with pytest.raises(PeerError, match="auth-required"):
                        await syncing
            everything = {event.id for event in ours + theirs}
            assert (await ids_in(held) == ids_of(daemon) == everything) is with_key
        finally:
            relay.shutdown()

    run(scenario)
