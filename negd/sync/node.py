"""What of this node its syncs work with."""

from __future__ import annotations

from dataclasses import dataclass, replace

from twisted.internet.interfaces import IReactorTime

from negd.interfaces import IEventStore, IIntake, IPeerDialer
from negd.nostr.document import RelayDocument
from negd.nostr.signing import Signer
from negd.settings import SyncSettings
from negd.sync.hints import PAGE, longest, paced, page_size, suited
from negd.sync.offload import Offload


@dataclass(frozen=True, slots=True)
class Node:
    """The parts that are the same for every peer.

    :ivar signer: the key that answers peers who ask who we are (NIP-42).
    :ivar longest: bytes of a message that the peer says it reads; None where it does not say, or
        cannot mean it.
    :ivar page_size: events asked for at a time where a peer's events are read page by page.
    """

    store: IEventStore
    intake: IIntake
    dialer: IPeerDialer
    settings: SyncSettings
    clock: IReactorTime
    offload: Offload
    signer: Signer | None = None
    longest: int | None = None
    page_size: int = PAGE

    def keeping_to(self, document: RelayDocument | None, rate: int) -> Node:
        """This node, as it syncs with a peer that says this of itself, over links of that rate."""
        return replace(
            self,
            settings=paced(suited(self.settings, document), rate),
            longest=longest(document),
            page_size=page_size(document),
        )
