"""Addresses as people write them."""

from __future__ import annotations

import ipaddress


def plain_address(address: str) -> str:
    """An IPv4 address as such, also where it came in at a socket for both."""
    try:
        mapped = getattr(ipaddress.ip_address(address), "ipv4_mapped", None)
    except ValueError:
        return address
    return address if mapped is None else str(mapped)
