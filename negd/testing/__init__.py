"""Public fakes and pumps, for tests of negd and of what is built on it."""
