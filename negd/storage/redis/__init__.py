"""The storage that several nodes share, on a Redis server."""
