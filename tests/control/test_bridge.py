"""The bridge: one coroutine in the reactor thread, one thread that waits for it."""

from __future__ import annotations

from collections.abc import Callable
from threading import Event, get_ident
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.threads import deferToThread
from twisted.trial.unittest import TestCase

from negd.control.bridge import MAX_PROGRESS, Abandoned, Bridge, Expired, Stopping
from negd.errors import PeerError


class Call:
    """A gRPC call that ends when the test says so."""

    def __init__(self, ended: bool = False) -> None:
        self.ended = ended
        self.callbacks: list[Callable[[], None]] = []

    def add_callback(self, callback: Callable[[], None], /) -> bool:
        self.callbacks.append(callback)
        return not self.ended

    def end(self) -> None:
        for callback in self.callbacks:
            callback()


class Waiting:
    """Work that waits until the test lets it finish."""

    def __init__(self) -> None:
        self.started: Deferred[None] = Deferred()
        self.cancelled: Deferred[None] = Deferred()
        self.result: Deferred[str] = Deferred(lambda _: self.cancelled.callback(None))
        self.tell: Callable[[int], None] = lambda _: None

    async def __call__(self) -> str:
        self.started.callback(None)
        return await self.result

    async def stream(self, tell: Callable[[int], None]) -> str:
        self.tell = tell
        return await self()


class BridgeTests(TestCase):
    timeout = 30

    def setUp(self) -> None:
        self.bridge = Bridge(reactor, deadline=20)  # type: ignore[arg-type]

    def call(self, work: Any, call: Call | None = None) -> Deferred[Any]:
        return deferToThread(self.bridge.call, call or Call(), work)

    def stream(self, work: Waiting, call: Call | None = None) -> Deferred[list[Any]]:
        return deferToThread(lambda: list(self.bridge.stream(call or Call(), work.stream)))

    async def test_the_work_is_done_in_the_reactor_thread(self) -> None:
        async def work() -> int:
            return get_ident()

        self.assertEqual(await self.call(work), get_ident())

    async def test_what_the_work_raises_is_raised(self) -> None:
        async def work() -> None:
            raise PeerError("no")

        await self.assertFailure(self.call(work), PeerError)

    async def test_the_deadline_ends_the_wait_and_cancels_the_work(self) -> None:
        self.bridge = Bridge(reactor, deadline=0.01)  # type: ignore[arg-type]
        work = Waiting()
        await self.assertFailure(self.call(work), Expired)
        await work.cancelled

    async def test_the_end_of_the_call_cancels_the_work(self) -> None:
        call, work = Call(), Waiting()
        called = self.call(work, call)
        await work.started
        call.end()
        await self.assertFailure(called, Abandoned)
        await work.cancelled

    async def test_work_for_a_call_that_has_ended_is_not_begun(self) -> None:
        work = Waiting()
        await self.assertFailure(self.call(work, Call(ended=True)), Abandoned)
        self.assertFalse(work.started.called)

    async def test_the_end_of_a_call_that_is_answered_changes_nothing(self) -> None:
        call, work = Call(), Waiting()
        work.result.callback("done")
        self.assertEqual(await self.call(work, call), "done")
        call.end()
        self.assertFalse(work.cancelled.called)

    async def test_a_stream_has_all_that_was_told_and_the_result(self) -> None:
        work = Waiting()
        found = self.stream(work)
        await work.started
        for number in range(3):
            work.tell(number)
        work.result.callback("done")
        self.assertEqual(await found, [0, 1, 2, "done"])

    async def test_a_stream_comes_as_it_is_told(self) -> None:
        work = Waiting()
        stream = self.bridge.stream(Call(), work.stream)
        first = deferToThread(next, stream)
        await work.started
        work.tell(1)
        self.assertEqual(await first, 1)
        work.result.callback("done")
        self.assertEqual(await deferToThread(list, stream), ["done"])

    async def test_a_slow_reader_gets_the_newest(self) -> None:
        work = Waiting()
        stream = self.bridge.stream(Call(), work.stream)
        first = deferToThread(next, stream)
        await work.started
        work.tell(0)
        await first
        for number in range(100_000):
            work.tell(number)
        work.result.callback("done")
        rest = await deferToThread(list, stream)
        self.assertEqual(rest, [*range(100_000 - MAX_PROGRESS, 100_000), "done"])

    async def test_a_stream_ends_with_the_error_of_the_work(self) -> None:
        work = Waiting()
        found = self.stream(work)
        await work.started
        work.result.errback(PeerError("no"))
        await self.assertFailure(found, PeerError)

    async def test_a_stream_that_is_left_cancels_the_work(self) -> None:
        work = Waiting()
        stream = self.bridge.stream(Call(), work.stream)
        first = deferToThread(next, stream)
        await work.started
        work.tell(1)
        await first
        stream.close()  # type: ignore[attr-defined]
        await work.cancelled

    async def test_draining_ends_streams_and_lets_calls_finish(self) -> None:
        calling, streaming = Waiting(), Waiting()
        called, streamed = self.call(calling), self.stream(streaming)
        await calling.started
        await streaming.started
        self.bridge.drain()
        await self.assertFailure(streamed, Stopping)
        await streaming.cancelled
        calling.result.callback("done")
        self.assertEqual(await called, "done")

    async def test_nothing_begins_once_it_drains(self) -> None:
        self.bridge.drain()
        await self.assertFailure(self.call(Waiting()), Stopping)
        await self.assertFailure(self.stream(Waiting()), Stopping)

    async def test_the_reactor_never_waits_for_a_reader(self) -> None:
        work, go = Waiting(), Event()

        def read() -> list[Any]:
            stream = self.bridge.stream(Call(), work.stream)
            first = next(stream)
            go.wait(20)
            return [first, *stream]

        found = deferToThread(read)
        await work.started
        for number in range(1000):
            work.tell(number)  # would hang here, with the reader asleep
        work.result.callback("done")
        go.set()
        self.assertEqual((await found)[-1], "done")
