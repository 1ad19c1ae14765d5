"""Whose fault it was, and the words a remote is told.

Every error negd raises on purpose is a :class:`NegdError`.  It carries a ``prefix`` (one of the
machine-readable words of NIP-01: ``invalid``, ``blocked``, ``closed``, ``error``, ...) and a
``text`` for people, so that each channel can answer in its own form (``NOTICE``, ``NEG-ERR``,
``OK false``, a gRPC ``error`` field, one line on stderr) from the same two strings.
"""

from __future__ import annotations

__all__ = [
    "ConfigError",
    "DamagedStore",
    "LimitReached",
    "NegdError",
    "OlderStore",
    "PeerError",
    "ProtocolViolation",
    "RemoteError",
    "StorageError",
    "Unknown",
]


class NegdError(Exception):
    """Base of all errors that negd raises on purpose.

    :ivar prefix: the machine-readable word that a remote is told.
    :ivar text: what happened, in words for a person; no trailing full stop.
    """

    prefix = "error"

    def __init__(self, text: str, prefix: str | None = None) -> None:
        super().__init__(text)
        self.text = text
        if prefix is not None:
            self.prefix = prefix

    @property
    def answer(self) -> str:
        """``prefix: text``, as NIP-01 writes reasons."""
        return f"{self.prefix}: {self.text}"


class RemoteError(NegdError):
    """The other side broke a rule; nothing of ours is wrong."""

    prefix = "invalid"


class ProtocolViolation(RemoteError):
    """The bytes of a negentropy message are not a message of protocol version 1."""


class LimitReached(NegdError):
    """A bound of ours is reached: sessions, bytes, subscriptions. Trying later may work."""

    prefix = "blocked"


class Unknown(NegdError):
    """A session, subscription or peer that is not there (any more)."""

    prefix = "closed"


class StorageError(NegdError):
    """The storage failed: a full disk, a lost connection, a damaged file."""


class OlderStore(StorageError):
    """It is of an older schema and was to be read only: opening it for writing upgrades it."""


class DamagedStore(StorageError):
    """It is too damaged to be opened; ``text`` says what may save the rest."""


class PeerError(NegdError):
    """A sync with a peer failed; ``text`` is what the peer said or did not say."""


class ConfigError(NegdError):
    """A wrong key or value in a file, an option or a command line.

    :ivar text: one line naming the key, the value and what was expected.
    """

    prefix = "invalid"
