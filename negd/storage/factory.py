"""A kind of storage as a plugin declares it: a word, a summary, and where its opener lives."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

from twisted.plugin import IPlugin
from twisted.python.reflect import namedAny
from zope.interface import implementer

from negd.errors import ConfigError, StorageError
from negd.interfaces import IStorage, IStoreFactory
from negd.settings import StoreSettings
from negd.storage import _factory_of


def check_store(store: str) -> None:
    """Find out whether a store string can be meant, without opening anything.

    :param store: as of :func:`negd.storage.open_store`.
    :raises ConfigError: no such scheme, or an argument that is not of its form.
    """
    factory, argument = _factory_of(store)
    factory.check(argument)


def names_folder(argument: str) -> None:
    """Look at the argument of ``lmdb:``.

    :raises ConfigError: it is empty.
    """
    if not argument:
        raise ConfigError("store 'lmdb:' names no folder: expected lmdb:PATH")


def names_nothing(argument: str) -> None:
    """Look at the argument of ``memory:``.

    :raises ConfigError: there is one.
    """
    if argument:
        raise ConfigError(f"store 'memory:{argument}' takes nothing after the colon")


@implementer(IPlugin, IStoreFactory)
@dataclass(frozen=True)
class StoreFactory:
    """An :class:`IStoreFactory` that imports its driver when a store is opened, not before.

    :ivar opener: the dotted name of an async function of (argument, reactor, read_only,
        settings), as :meth:`IStoreFactory.open`.
    :ivar checker: that of a function of the argument, as :meth:`IStoreFactory.check`; its module
        is imported before twistd forks, so it starts nothing.
    :ivar salvager: that of one of (argument, reactor, progress), as :meth:`IStoreFactory.salvage`;
        empty where a store never raises DamagedStore.
    """

    scheme: str
    summary: str
    opener: str
    checker: str
    salvager: str = ""

    def check(self, argument: str) -> None:
        """See :meth:`IStoreFactory.check`."""
        namedAny(self.checker)(argument)

    async def open(
        self,
        argument: str,
        reactor: Any,
        read_only: bool = False,
        settings: StoreSettings = StoreSettings(),
    ) -> IStorage:
        """See :meth:`IStoreFactory.open`."""
        opener = namedAny(self.opener)
        return cast(IStorage, await opener(argument, reactor, read_only, settings))

    async def salvage(
        self, argument: str, reactor: Any, progress: Callable[[int, int], None]
    ) -> list[str]:
        """See :meth:`IStoreFactory.salvage`."""
        if not self.salvager:
            raise StorageError(f"nothing can be saved of stores of the kind {self.scheme}:")
        return cast("list[str]", await namedAny(self.salvager)(argument, reactor, progress))
