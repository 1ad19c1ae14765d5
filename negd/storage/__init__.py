"""Stores behind store strings: ``scheme:argument``, the scheme found among the plugins."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.plugin import getPlugins

from negd.errors import ConfigError
from negd.interfaces import IStorage, IStoreFactory
from negd.settings import StoreSettings

__all__ = ["open_store", "salvage_store", "store_summaries"]


async def open_store(
    store: str, reactor: Any, read_only: bool = False, settings: StoreSettings = StoreSettings()
) -> IStorage:
    """Open the storage that a store string names.

    :param store: as ``lmdb:/var/lib/negd``.
    :raises ConfigError: no such scheme, or an argument that is not of its form.
    :raises negd.errors.StorageError: it cannot be opened; the text says why.
    """
    factory, argument = _factory_of(store)
    return await factory.open(argument, reactor, read_only, settings)


async def salvage_store(
    store: str, reactor: Any, progress: Callable[[int, int], None]
) -> list[str]:
    """Make a storage anew that is too damaged to be opened; see :meth:`IStoreFactory.salvage`."""
    factory, argument = _factory_of(store)
    told: list[str] = await factory.salvage(argument, reactor, progress)
    return told


def _factory_of(store: str) -> tuple[IStoreFactory, str]:
    scheme, colon, argument = store.partition(":")
    factories = {factory.scheme: factory for factory in getPlugins(IStoreFactory)}
    if not colon or scheme not in factories:
        known = ", ".join(f"{name}:" for name in sorted(factories))
        raise ConfigError(f"store {store!r} is none of the known kinds: {known}")
    return factories[scheme], argument


def store_summaries() -> list[str]:
    """One line for each kind of storage, sorted."""
    return sorted(factory.summary for factory in getPlugins(IStoreFactory))
