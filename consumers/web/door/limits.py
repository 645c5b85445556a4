"""How often: buckets of requests for each address, and how many sessions may be open, and come, at once.

A bucket holds `burst` and fills by `per_s`; each request takes one out of it. Times are arguments: seconds of a clock
that never falls.
"""

from __future__ import annotations

import ipaddress
import math
import time
from collections.abc import Set

import msgspec
from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from consumers.web.door.address import plain_address
from schemas.errors import Refused

# What every message of every model is read for: with more, an aggregator of one core falls behind.
MOST_OPEN_SESSIONS = 32
# Addresses that are remembered, those that came last: 1 MB.
_MOST_ADDRESSES = 4_096


class Rate(msgspec.Struct, frozen=True):
    """So many at once, and so many a second."""

    burst: int
    per_s: float


# A page is a dozen requests; a thousand clients come back at once when the server was away.
REQUESTS = Rate(2_000, 200.0)
# Whoever mistypes a token; of 16 characters or more nobody guesses one in ten a minute.
WRONG_TOKENS = Rate(10, 1 / 6)
# People ask one question after the other; a program that asks faster than models answer is broken.
NEW_SESSIONS = Rate(20, 5.0)


class TooMany(Refused):
    """Too much was asked for: again after `retry_after_s`."""

    def __init__(self, code: str, message: str, retry_after_s: float) -> None:
        super().__init__(code, message, status=429)
        self.retry_after_s = max(1, math.ceil(retry_after_s))


class Buckets:
    """A bucket for each name, full for those that were not seen lately."""

    def __init__(self, rate: Rate, most: int = _MOST_ADDRESSES) -> None:
        self._rate, self._most = rate, most
        # (what is left, when that was), the one used longest ago first.
        self._left: dict[str, tuple[float, float]] = {}

    def take(self, name: str, now_s: float) -> float:
        """Takes one out; 0.0, or the seconds after which there will be one."""
        left = self.left(name, now_s)
        if left < 1.0:
            return (1.0 - left) / self._rate.per_s
        self._left.pop(name, None)
        self._left[name] = (left - 1.0, now_s)
        if len(self._left) > self._most:
            del self._left[next(iter(self._left))]
        return 0.0

    def left(self, name: str, now_s: float) -> float:
        """How many there are."""
        left, at_s = self._left.get(name, (float(self._rate.burst), now_s))
        return min(self._rate.burst, left + (now_s - at_s) * self._rate.per_s)


class SessionLimit:
    """How many sessions may be opened over HTTP, at this process."""

    def __init__(self) -> None:
        self._new = Buckets(NEW_SESSIONS, 1)
        # Those that were opened here, and may be open still.
        self.opened: set[str] = set()

    def check(self, still_open: Set[str]) -> None:
        """`still_open` are those of `opened` that are. Raises TooMany where no session may be opened beside them."""
        self.opened &= still_open
        if len(self.opened) >= MOST_OPEN_SESSIONS:
            raise TooMany(
                "too_many_sessions",
                f"{MOST_OPEN_SESSIONS} sessions are open already: wait until one ends, or cancel one.",
                5.0,
            )
        if wait_s := self._new.take("", time.monotonic()):
            raise TooMany("too_many_sessions", "Sessions are opened too fast: slow down.", wait_s)


def limit_requests(rate: Rate = REQUESTS) -> Middleware:
    """Refuses what comes too fast from one address."""
    buckets = Buckets(rate)

    @web.middleware
    async def check(request: web.Request, handler: Handler) -> web.StreamResponse:
        if wait_s := buckets.take(address_of(request), time.monotonic()):
            raise TooMany("too_many_requests", "Too many requests come from this address: slow down.", wait_s)
        return await handler(request)

    return check


def address_of(request: web.Request) -> str:
    """Who asks: an address, of IPv6 the network, in which one person has as many addresses as they like."""
    remote = plain_address(request.remote or "")
    try:
        address = ipaddress.ip_address(remote)
    except ValueError:
        return remote
    return str(ipaddress.ip_network((address, 64), strict=False)) if address.version == 6 else remote
