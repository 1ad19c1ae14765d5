"""Addresses of the control service."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from negd.control.address import Address
from negd.errors import ConfigError


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("127.0.0.1:50064", Address(host="127.0.0.1", port=50064)),
        ("localhost:0", Address(host="localhost", port=0)),
        ("[::1]:50064", Address(host="::1", port=50064)),
        ("unix:/run/negd.sock", Address(path="/run/negd.sock")),
    ],
)
def test_both_forms_are_read_and_written(text: str, address: Address) -> None:
    assert Address.parse(text) == address
    assert str(address) == text


def test_a_relative_path_is_made_absolute() -> None:
    assert Address.parse("unix:negd.sock").path == str(Path("negd.sock").absolute())


@pytest.mark.parametrize(
    "text",
    ["", "50064", ":50064", "host", "host:", "host:x", "host:65536", "host:-1", "host:٣",
     "::1:50064", "[::1]", "[]:1", "[::1:1", "unix:", "tcp:host:1"],
)  # fmt: skip
def test_anything_else_is_refused_by_name(text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Address.parse(text)
    assert caught.value.text == f"control address {text!r}: expected HOST:PORT or unix:PATH"


def test_a_taken_port_is_not_free() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = Address(host="127.0.0.1", port=taken.getsockname()[1])
        with pytest.raises(ConfigError, match=r"cannot listen there \(Address already in use\)"):
            address.check_free()
    address.check_free()


def test_another_machines_address_is_not_free() -> None:
    with pytest.raises(ConfigError, match="cannot listen there"):
        Address(host="192.0.2.1", port=9).check_free()


def test_a_path_that_a_server_listens_on_is_not_free(tmp_path: Path) -> None:
    path = tmp_path / "s"
    address = Address(path=str(path))
    address.check_free()
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
        server.listen()
        with pytest.raises(ConfigError, match="another server listens there"):
            address.check_free()
    address.check_free()  # the socket is still there, and nobody listens


def test_a_path_that_cannot_hold_a_socket_is_not_free(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="no socket"):
        Address(path=str(tmp_path / "file")).check_free()
    with pytest.raises(ConfigError, match="no folder"):
        Address(path=str(tmp_path / "none" / "s")).check_free()
