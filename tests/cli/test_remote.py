"""The commands that ask a daemon, against a real control service."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from io import StringIO
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.threads import deferToThread
from twisted.trial.unittest import TestCase

from negd.cli.main import main
from negd.cli.residues import FAULTS, MEANINGS
from negd.control import server
from negd.control.server import ControlService
from negd.errors import ConfigError, LimitReached, PeerError
from negd.interfaces import (
    Fault,
    LedgerEntry,
    PeerProfile,
    PeerState,
    PeerStatus,
    Residue,
    SessionInfo,
)
from negd.nostr.document import RelayDocument
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
        self.assertEqual(await self.output("peers", "list"), "no peers\n")
        self.assertEqual(await self.output("peers", "add", PEER), f"added {PEER}\n")
        await self.output("peers", "add", OTHER)
        self.peers.listed[PEER] = PeerState(last_sync=int(time.time()) - 130)
        self.peers.listed[OTHER] = PeerState(status=PeerStatus.ERROR, last_error="no\nanswer")
        self.assertEqual(
            (await self.output("peers", "list")).splitlines(),
            [
                "PEER                 STATUS  LAST SYNC  LAST ERROR",
                "wss://other.example  error   never      no answer",
                "wss://peer.example   idle    2 min ago",
            ],
        )
        found = json.loads(await self.output("peers", "list", "--json"))
        self.assertEqual([one["url"] for one in found], [OTHER, PEER])
        self.assertEqual((found[0]["status"], found[0]["last_error"]), ("error", "no\nanswer"))
        self.assertEqual(
            await self.output("peers", "remove", PEER), f"not listed any more: {PEER}\n"
        )
        self.assertEqual(await self.output("peers", "remove", PEER), f"was not listed: {PEER}\n")
        self.assertEqual(self.peers.peers(), [OTHER])

    async def test_a_peer_is_told_of_by_the_url_that_is_listed(self) -> None:
        odd = "Peer.Example:443/"
        self.assertEqual(await self.output("peers", "add", odd), f"added {PEER}\n")
        self.assertEqual(self.peers.peers(), [PEER])
        self.assertEqual(await self.output("peers", "add", odd), f"already listed: {PEER}\n")
        self.assertEqual(
            await self.output("peers", "forget", odd), f"forgot 0 differences with {PEER}\n"
        )
        self.assertEqual(await self.output("trigger", odd), f"started a sync with {PEER}\n")
        removed = await self.output("peers", "remove", odd)
        self.assertEqual(removed, f"not listed any more: {PEER}\n")

    async def test_what_the_daemon_refuses_is_said_in_its_words(self) -> None:
        async def refuse(url: str) -> None:
            raise LimitReached("1,000 peers are listed, and no more may be")

        self.patch(self.peers, "add", refuse)
        self.assertEqual(
            await self.complaint("peers", "add", PEER),
            "negctl: 1,000 peers are listed, and no more may be\n",
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


class ShowTests(Commands):
    def fill(self) -> None:
        """A peer of which there is much to tell."""
        now = time.time()
        document = RelayDocument("strfry", "1.0.4", (1, 77), 131072, 20, None, True)
        profile = PeerProfile(False, now - 7300, "bad msg:\x1b[31m", 1000, 256, document, now)
        self.peers.listed[PEER] = PeerState(
            int(now) - 10900, 1234567, PeerStatus.ERROR, "no\nanswer", 4, now + 150, profile
        )
        self.peers.terms = replace(
            self.peers.terms, wanted=Filter.build(kinds=[1]), interval=5400.0, linked=True
        )
        entries = [
            LedgerEntry(Residue.UNFETCHABLE, "not returned", 1, now + 4000),
            LedgerEntry(
                Residue.OURS_REJECTED, "replaced: have a newer event", 12, now - 5, "0b" * 32
            ),
            LedgerEntry(Residue.OURS_REJECTED, "deleted:\x1b[2J", 1, now + 90000),
            LedgerEntry(Residue.OURS_REJECTED, "deleted", 1, now + 90000),
        ]
        self.peers.ledgers[PEER] = {bytes([n]) * 32: one for n, one in enumerate(entries)}

    async def test_a_peer_is_shown_with_all_about_it(self) -> None:
        self.fill()
        shown = await self.output("peers", "show", PEER.upper(), "--entries", "2")
        self.assertEqual(
            shown.splitlines(),
            [
                f"{PEER} is listed; a link to it is open",
                "",
                "direction      up and down",
                'filter         {"kinds":[1]}',
                "interval       1 h 30 min",
                "tail           on: new events move as they come",
                "",
                "status         error: no answer",
                "failures       4 in a row, tried again in 2 min",
                "last sync      3 h ago",
                "events         1,234,567 moved",
                "",
                "NIP-77         no, as found 2 h ago: bad msg:?[31m (synced by pages)",
                "largest set    1,000 records",
                "per REQ        256 events",
                "software       strfry 1.0.4",
                "says it takes  131,072 bytes a message, 20 subscriptions",
                "says it wants  AUTH",
                "",
                "4 differences noted, left alone until due",
                "",
                "3 refused by us: replaced, deleted, expired or not valid",
                f"  RETRY      TRIES  {'EVENT':<64}  WHAT WAS SAID",
                f"  next sync     12  {'01' * 32}  replaced: have a newer event ({'0b' * 32})",
                f"  in 1 d         1  {'02' * 32}  deleted:?[2J",
                "  and 1 more",
                "",
                "1 listed by the peer, but not returned",
                f"  RETRY   TRIES  {'EVENT':<64}  WHAT WAS SAID",
                f"  in 1 h      1  {'00' * 32}  not returned",
            ],
        )

    async def test_a_peer_of_which_nothing_is_known_yet(self) -> None:
        self.peers.listed[PEER] = PeerState()
        self.peers.terms = replace(self.peers.terms, listed=False, tail=False)
        self.assertEqual(
            (await self.output("peers", "show", PEER)).splitlines(),
            [
                f"{PEER} is not listed, only being synced; no link to it is kept open",
                "",
                "direction  up and down",
                "filter     everything",
                "interval   10 min",
                "tail       off",
                "",
                "status     idle",
                "last sync  never",
                "events     0 moved",
                "",
                "NIP-77     not known yet",
                "",
                "0 differences noted",
            ],
        )

    async def test_a_tail_that_the_peer_has_ended_is_said_so(self) -> None:
        self.peers.listed[PEER] = PeerState()
        self.peers.terms = replace(self.peers.terms, tail_refused="blocked: no\x07")
        lines = (await self.output("peers", "show", PEER)).splitlines()
        self.assertIn("tail       ended by the peer, begins again later: blocked: no?", lines)

    async def test_counts_alone_are_shown_where_no_events_are_wanted(self) -> None:
        self.fill()
        shown = await self.output("peers", "show", PEER, "--entries", "0")
        self.assertTrue(
            shown.endswith(
                "\n\n3 refused by us: replaced, deleted, expired or not valid"
                "\n\n1 listed by the peer, but not returned\n"
            )
        )

    async def test_a_long_filter_is_cut_for_people_and_whole_for_scripts(self) -> None:
        self.fill()
        wanted = Filter.build(ids=[bytes([n]) * 32 for n in range(100)])
        self.peers.terms = replace(self.peers.terms, wanted=wanted)
        shown = await self.output("peers", "show", PEER)
        self.assertIn("... (--json has all of it)\n", shown)
        self.assertLess(max(map(len, shown.splitlines())), 400)
        found = json.loads(await self.output("peers", "show", PEER, "--json"))
        self.assertEqual(found["filter"], wanted.to_json())

    async def test_a_peer_as_json(self) -> None:
        self.fill()
        found = json.loads(await self.output("peers", "show", PEER, "--json", "--entries", "1"))
        state = self.peers.listed[PEER]
        self.assertEqual(
            {name: found[name] for name in ("url", "direction", "interval", "linked")},
            {"url": PEER, "direction": "both", "interval": 5400, "linked": True},
        )
        self.assertEqual(found["state"]["next_sync"], state.next_sync)
        self.assertEqual(found["state"]["profile"]["document"]["supported_nips"], [1, 77])
        self.assertEqual(found["residues"], {"ours-rejected": 3, "unfetchable": 1})
        rejected, missing = found["entries"]
        self.assertEqual((rejected["id"], rejected["residue"]), ("01" * 32, "ours-rejected"))
        self.assertEqual((missing["id"], missing["tries"]), ("00" * 32, 1))

    async def test_every_kind_of_difference_has_its_words(self) -> None:
        self.peers.listed[PEER] = PeerState()
        self.peers.ledgers[PEER] = {
            bytes([n]) * 32: LedgerEntry(residue, "", 1, 0) for n, residue in enumerate(Residue)
        }
        lines = (await self.output("peers", "show", PEER)).splitlines()
        self.assertEqual({residue.value for residue in Residue}, set(MEANINGS))
        for words in MEANINGS.values():
            self.assertIn(f"1 {words}", lines)

    async def test_every_kind_of_fault_has_its_words(self) -> None:
        faults = {fault.value: n for n, fault in enumerate(Fault, 1)}
        self.peers.listed[PEER] = PeerState(profile=PeerProfile(faults=faults))
        lines = (await self.output("peers", "show", PEER)).splitlines()
        (told,) = [line.split(None, 1)[1] for line in lines if line.startswith("faults")]
        self.assertEqual({fault.value for fault in Fault}, set(FAULTS))
        expected = {f"{faults[fault]} {words}" for fault, words in FAULTS.items()}
        self.assertEqual(set(told.split(", ")), expected)

    async def test_what_a_ledger_explains_is_forgotten(self) -> None:
        self.fill()
        self.assertEqual(
            await self.output("peers", "forget", PEER),
            f"forgot 4 differences with {PEER}: the next sync tries them again\n",
        )
        self.assertEqual(
            await self.output("peers", "forget", PEER), f"forgot 0 differences with {PEER}\n"
        )

    async def test_a_peer_that_is_not_listed_is_named(self) -> None:
        for action in ("show", "forget"):
            complaint = await self.complaint("peers", action, PEER)
            self.assertEqual(complaint, f"negctl: peer {PEER} is not listed\n")
            self.err.truncate(self.err.seek(0))


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
        elsewhere = await self.output("sessions", "close", "neg", "--connection", "d")
        self.assertEqual(elsewhere, "was not open: neg\n")
        self.assertEqual(await self.output("sessions", "close", "neg"), "not open any more: neg\n")
        self.assertEqual(self.sessions.live, {})
        self.assertEqual(await self.output("sessions", "close", "neg"), "was not open: neg\n")


class SyncTests(Commands):
    async def test_a_sync_ends_with_what_moved(self) -> None:
        started = self.next_sync()
        code = self.run_negctl("sync", PEER, "--filter", '{"kinds":[1]}', "--since", "7")
        sync = await started
        self.assertEqual(sync.wanted, Filter.build(kinds=[1], since=7))
        sync.tell(round=3, have=1000, need=2000, fetched=2000, sent=1000)
        sync.finish()
        self.assertEqual(await code, 0)
        self.assertEqual(
            self.out.getvalue(),
            f"synced with {PEER} in 3 rounds: fetched 2,000 of 2,000, sent 1,000 of 1,000\n",
        )
        self.assertEqual(self.err.getvalue(), "")

    async def test_a_sync_says_why_it_moved_less_than_it_found(self) -> None:
        started = self.next_sync()
        code = self.run_negctl("sync", PEER)
        sync = await started
        sync.tell(round=3, have=1010, need=2000, fetched=1900, already=20, sent=1000)
        sync.tell(refused=19, unfetchable=2, rejected=3, explained=40)
        sync.finish()
        self.assertEqual(await code, 0)
        self.assertEqual(
            self.out.getvalue().splitlines(),
            [
                f"synced with {PEER} in 3 rounds: fetched 1,900 of 2,000, sent 1,000 of 1,010",
                "       20 of those fetched were here already",
                "       19 refused by us: replaced, deleted, expired or not valid",
                "        2 listed by the peer, but not returned",
                "        3 refused by the peer",
                f"       40 left alone for now, tried in vain before: negctl peers show {PEER}",
                "       46 more, against the peer's direction "
                "or for a reason the daemon does not tell",
            ],
        )

    async def test_a_service_that_is_not_negds_own_is_enough_for_a_sync(self) -> None:
        await self.service.stopService()
        self.patch(server, "add_ControlServiceServicer_to_server", lambda *_: None)
        self.service.startService()
        started = self.next_sync()
        code = self.run_negctl("sync", PEER)
        sync = await started
        sync.tell(round=3, need=2000, fetched=1900, refused=100)
        sync.finish()
        self.assertEqual(await code, 0)
        self.assertEqual(
            self.out.getvalue().splitlines(),
            [
                f"synced with {PEER} in 3 rounds: fetched 1,900 of 2,000, sent 0 of 0",
                "      100 more, against the peer's direction "
                "or for a reason the daemon does not tell",
            ],
        )

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
        async def refuse(*_: object) -> None:
            raise ConfigError("peer 'wss://peer.example': expected a public address")

        self.patch(self.peers, "sync", refuse)
        self.assertEqual(
            await self.complaint("sync", PEER),
            f"negctl: sync with {PEER} failed: peer '{PEER}': expected a public address\n",
        )

    async def test_an_interrupt_cancels_the_sync_and_ends_with_130(self) -> None:
        started = self.next_sync()
        process = subprocess.Popen(
            [sys.executable, "-m", "negd.cli", "sync", PEER],
            env=os.environ | {"NEGD_CONTROL": self.service.address},
            stderr=subprocess.PIPE,
            # ignored, and that is inherited, where a shell runs the tests in its background
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
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
