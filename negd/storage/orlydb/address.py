r"""What a store string names: the database's address, and where the peer book is kept.

``orlydb:HOST:PORT``, and options after further colons, as in Twisted's endpoint strings:
``orlydb:127.0.0.1:50051:book=/var/lib/negd/peers``.  A colon within a value is written ``\:``; an
IPv6 address stands in brackets.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from negd.errors import ConfigError

FORM = "HOST:PORT, and :book=PATH after it or not"

BOOK = "orlydb-book"
"""Where the peer book is kept unless said: in the directory that the daemon is started in."""

_ARGUMENT = re.compile(
    r"(?P<host>\[[^\]]+\]|[^:\[\]=]+):(?P<port>[0-9]{1,5})(?::book=(?P<book>(?:[^:\\]|\\.)+))?"
)


@dataclass(frozen=True, slots=True)
class DatabaseAddress:
    """:ivar server: ``HOST:PORT``. :ivar book: a folder."""

    server: str
    book: str = BOOK

    @classmethod
    def parse(cls, argument: str) -> DatabaseAddress:
        """Read the argument of a store string.

        :raises ConfigError: it is not of the form.
        """
        found = _ARGUMENT.fullmatch(argument)
        if found is None or not 0 < int(found["port"]) < 65536:
            raise ConfigError(f"store 'orlydb:{argument}': expected {FORM}")
        book = re.sub(r"\\(.)", r"\1", found["book"] or BOOK)
        return cls(f"{found['host']}:{found['port']}", book)
