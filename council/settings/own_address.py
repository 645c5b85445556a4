"""Whether a server of the settings is this council: its URL leads to the address on which the council listens.

host and port of the council     127.0.0.1 8145      0.0.0.0 8145                   192.0.2.7 8145
URLs that lead there             localhost, 127.1    each address of this machine   192.0.2.7, its names
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from typing import NamedTuple
from urllib.parse import urlsplit

from council.settings.schema import Settings
from council.settings.server import Server

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
_LOOPBACK = frozenset(map(ipaddress.ip_address, ("127.0.0.1", "::1")))
_PORTS = {"http": 80, "https": 443}


class Listening(NamedTuple):
    """Where a council listens: a name or an address of this machine, and the port."""

    host: str
    port: int


def own_address(settings: Settings) -> Listening | None:
    """Where the council of these settings listens; None where the default port may move to a free one."""
    return Listening(settings.host, settings.port) if settings.is_port_chosen and settings.port else None


async def own_address_trouble(server: Server, own: Listening | None) -> str:
    """Why the server cannot be used, if it is this council; else an empty text."""
    if own is None or not await leads_to(server.address, own):
        return ""
    return (
        f"{server.address} is the address of this council itself, and a council with itself as a member asks itself "
        "without end: correct the server's url, or remove the server"
    )


async def leads_to(url: str, own: Listening) -> bool:
    """True where requests to the URL reach what listens there."""
    parts = urlsplit(url)
    # Only then a name server may be asked.
    if (parts.port or _PORTS.get(parts.scheme)) != own.port:
        return False
    theirs, ours = await _addresses(parts.hostname or ""), await _addresses(own.host)
    if any(address.is_unspecified for address in ours):
        return any(address.is_unspecified or _is_of_this_machine(address) for address in theirs)
    # The system connects to loopback where a client names no particular address.
    theirs |= _LOOPBACK if any(address.is_unspecified for address in theirs) else set()
    return bool(theirs & ours)


async def _addresses(host: str) -> set[Address]:
    if host == "localhost" or host.endswith(".localhost"):
        return {*_LOOPBACK}
    try:
        found = await asyncio.get_running_loop().getaddrinfo(host or "0.0.0.0", None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        return set()
    return {_plain(ipaddress.ip_address(str(address[0]).partition("%")[0])) for *_, address in found}


def _plain(address: Address) -> Address:
    return address.ipv4_mapped or address if isinstance(address, ipaddress.IPv6Address) else address


def _is_of_this_machine(address: Address) -> bool:
    """True where a socket can be bound to the address, which sends nothing."""
    family = socket.AF_INET6 if address.version == 6 else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as trying:
            trying.bind((str(address), 0))
    except OSError:
        return address.is_loopback
    return True
