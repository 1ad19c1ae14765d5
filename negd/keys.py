"""The daemon's own key, read from a file: who it is to peers that ask (NIP-42)."""

from __future__ import annotations

import os
import re
import stat

from negd.errors import ConfigError
from negd.nostr.signing import Signer

_LARGEST_FILE = 1000
_HEX = re.compile(rb"\s*([0-9A-Fa-f]{64})\s*")


def read_key(path: str) -> Signer:
    """The key in a file that holds 64 hex digits that is not for everybody.

    What the file holds is in no error's text.

    :raises ConfigError: it cannot be read, everybody can read it, or it .
    """
    try:
        with open(path, "rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            text = file.read(_LARGEST_FILE)
    except OSError as error:
        raise _wrong(path, f"it cannot be read: {error.strerror}") from None
    if mode & (stat.S_IROTH | stat.S_IWOTH):
        raise _wrong(path, "everybody can read or change it: chmod 600")
    found = _HEX.fullmatch(text)
    if found is None:
        raise _wrong(path, "expected a file of 64 hex digits and nothing else")
    try:
        return Signer(bytes.fromhex(found[1].decode()))
    except ValueError:
        raise _wrong(path, "expected a secret key of secp256k1") from None


def _wrong(path: str, why: str) -> ConfigError:
    return ConfigError(f"relay.key_file = {path!r}: {why}")
