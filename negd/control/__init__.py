"""The gRPC control service: for relays that delegate NIP-77, and for the operator."""
