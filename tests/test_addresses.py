"""Addresses that peers may be kept from."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from negd.addresses import is_private


@pytest.mark.parametrize(
    "host",
    [
        "localhost",
        "LocalHost.",
        "relay.localhost",
        "127.0.0.1",
        "127.255.255.254",
        "0.0.0.0",
        "10.1.2.3",
        "172.16.0.1",
        "172.31.255.255",
        "192.168.1.1",
        "169.254.169.254",
        "100.64.0.1",
        "192.0.2.1",
        "198.18.0.1",
        "224.0.0.1",
        "240.0.0.1",
        "255.255.255.255",
        "::",
        "::1",
        "fe80::1",
        "fe80::1%eth0",
        "fc00::1",
        "fd12:3456::1",
        "ff02::1",
        "2001:db8::1",
        "::ffff:127.0.0.1",
        "::ffff:a00:1",
        "::127.0.0.1",
        "64:ff9b::127.0.0.1",
        "64:ff9b::a9fe:a9fe",
        "64:ff9b:1::1",
        "2002:7f00:1::1",
        "2002:a00:1::1",
    ],
)
def test_these_are_private(host: str) -> None:
    assert is_private(host)


@pytest.mark.parametrize(
    "host",
    [
        "relay.example",
        "localhost.example",
        "notlocalhost",
        "127.0.0.1.example",
        "8.8.8.8",
        "172.32.0.1",
        "2606:4700::1111",
        "::ffff:8.8.8.8",
        "64:ff9b::8.8.8.8",
        "2002:808:808::1",
        "",
    ],
)
def test_these_are_not(host: str) -> None:
    assert not is_private(host)


@given(st.ip_addresses(v=4))
def test_an_ipv4_address_is_what_it_is_in_every_dress(address: IPv4Address) -> None:
    number = int(address)
    for dress in (IPv6Address((0xFFFF << 32) | number), IPv6Address((0x64FF9B << 96) | number)):
        assert is_private(str(dress)) == is_private(str(address))
    if is_private(str(address)):
        assert is_private(str(IPv6Address((0x2002 << 112) | (number << 80) | 1)))
