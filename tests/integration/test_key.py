"""A daemon with a key of its own."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from urllib.request import Request, urlopen

from negd.nostr.signing import Signer
from tests.integration.conftest import MakeDaemon

SECRET = b"\x05" * 32


def configuration(folder: Path) -> list[str]:
    """The options of a daemon whose configuration names a key file in the folder."""
    file = folder / "negd.toml"
    file.write_text(f'[relay]\nkey_file = "{folder / "key"}"\n')
    return ["--config", str(file)]


def test_its_public_key_is_shown(make_daemon: MakeDaemon, tmp_path: Path) -> None:
    (tmp_path / "key").write_text(SECRET.hex())
    (tmp_path / "key").chmod(0o600)
    with make_daemon(options=configuration(tmp_path)) as daemon:
        url = daemon.url.replace("ws:", "http:")
        with urlopen(Request(url, headers={"Accept": "application/nostr+json"})) as answer:
            assert json.load(answer)["pubkey"] == Signer(SECRET).pubkey


def test_without_the_file_it_does_not_start(make_daemon: MakeDaemon, tmp_path: Path) -> None:
    daemon = make_daemon(options=configuration(tmp_path))
    daemon.spawn(stderr=subprocess.PIPE)
    assert daemon.wait(within=30) == 1
    assert daemon.stderr is not None
    said = daemon.stderr.read().decode()
    assert said.startswith(f"negd: relay.key_file = '{tmp_path}/key': it cannot be read: No such")
    assert said.count("\n") == 1
