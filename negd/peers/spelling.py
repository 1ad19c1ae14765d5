"""The list in the peer book, each URL in the one spelling by which everything asks for it."""

from __future__ import annotations

from twisted.logger import Logger

from negd.errors import ConfigError
from negd.interfaces import IPeerBook, PeerState
from negd.peers.urls import canonical

log = Logger()


async def respelled(book: IPeerBook) -> dict[str, PeerState]:
    """Every listed peer and its state, after the book was rid of URLs that are not canonical.

    Earlier versions wrote some hosts otherwise.  Such an entry is moved: its state goes to the
    canonical URL, unless that is listed already; its ledger is dropped, for differences are found
    anew.  What is no relay's URL at all is removed.  Several nodes may do so at once.

    :raises negd.errors.StorageError: the book cannot be read or written.
    """
    states = await book.peers()
    odd = {url: one for url in states if (one := _spelling(url)) != url}
    for url, one in odd.items():
        state = states.pop(url)
        if one is None:
            log.warn("{url}: not listed any more, it is no relay's URL", url=url)
        else:
            log.info("{url}: listed as {one} from now on", url=url, one=one)
            if one not in states:
                # Written before the old entry goes: a crash between leaves both, never neither.
                await book.put(one, state)
                states[one] = state
        await book.remove(url)
    return states


def _spelling(url: str) -> str | None:
    try:
        return canonical(url)
    except ConfigError:
        return None
