"""A session's token stream: writing, reading and following it; and reading the control stream."""

from __future__ import annotations

import contextlib
import time
from typing import Any

from schemas import keys
from schemas.control import Play, Stop, decode_control
from schemas.entries import AnyEntry, encode_entry
from schemas.errors import Malformed
from transport.following import StreamReader
from transport.redis.connection import AsyncPipe, Command, ReplyError

# A reply with so many entries is half a megabyte: a reader that is behind catches up in few reads.
MOST_ENTRIES = 2_000
_MOST_ORDERS = 16


def write_entry(session: str, entry: AnyEntry) -> Command:
    """The command that appends an entry. The reply is its id, or None where the session is gone; it is not created."""
    return ("XADD", keys.tokens(session), "NOMKSTREAM", "*", keys.ENTRY_FIELD, encode_entry(entry))


def read_entries(session: str, after: str, last: str = "+", most: int = MOST_ENTRIES) -> Command:
    """The command that reads up to `most` entries of the token stream after the id `after`, up to `last`."""
    return ("XRANGE", keys.tokens(session), f"({after}", last, "COUNT", most)


def tokens_after(pipe: AsyncPipe, session: str, after: str = "0-0") -> StreamReader:
    """Reads a session's token stream after the id `after`, as its entries are written."""
    return StreamReader(pipe, session, keys.tokens(session), after)


def entries_read(reply: Any) -> list[tuple[str, bytes]]:
    """The entries in the reply to read_entries, as (entry id, value of the first field). One that another client wrote
    does not decode."""
    return [(entry[0].decode(), entry[1][1]) for entry in reply]


def read_control(session: str, after: str) -> Command:
    """The command that reads the orders to the producers after the id `after`."""
    return ("XRANGE", keys.control(session), f"({after}", "+", "COUNT", _MOST_ORDERS)


def control_read(reply: Any) -> tuple[list[Stop | Play], str | None]:
    """The orders in the reply to read_control, and the id of the last one (None: there was none)."""
    if not reply or isinstance(reply, ReplyError):
        return [], None
    orders = list[Stop | Play]()
    for _, fields in reply:
        # An order of a later version does not decode, and is not for this producer.
        with contextlib.suppress(Malformed):
            orders.append(decode_control(fields[1]))
    return orders, reply[-1][0].decode()


class RisingClock:
    """Wall clock time that never falls: while the wall clock is before the last time returned, it rises with the
    monotonic clock."""

    def __init__(self) -> None:
        self._last_ns = 0
        self._last_at_ns = 0

    def now_ns(self) -> int:
        at_ns, wall_ns = time.monotonic_ns(), time.time_ns()
        self._last_ns = max(wall_ns, self._last_ns + at_ns - self._last_at_ns) if self._last_ns > wall_ns else wall_ns
        self._last_at_ns = at_ns
        return self._last_ns
