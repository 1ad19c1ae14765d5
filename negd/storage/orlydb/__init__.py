"""The storage of drop-in mode: an ORLY relay's own database, over gRPC."""
