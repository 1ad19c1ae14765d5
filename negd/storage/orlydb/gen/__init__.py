"""The generated modules of the database's protos; ``make protos`` writes them."""

from __future__ import annotations

from google.protobuf.descriptor_pool import DescriptorPool

POOL = DescriptorPool()
"""Where their descriptors live: a pool of our own, so that no other package's copy clashes."""
