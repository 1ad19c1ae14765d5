"""A kind of storage as a plugin declares it: a word, a summary, and where its opener lives."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

from twisted.plugin import IPlugin
from twisted.python.reflect import namedAny
from zope.interface import implementer

from negd.interfaces import IStorage, IStoreFactory
from negd.settings import StoreSettings


@implementer(IPlugin, IStoreFactory)
@dataclass(frozen=True)
class StoreFactory:
    """An :class:`IStoreFactory` that imports its driver when a store is opened, not before.

    :ivar opener: the dotted name of an async function of (argument, reactor, read_only,
        settings), as :meth:`IStoreFactory.open`.
    """

    scheme: str
    summary: str
    opener: str

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
