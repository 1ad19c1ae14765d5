"""nostr-sdk's relay over its own LMDB database: in this process, or in one that can be killed."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Coroutine, Iterable
from functools import cache
from pathlib import Path
from threading import Thread
from typing import Any, TypeVar

import nostr_sdk as sdk

from negd.nostr.event import Event
from negd.testing.ports import free_port
from negd.testing.running import Running

ENOUGH = 1_000_000
"""A rate that no test reaches; the relay's own is 60 events a minute."""


T = TypeVar("T")


@cache
def _loop() -> asyncio.AbstractEventLoop:
    """A loop that runs in a thread of its own: a relay calls its database on one."""
    loop = asyncio.new_event_loop()
    Thread(target=loop.run_forever, daemon=True).start()
    return loop


def on_loop(work: Coroutine[Any, Any, T]) -> T:
    """What some work ends with that nostr-sdk does."""
    sdk.uniffi_set_event_loop(_loop())
    return asyncio.run_coroutine_threadsafe(work, _loop()).result(timeout=60)


class LocalRelay(Running):
    """A relay over a database in a folder. A context manager.

    :param options: methods of ``LocalRelayBuilder`` that take a number, as ``max_filter_limit``;
        and ``max_reqs``, ``notes_per_minute``, and ``auth``, which is READ, WRITE or BOTH.
    :ivar url: where it serves, also when it is started again.
    """

    def __init__(self, folder: Path, **options: Any) -> None:
        self.folder = folder
        port = free_port()
        self.url = f"ws://127.0.0.1:{port}"
        self.options = {"port": port, **options}

    def hold(self, events: Iterable[Event]) -> None:
        """Put events into its database."""

        async def save() -> None:
            database = await open_database(self.folder)
            found = [sdk.Event.from_json(event.encode().decode()) for event in events]
            await asyncio.gather(*(database.save_event(event) for event in found))

        on_loop(save())

    def ids(self) -> set[str]:
        """The ids of what its database holds."""

        async def read() -> set[str]:
            database = await open_database(self.folder)
            return {event.id().to_hex() for event in await database.query(sdk.Filter())}

        return on_loop(read())


class RelayInProcess(LocalRelay):
    """It runs in this process, in threads of its own."""

    def start(self) -> None:
        self._relay = on_loop(_serving(self.folder, self.options))

    def stop(self) -> None:
        self._relay.shutdown()


class RelayProcess(LocalRelay):
    """It is a process of its own; to stop it is to kill it."""

    _process: subprocess.Popen[str] | None = None

    def start(self) -> None:
        command = [sys.executable, __file__, str(self.folder), json.dumps(self.options)]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == "serving\n"

    def stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None


async def open_database(folder: Path) -> sdk.NostrLmdb:
    folder.mkdir(parents=True, exist_ok=True)
    return await sdk.NostrLmdb.open(str(folder))


async def _serving(folder: Path, options: dict[str, Any]) -> sdk.LocalRelay:
    options = dict(options)
    rate = sdk.RateLimit(
        max_reqs=options.pop("max_reqs", ENOUGH),
        notes_per_minute=options.pop("notes_per_minute", ENOUGH),
    )
    auth = options.pop("auth", None)
    builder = sdk.LocalRelayBuilder().addr("127.0.0.1").rate_limit(rate)
    builder = builder.database(await open_database(folder))
    if auth is not None:
        mode = sdk.LocalRelayBuilderNip42Mode[auth]
        builder = builder.nip42(sdk.LocalRelayBuilderNip42(mode=mode))
    for name, value in options.items():
        builder = getattr(builder, name)(value)
    relay = builder.build()
    await relay.run()
    return relay


if __name__ == "__main__":
    serving = on_loop(_serving(Path(sys.argv[1]), json.loads(sys.argv[2])))
    print("serving", flush=True)
    sys.stdin.read()  # until whoever started us is gone
