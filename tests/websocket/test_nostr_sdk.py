"""A client that nobody here wrote (nostr-sdk, Rust) publishes, asks and listens."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any, TypeVar

import nostr_sdk as sdk
from twisted.internet import reactor as installed_reactor
from twisted.internet.defer import Deferred
from twisted.internet.threads import deferToThread
from twisted.trial.unittest import TestCase

from negd.nostr.event import Event
from negd.nostr.signing import Signer
from negd.testing.relays import LoopbackRelay, until

T = TypeVar("T")
reactor: Any = installed_reactor
alice = Signer(b"\x01" * 32)
SECONDS = timedelta(seconds=10)


def in_thread(scenario: Callable[[], Awaitable[T]]) -> Deferred[T]:
    """Run it on an event loop of its own, which nostr-sdk may call back on."""

    async def on_loop() -> T:
        sdk.uniffi_set_event_loop(asyncio.get_running_loop())
        return await scenario()

    return deferToThread(lambda: asyncio.run(on_loop()))


def to_sdk(event: Event) -> Any:
    return sdk.Event.from_json(event.encode().decode())


class ClientTests(TestCase):
    timeout = 40

    async def setUp(self) -> None:  # type: ignore[override]
        self.relay = LoopbackRelay(reactor)
        await self.relay.start()
        self.addCleanup(lambda: Deferred.fromCoroutine(self.relay.stop()))

    async def connected(self) -> Any:
        client = sdk.ClientBuilder().build()
        await client.add_relay(sdk.RelayUrl.parse(self.relay.url))
        await client.connect(and_wait=SECONDS)
        return client

    async def test_it_publishes_and_is_told_what_became_of_it(self) -> None:
        newer = alice.sign(created_at=1001, kind=0, content="{}")
        older = alice.sign(created_at=1000, kind=0, content="{}")

        async def scenario() -> tuple[Any, Any]:
            client = await self.connected()
            sent = await client.send_event(to_sdk(newer))
            refused = await client.send_event(to_sdk(older))
            await client.shutdown()
            return sent, refused

        sent, refused = await in_thread(scenario)
        assert not sent.failed
        assert [str(reason) for reason in refused.failed.values()] == [
            "replaced: have a newer event"
        ]
        held = await self.relay.backend.store.known([newer.id_bytes, older.id_bytes])
        assert held == {newer.id_bytes}

    async def test_it_fetches_what_it_asks_for(self) -> None:
        events = [alice.sign(created_at=1000 + n, kind=n % 2 + 1) for n in range(700)]
        await self.relay.backend.store.ingest(events)

        async def scenario() -> list[list[str]]:
            client = await self.connected()
            found = []
            for wanted in (
                sdk.Filter().kind(sdk.Kind(1)),
                sdk.Filter().limit(5),
                sdk.Filter().ids([sdk.EventId.parse(event.id) for event in events[:3]]),
            ):
                target = sdk.ReqTarget.auto([wanted])
                got = await client.fetch_events(target, timeout=SECONDS)
                found.append([event.id().to_hex() for event in got])
            await client.shutdown()
            return found

        by_kind, newest, by_id = await in_thread(scenario)
        assert sorted(by_kind) == sorted(event.id for event in events if event.kind == 1)
        assert newest == [event.id for event in events[:-6:-1]]
        assert sorted(by_id) == sorted(event.id for event in events[:3])

    async def test_it_hears_live_events(self) -> None:
        events = [alice.sign(created_at=1000 + n) for n in range(20)]

        async def scenario() -> list[str]:
            client = await self.connected()
            stream = client.notifications()
            await client.subscribe(sdk.ReqTarget.auto([sdk.Filter()]), id="live")
            heard: list[str] = []
            while len(heard) < len(events):
                told = await asyncio.wait_for(stream.next(), 10)
                if told.is_NEW_EVENT():
                    heard.append(told.event.id().to_hex())
            await client.shutdown()
            return heard

        hearing = in_thread(scenario)
        await until(reactor, self.has_subscription)
        for event in events:
            await self.relay.backend.intake.submit([event])
        assert await hearing == [event.id for event in events]

    def has_subscription(self) -> bool:
        conversations = [c.conversation for c in self.relay.clients.connections]
        return any(c is not None and c._subscriptions for c in conversations)
