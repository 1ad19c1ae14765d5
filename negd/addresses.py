"""Which addresses lead into private networks, or back to this machine."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address

_TRANSLATED = IPv6Network("64:ff9b::/96")
"""IPv4 addresses as NAT64 writes them (RFC 6052)."""


def is_private(host: str) -> bool:
    """Whether a host is written as an address that the public network does not lead to.

    Loopback, private, link-local, shared, multicast and reserved addresses (RFC 6890), an IPv4
    address within an IPv6 one too, and the names of this machine (RFC 6761).  What any other name
    stands for is not told here.
    """
    name = host.rstrip(".").lower()
    if name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        address = ip_address(name.partition("%")[0])
    except ValueError:
        return False
    return any(not a.is_global or a.is_multicast or a.is_reserved for a in _meanings(address))


def _meanings(address: IPv4Address | IPv6Address) -> list[IPv4Address | IPv6Address]:
    """Where packets to an address end: there, and at the IPv4 address that is part of it."""
    if isinstance(address, IPv4Address):
        return [address]
    if address.ipv4_mapped is not None:
        return [address.ipv4_mapped]
    if address in _TRANSLATED:
        return [IPv4Address(address.packed[-4:])]
    if address.sixtofour is not None:
        return [address, address.sixtofour]
    return [address]
