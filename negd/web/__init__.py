"""What the endpoint's port shows over plain HTTP: NIP-11, a status page, metrics."""
