"""The commands that ask a daemon, against a real control service."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from io import StringIO
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.threads import deferToThread
from twisted.trial.unittest import TestCase

from negd.cli.main import main
from negd.control.server import ControlService
from negd.errors import PeerError
from negd.interfaces import PeerState, PeerStatus, SessionInfo
from negd.nostr.filter import EVERYTHING, Filter
from negd.settings import ControlSettings
from negd.testing.control import FakePeers, FakeSessions, FakeSync

PEER, OTHER = "wss://peer.example", "wss://other.example"


class Commands(TestCase):
    timeout = 60

    def setUp(self) -> None:
        self.sessions, self.peers = FakeSessions(), FakePeers()
        settings = ControlSettings(address="127.0.0.1:0")
        self.service = ControlService(reactor, settings, self.sessions, self.peers, lambda: True)
        self.service.startService()
        self.addCleanup(self.service.stopService)
        self.out, self.err = StringIO(), StringIO()
        self.patch(sys, "stdout", self.out)
        self.patch(sys, "stderr", self.err)

    def run_negctl(self, *argv: str) -> Deferred[int]:
        """The exit status. One at a time: the streams are the process's."""
        return deferToThread(main, ["--control", self.service.address, *argv])

    async def output(self, *argv: str) -> str:
        """What a command that succeeds prints."""
        self.out.truncate(self.out.seek(0))
        self.assertEqual(await self.run_negctl(*argv), 0, self.err.getvalue())
        self.assertEqual(self.err.getvalue(), "")
        return self.out.getvalue()

    async def complaint(self, *argv: str) -> str:
        """What a command that fails says on stderr."""
        self.assertEqual(await self.run_negctl(*argv), 1)
        self.assertEqual(self.out.getvalue(), "")
        return self.err.getvalue()

    def next_sync(self) -> Deferred[FakeSync]:
        started: Deferred[FakeSync] = Deferred()
        self.peers.on_sync = started.callback
        return started


class StatusTests(Commands):
    def fill(self) -> None:
        now = int(time.time())
        self.peers.listed = {
            PEER: PeerState(last_sync=now - 130, events_synced=1234),
            OTHER: PeerState(
                status=PeerStatus.ERROR, last_error="no\nanswer", consecutive_failures=3
            ),
        }

    async def test_status_is_a_table(self) -> None:
        self.fill()
        self.assertEqual(
            (await self.output("status")).splitlines(),
            [
                f"negd at {self.service.address} is ready; background sync is on",
                "2 peers, 0 sessions, last sync 2 min ago",
                "",
                "PEER                 STATUS  LAST SYNC  EVENTS  FAILURES  LAST ERROR",
                "wss://other.example  error   never           0         3  no answer",
                "wss://peer.example   idle    2 min ago   1,234         0",
            ],
        )

    async def test_status_without_peers(self) -> None:
        self.peers.background = False
        self.assertEqual(
            (await self.output("status")).splitlines(),
            [
                f"negd at {self.service.address} is ready; background sync is off",
                "0 peers, 0 sessions, last sync never",
            ],
        )

    async def test_status_as_json(self) -> None:
        self.fill()
        found = json.loads(await self.output("status", "--json"))
        self.assertEqual(
            [found[name] for name in ("ready", "active", "peer_count", "session_count")],
            [True, True, 2, 0],
        )
        self.assertEqual(
            found["peers"][0],
            {
                "url": OTHER,
                "status": "error",
                "last_sync": 0,
                "events_synced": 0,
                "consecutive_failures": 3,
                "last_error": "no\nanswer",
            },
        )


class PeersTests(Commands):
    async def test_peers_are_added_listed_and_removed(self) -> None:
        self.assertEqual(await self.output("peers", "list"), "")
        self.assertEqual(await self.output("peers", "add", PEER), f"added {PEER}\n")
        await self.output("peers", "add", OTHER)
        self.assertEqual(await self.output("peers", "list"), f"{OTHER}\n{PEER}\n")
        self.assertEqual(json.loads(await self.output("peers", "list", "--json")), [OTHER, PEER])
        self.assertEqual(await self.output("peers", "remove", PEER), f"removed {PEER}\n")
        self.assertEqual(self.peers.peers(), [OTHER])

    async def test_what_is_no_relay_is_refused_in_one_line(self) -> None:
        self.assertEqual(
            await self.complaint("peers", "add", "x"),
            "negctl: peer 'x': expected ws://HOST[:PORT] or wss://HOST\n",
        )

    async def test_trigger_starts_one_or_all(self) -> None:
        await self.output("peers", "add", PEER)
        started = await self.output("trigger", PEER, "--filter", '{"kinds":[1]}')
        self.assertEqual(started, f"started a sync with {PEER}\n")
        self.assertEqual(await self.output("trigger"), "started a sync with every peer\n")
        self.assertEqual(
            self.peers.triggered, [(PEER, Filter.build(kinds=[1])), (None, EVERYTHING)]
        )

    async def test_trigger_of_an_unlisted_peer_fails(self) -> None:
        complaint = await self.complaint("trigger", PEER)
        self.assertEqual(complaint, f"negctl: peer {PEER} is not listed\n")

    async def test_a_filter_that_cannot_be_sent_fails(self) -> None:
        self.assertIn(
            "an empty list of ids", await self.complaint("trigger", '--filter={"ids":[]}')
        )


