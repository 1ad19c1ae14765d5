"""Nostr over WebSocket, both ways: the endpoint for clients, and links to peer relays."""
