"""Rate limits: token buckets for the requests of each address, and limits on new and open sessions.

A bucket contains at most `burst` units and gains `per_s` of them each second; a request takes one. Times are arguments:
seconds of a clock that never goes back.
"""

from __future__ import annotations

import ipaddress
import math
import time
from collections.abc import Set

import msgspec
from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from consumers.web.door.request import plain_address
from schemas.errors import Refused

# With more sessions an aggregator on one core falls behind.
MOST_OPEN_SESSIONS = 32
# The most recent addresses are remembered: 1 MB.
_MOST_ADDRESSES = 4_096


class Rate(msgspec.Struct, frozen=True):
    """`burst` at once, and `per_s` a second."""

    burst: int
    per_s: float


# A page takes a dozen requests; after a restart of the server a thousand clients reconnect at once.
REQUESTS = Rate(2_000, 200.0)
# Enough for typing errors; at ten a minute a token of 16 characters cannot be guessed.
WRONG_TOKENS = Rate(10, 1 / 6)
# People ask one question after the other; a program that asks faster than models answer has a fault.
NEW_SESSIONS = Rate(20, 5.0)


class TooMany(Refused):
    """A rate limit is exceeded; the client may try again after `retry_after_s`."""

    def __init__(self, code: str, message: str, retry_after_s: float) -> None:
        super().__init__(code, message, status=429)
        self.retry_after_s = max(1, math.ceil(retry_after_s))


class Buckets:
    """A bucket for each name; it is full for a name that was not used lately."""

    def __init__(self, rate: Rate, most: int = _MOST_ADDRESSES) -> None:
        self._rate, self._most = rate, most
        # (units left, at which time); the least recently used name first.
        self._left: dict[str, tuple[float, float]] = {}

    def take(self, name: str, now_s: float) -> float:
        """Takes one unit and returns 0.0; takes none and returns the seconds until one is available."""
        left = self.left(name, now_s)
        if left < 1.0:
            return (1.0 - left) / self._rate.per_s
        self._left.pop(name, None)
        self._left[name] = (left - 1.0, now_s)
        if len(self._left) > self._most:
            del self._left[next(iter(self._left))]
        return 0.0

    def left(self, name: str, now_s: float) -> float:
        """How many units the bucket contains."""
        left, at_s = self._left.get(name, (float(self._rate.burst), now_s))
        return min(self._rate.burst, left + (now_s - at_s) * self._rate.per_s)


class SessionLimit:
    """Limits the sessions that are opened over HTTP, in this process."""

    def __init__(self) -> None:
        self._new = Buckets(NEW_SESSIONS, 1)
        # The sessions that were opened here and may still be open.
        self.opened: set[str] = set()

    def check(self, still_open: Set[str]) -> None:
        """Raises TooMany if no session may be opened now. `still_open`: those of `opened` that are still open."""
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
    """Refuses requests of an address that exceeds the rate."""
    buckets = Buckets(rate)

    @web.middleware
    async def check(request: web.Request, handler: Handler) -> web.StreamResponse:
        if wait_s := buckets.take(address_of(request), time.monotonic()):
            raise TooMany("too_many_requests", "This address sends too many requests: slow down.", wait_s)
        return await handler(request)

    return check


def address_of(request: web.Request) -> str:
    """The client's IPv4 address, or its IPv6 network: inside a network one client can use any number of addresses."""
    remote = plain_address(request.remote or "")
    try:
        address = ipaddress.ip_address(remote)
    except ValueError:
        return remote
    return str(ipaddress.ip_network((address, 64), strict=False)) if address.version == 6 else remote
