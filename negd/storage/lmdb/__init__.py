"""The embedded storage, on LMDB."""