class SessionsTests(Commands):
    def fill(self) -> None:
        now = int(time.time())
        for connection in ("127.0.0.1:5-1", "d"):
            live = SessionInfo(connection, "neg", now - 7200, now - 60, 1234)
            self.sessions.live[connection, "neg"] = live

    async def test_sessions_are_listed(self) -> None:
        self.assertEqual(await self.output("sessions", "list"), "no sessions\n")
        self.fill()
        self.assertEqual(
            (await self.output("sessions", "list")).splitlines(),
            [
                "ID   CONNECTION     AGE   IDLE  ROUNDS",
                "neg  127.0.0.1:5-1  2 h  1 min   1,234",
                "neg  d              2 h  1 min   1,234",
            ],
        )
        found = json.loads(await self.output("sessions", "list", "--json"))
        self.assertEqual([one["connection_id"] for one in found], ["127.0.0.1:5-1", "d"])

    async def test_a_session_is_closed_on_one_connection_or_all(self) -> None:
        self.fill()
        await self.output("sessions", "close", "neg", "--connection", "d")
        self.assertEqual(list(self.sessions.live), [("127.0.0.1:5-1", "neg")])
        self.assertEqual(await self.output("sessions", "close", "neg"), "closed neg\n")
        self.assertEqual(self.sessions.live, {})


class SyncTests(Commands):
    async def test_a_sync_ends_with_what_moved(self) -> None:
        started = self.next_sync()
        code = self.run_negctl("sync", PEER, "--filter", '{"kinds":[1]}', "--since", "7")
        sync = await started
        self.assertEqual(sync.wanted, Filter.build(kinds=[1], since=7))
        sync.tell(round=3, have=1000, need=2000, fetched=1999, sent=1000)
        sync.finish()
        self.assertEqual(await code, 0)
        self.assertEqual(
            self.out.getvalue(),
            f"synced with {PEER} in 3 rounds: fetched 1,999 of 2,000, sent 1,000 of 1,000\n",
        )
        self.assertEqual(self.err.getvalue(), "")

    async def test_a_sync_that_fails_says_why_and_how_far_it_came(self) -> None:
        started = self.next_sync()
        code = self.run_negctl("sync", PEER)
        sync = await started
        sync.tell(round=1, need=5, fetched=2)
        sync.fail(PeerError("connection lost"))
        self.assertEqual(await code, 1)
        self.assertEqual(self.out.getvalue(), "")
        self.assertEqual(
            self.err.getvalue(),
            f"negctl: sync with {PEER} failed: connection lost "
            "(fetched 2 of 5, sent 0 of 0 until then)\n",
        )

    async def test_a_sync_that_is_refused_says_why(self) -> None:
        complaint = await self.complaint("sync", "x")
        self.assertTrue(complaint.startswith("negctl: sync with x failed: peer 'x': expected"))

    async def test_an_interrupt_cancels_the_sync_and_ends_with_130(self) -> None:
        started = self.next_sync()
        process = subprocess.Popen(
            [sys.executable, "-m", "negd.cli", "sync", PEER],
            env=os.environ | {"NEGD_CONTROL": self.service.address},
            stderr=subprocess.PIPE,
        )
        self.addCleanup(process.kill)
        sync = await started
        sync.tell(round=1)
        process.send_signal(signal.SIGINT)
        _, err = await deferToThread(process.communicate, timeout=30)
        self.assertEqual(process.returncode, 130)
        self.assertEqual(err, b"negctl: interrupted\n")
        await sync.cancelled

    async def test_a_daemon_that_stops_ends_the_sync_with_an_error(self) -> None:
        started = self.next_sync()
        code: Any = self.run_negctl("sync", PEER)
        await started
        await self.service.stopService()
        self.assertEqual(await code, 1)
        self.assertIn("failed: the daemon is stopping", self.err.getvalue())
