"""The storages that negd brings along. Other packages may declare more in the same way."""

from __future__ import annotations

from negd.storage.factory import StoreFactory

memory = StoreFactory(
    scheme="memory",
    summary="memory:     in this process, gone when it ends; for tests and trials",
    opener="negd.storage.memory.open_memory",
    checker="negd.storage.factory.names_nothing",
)

lmdb = StoreFactory(
    scheme="lmdb",
    summary="lmdb:PATH   embedded database in the folder PATH, made where it is missing",
    opener="negd.storage.lmdb.store.open_lmdb",
    checker="negd.storage.factory.names_folder",
    salvager="negd.storage.lmdb.store.salvage_lmdb",
)

redis = StoreFactory(
    scheme="redis",
    summary="redis:HOST:PORT   Redis or Valkey server that nodes share; options follow, see docs",
    opener="negd.storage.redis.store.open_redis",
    checker="negd.storage.redis.address.parse_address",
)

orlydb = StoreFactory(
    scheme="orlydb",
    summary="orlydb:HOST:PORT   the database of an ORLY relay, over gRPC; options follow, see docs",
    opener="negd.storage.orlydb.store.open_orlydb",
    checker="negd.storage.orlydb.address.DatabaseAddress.parse",
)
