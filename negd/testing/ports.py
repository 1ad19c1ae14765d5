"""Free ports of the loopback interface, for servers that have to be told where to listen."""

from __future__ import annotations

import socket

_held: list[socket.socket] = []


def free_port() -> int:
    """A port that stays this process's to give away: a server can start there, and start again.

    A bound socket that does not listen keeps the port from everybody who wants any port, other
    test runs and outgoing connections included, and not from a server that asks for this one with
    SO_REUSEADDR, as servers do.  That is Linux's rule.
    """
    holder = socket.socket()
    holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    holder.bind(("127.0.0.1", 0))
    _held.append(holder)
    port: int = holder.getsockname()[1]
    return port
