"""What the tests of daemons rest on: ports that are one's own, and no end without an answer."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from negd.testing import processes
from negd.testing.ports import free_port


def test_a_port_is_given_once_and_can_be_listened_on_again_and_again() -> None:
    ports = [free_port() for _ in range(50)]
    assert len(set(ports)) == 50
    for _ in range(2):
        with socket.socket() as server:
            server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            server.bind(("127.0.0.1", ports[0]))
            server.listen()
            socket.create_connection(("127.0.0.1", ports[0])).close()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", ports[0]))


def test_a_negctl_that_hangs_is_ended_and_shows_where_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    silent = socket.create_server(("127.0.0.1", 0))
    monkeypatch.setattr(processes, "ANSWER_WITHIN", 1.0)
    with silent, pytest.raises(RuntimeError) as failed:
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        processes.negctl("--control", address, "status", folder=tmp_path)
    said = str(failed.value)
    assert "status did not end within 1 s" in said
    assert "negd/cli" in said
