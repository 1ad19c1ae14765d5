"""negd keeps Nostr event sets equal: NIP-77 reconciliation as a Twisted daemon."""

import os

__version__ = "0.1.0"

# numpy brings along a library for matrices, which negd has none of; each process that imports it
# would start a thread for every processor, and these spin for a while.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
