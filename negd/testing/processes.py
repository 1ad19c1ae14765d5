"""The real thing: ``twistd negd`` and ``negctl`` as processes, on free loopback ports."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import IO
from urllib.request import urlopen

from negd.control.client import ControlClient, ControlError
from negd.nostr.event import Event
from negd.testing.ports import free_port
from negd.testing.running import Running

START_WITHIN = 30.0
"""Seconds until a daemon must answer that it is ready."""

STOP_WITHIN = 60.0
"""Seconds until a daemon must have ended after SIGTERM."""

ANSWER_WITHIN = 120.0
"""Seconds until a ``negctl`` must have ended."""

_BIN = Path(sys.executable).parent
_TWISTD = [str(_BIN / "twistd"), "--nodaemon", "--pidfile=", "negd"]


def _environment() -> dict[str, str]:
    """Ours; SIGABRT ends a process of it with every thread's stack on stderr."""
    return {**os.environ, "PYTHONFAULTHANDLER": "1"}


class DaemonProcess(Running):
    """One ``twistd -n negd`` that keeps its store and its log in a folder. A context manager.

    :param folder: where it runs; a relative store path starts here.
    :param options: more of negd's own options.
    :ivar url: where it serves Nostr clients.
    :ivar control: where it serves the control service.
    :ivar log: what it wrote, stdout and stderr.
    """

    def __init__(
        self, folder: Path, *, store: str = "lmdb:store", options: Sequence[str] = ()
    ) -> None:
        self.folder = folder
        self.store = store
        port = free_port()
        self.url = f"ws://127.0.0.1:{port}"
        self.control = f"127.0.0.1:{free_port()}"
        self.log = folder / "negd.log"
        self._listen = f"tcp:{port}:interface=127.0.0.1"
        self._options = options
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it and return when it is ready.

        :raises RuntimeError: it ended or was not ready in time; with what it wrote.
        """
        self.spawn()
        self.await_ready()

    def await_ready(self) -> None:
        """Return when one that was spawned is ready.

        :raises RuntimeError: as :meth:`start`.
        """
        deadline = time.monotonic() + START_WITHIN
        while not self.is_ready():
            if not self.is_running() or time.monotonic() > deadline:
                self.kill()
                raise RuntimeError(f"negd did not start:\n{self.log.read_text()}")
            time.sleep(0.05)

    def spawn(self, stderr: int | None = None) -> None:
        """Start it without waiting.

        :param stderr: as for :class:`subprocess.Popen`; the log unless given.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        options = ["--store", self.store, "--listen", self._listen, "--control", self.control]
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [*_TWISTD, *options, *self._options],
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log if stderr is None else stderr,
                env=_environment(),
            )

    @property
    def stderr(self) -> IO[bytes] | None:
        """Its stderr, where :meth:`spawn` was asked for a pipe."""
        return None if self._process is None else self._process.stderr

    @property
    def pid(self) -> int:
        """Its process id."""
        assert self._process is not None
        return self._process.pid

    def is_running(self) -> bool:
        """Whether the process lives."""
        return self._process is not None and self._process.poll() is None

    def is_ready(self) -> bool:
        """Whether its control service says that everything runs."""
        with ControlClient(self.control, timeout=1.0) as client:
            try:
                return client.ready()
            except ControlError:
                return False

    def metric(self, name: str) -> float:
        """A figure without labels of its ``/metrics``.

        :raises KeyError: there is none of that name.
        """
        with urlopen(f"http{self.url.removeprefix('ws')}/metrics", timeout=ANSWER_WITHIN) as answer:
            lines = answer.read().decode().splitlines()
        figures = dict(line.split(" ", 1) for line in lines if not line.startswith("#"))
        return float(figures[name])

    def wait(self, within: float = STOP_WITHIN) -> int:
        """Its exit status, as :attr:`subprocess.Popen.returncode`, once it has ended.

        :raises RuntimeError: it did not end; with what it wrote, every thread's stack at last.
        """
        assert self._process is not None
        try:
            return self._process.wait(within)
        except subprocess.TimeoutExpired:
            self._process.send_signal(signal.SIGABRT)
            self._process.wait()
            wrote = self.log.read_text()
            raise RuntimeError(f"negd did not end within {within:g} s:\n{wrote}") from None

    def stop(self) -> int:
        """Send SIGTERM and return the exit status."""
        self.send_sigterm()
        return self.wait()

    def send_sigterm(self) -> None:
        """Ask it to stop."""
        assert self._process is not None
        self._process.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """Send SIGKILL and see it gone."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def end(self) -> None:
        """Have it gone, by the shortest way, if it runs."""
        if self.is_running():
            self.kill()

    def negctl(self, *arguments: str, shown: bool = False) -> subprocess.CompletedProcess[str]:
        """Run ``negctl`` against its control service; see :func:`negctl`."""
        self.folder.mkdir(parents=True, exist_ok=True)
        return negctl("--control", self.control, *arguments, folder=self.folder, shown=shown)

    def hold(self, events: Iterable[Event]) -> None:
        """Import events into its store; it must not be running.

        :raises RuntimeError: it failed; with what it said.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        lines = "".join(event.encode().decode() + "\n" for event in events)
        done = negctl("import", "-", "--store", self.store, folder=self.folder, stdin=lines)
        if done.returncode:
            raise RuntimeError(done.stderr)

    def export(self) -> set[str]:
        """The lines that ``negctl export`` writes of its store.

        :raises RuntimeError: it failed; with what it said.
        """
        done = negctl("export", "--store", self.store, folder=self.folder)
        if done.returncode:
            raise RuntimeError(done.stderr)
        # Not splitlines: JSON leaves U+2028 and its like as they are.
        return set(done.stdout.split("\n")) - {""}


def twistd(*arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run ``twistd -n negd`` in a folder, to its end."""
    return subprocess.run(
        [*_TWISTD, *arguments], cwd=folder, capture_output=True, text=True, check=False
    )


def negctl(
    *arguments: str, folder: Path, stdin: str = "", shown: bool = False
) -> subprocess.CompletedProcess[str]:
    """Run ``negctl`` in a folder, to its end.

    :param shown: let it write to our own stdout and stderr instead of keeping what it writes.
    :raises RuntimeError: it did not end; with what it wrote, every thread's stack at last.
    """
    command = [str(_BIN / "negctl"), *arguments]
    kept = None if shown else subprocess.PIPE
    process = subprocess.Popen(
        command,
        cwd=folder,
        stdin=subprocess.PIPE,
        stdout=kept,
        stderr=kept,
        text=True,
        env=_environment(),
    )
    try:
        stdout, stderr = process.communicate(stdin, ANSWER_WITHIN)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGABRT)
        stdout, stderr = process.communicate()
        text = f"{' '.join(arguments)} did not end within {ANSWER_WITHIN:g} s"
        raise RuntimeError(f"negctl {text}:\n{stdout}\n{stderr}") from None
    return subprocess.CompletedProcess(command, process.returncode, stdout, stderr)
