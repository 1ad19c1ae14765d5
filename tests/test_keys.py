"""The daemon's key, and files that hold none."""

from __future__ import annotations

from pathlib import Path

import pytest

from negd.errors import ConfigError
from negd.keys import read_key
from negd.nostr.event import check
from negd.nostr.signing import Signer

SECRET = b"\x01\xab" * 16


def key_file(folder: Path, text: bytes, mode: int = 0o600) -> str:
    path = folder / "key"
    path.write_bytes(text)
    path.chmod(mode)
    return str(path)


def complaint(path: str) -> str:
    with pytest.raises(ConfigError) as caught:
        read_key(path)
    assert "\n" not in caught.value.text
    assert caught.value.text.startswith(f"relay.key_file = {path!r}: ")
    return caught.value.text


@pytest.mark.parametrize("text", [SECRET.hex(), SECRET.hex().upper(), f" {SECRET.hex()}\r\n\n"])
@pytest.mark.parametrize("mode", [0o600, 0o400, 0o440])
def test_a_key_signs_as_its_owner(tmp_path: Path, text: str, mode: int) -> None:
    signer = read_key(key_file(tmp_path, text.encode(), mode))
    assert signer.pubkey == Signer(SECRET).pubkey
    check(signer.sign(created_at=1))


def test_a_missing_file_is_said(tmp_path: Path) -> None:
    assert complaint(str(tmp_path / "none")).endswith(
        "it cannot be read: No such file or directory"
    )
    assert "cannot be read" in complaint(str(tmp_path))


@pytest.mark.parametrize("mode", [0o604, 0o644, 0o602])
def test_a_file_that_is_open_to_everybody_is_refused(tmp_path: Path, mode: int) -> None:
    said = complaint(key_file(tmp_path, SECRET.hex().encode(), mode))
    assert said.endswith("everybody can read or change it: chmod 600")


@pytest.mark.parametrize(
    "text",
    [
        b"",
        SECRET,
        SECRET.hex()[:-1].encode(),
        SECRET.hex().encode() + b"0",
        SECRET.hex().encode() * 20,
        b"nsec1" + b"q" * 58,
        b"g" * 64,
        b"0" * 64,
        b"f" * 64,
    ],
)
def test_a_file_without_a_key_is_refused_and_not_quoted(tmp_path: Path, text: bytes) -> None:
    said = complaint(key_file(tmp_path, text))
    assert "expected" in said
    assert text[:20].decode("latin-1") not in said or not text
