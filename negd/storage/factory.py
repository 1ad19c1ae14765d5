"""A kind of storage as a plugin declares it: a word, a summary, and where its opener lives."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

from twisted.plugin import IPlugin
from twisted.python.reflect import namedAny
from zope.interface import implementer

from negd.interfaces import IStorage, IStoreFactory


@implementer(IPlugin, IStoreFactory)
@dataclass(frozen=True)
class StoreFactory:
    """An :class:`IStoreFactory` that imports its driver when a store is opened, not before.

    :ivar opener: the dotted name of an async function of (argument, reactor, read_only), as
        :meth:`IStoreFactory.open`.
    """

    scheme: str
    summary: str
    opener: str

    async def open(self, argument: str, reactor: Any, read_only: bool = False) -> IStorage:
        """See :meth:`IStoreFactory.open`."""
        return cast(IStorage, await namedAny(self.opener)(argument, reactor, read_only))
