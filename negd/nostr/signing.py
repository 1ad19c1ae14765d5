"""Making signed events: for NIP-42 answers, the demo, benchmarks and tests."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import msgspec
from coincurve import PrivateKey

from negd.nostr.event import Event, from_fields


class Signer:
    """One author: a secret key and the x-only public key that belongs to it (BIP-340).

    :param secret: 32 bytes.
    :raises ValueError: ``secret`` is not a private key of secp256k1.
    """

    def __init__(self, secret: bytes) -> None:
        self._key = PrivateKey(secret)
        self.pubkey = self._key.public_key_xonly.format().hex()

    def sign(
        self,
        *,
        created_at: int,
        kind: int = 1,
        tags: Iterable[Sequence[str]] = (),
        content: str = "",
    ) -> Event:
        """A signed event. The signature is deterministic: no auxiliary randomness."""
        event = from_fields(
            pubkey=self.pubkey,
            created_at=created_at,
            kind=kind,
            tags=tuple(tuple(tag) for tag in tags),
            content=content,
        )
        signature = self._key.sign_schnorr(event.id_bytes, b"\0" * 32)
        return msgspec.structs.replace(event, sig=signature.hex())
