"""negd keeps Nostr event sets equal: NIP-77 reconciliation as a Twisted daemon."""

__version__ = "0.1.0"
