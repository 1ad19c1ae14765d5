"""Nostr values and their codecs: events, filters, messages, and the rules events live by."""
