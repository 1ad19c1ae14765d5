"""What a transaction did."""

from __future__ import annotations

from dataclasses import dataclass, field

from negd.nostr.filing import Filing


@dataclass
class Changes:
    """What one transaction did, for those who must know once it is committed.

    :ivar records: each record touched, and whether it is there now.
    :ivar entered: the new events, by their serials and in the order of these.
    :ivar left: serials of the events that are gone.
    :ivar told: new events for watchers, in order.
    :ivar expiry: the earliest second at which something in this transaction expires.
    :ivar last: whether nothing waits to be written after this.
    """

    records: dict[bytes, bool] = field(default_factory=dict)
    entered: dict[bytes, Filing] = field(default_factory=dict)
    left: list[bytes] = field(default_factory=list)
    told: list[Filing] = field(default_factory=list)
    expiry: float = float("inf")
    last: bool = False
