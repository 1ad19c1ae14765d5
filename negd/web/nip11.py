"""The relay information document (NIP-11)."""

from __future__ import annotations

from typing import Any

from negd import __version__
from negd.nostr.messages import MAX_SUBSCRIPTION
from negd.settings import EndpointSettings, RelaySettings

SUPPORTED_NIPS = (1, 9, 11, 40, 77)
_NEGENTROPY_VERSION = 1


def document(relay: RelaySettings, endpoint: EndpointSettings) -> dict[str, Any]:
    """What NIP-11 asks for, as far as it is known; ``negentropy`` is as other servers write it."""
    about = {
        "name": relay.name,
        "description": relay.description,
        "contact": relay.contact,
        "pubkey": relay.pubkey,
    }
    return {name: text for name, text in about.items() if text} | {
        "supported_nips": list(SUPPORTED_NIPS),
        "software": "negd",
        "version": __version__,
        "negentropy": _NEGENTROPY_VERSION,
        "limitation": {
            "max_message_length": endpoint.max_message,
            "max_subscriptions": endpoint.max_subscriptions,
            "max_subid_length": MAX_SUBSCRIPTION,
            "auth_required": False,
            "payment_required": False,
            "restricted_writes": False,
        },
    }
