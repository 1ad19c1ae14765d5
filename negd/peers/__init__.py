"""The peers of this node: which there are, when each is synced, and what came of it."""
