"""A kind of storage as a plugin declares it: a word, a summary, and where its opener lives."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

from twisted.plugin import IPlugin
from twisted.python.reflect import namedAny
from zope.interface import implementer

from negd.errors import StorageError
from negd.interfaces import IStorage, IStoreFactory
from negd.settings import StoreSettings


@implementer(IPlugin, IStoreFactory)
@dataclass(frozen=True)
class StoreFactory:
    """An :class:`IStoreFactory` that imports its driver when a store is opened, not before.

    :ivar opener: the dotted name of an async function of (argument, reactor, read_only,
        settings), as :meth:`IStoreFactory.open`.
    :ivar salvager: that of one of (argument, reactor, progress), as :meth:`IStoreFactory.salvage`;
        empty where a store never raises DamagedStore.
    """

    scheme: str
    summary: str
    opener: str
    salvager: str = ""

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
