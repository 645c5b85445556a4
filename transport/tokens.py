"""A session's token stream: writing it, reading it, and hearing what the council wants of its producers."""

from __future__ import annotations

import time
from typing import Any

from schemas import keys
from schemas.control import Play, Stop, decode_control
from schemas.entries import AnyEntry, encode_entry
from schemas.errors import Malformed
from transport.redis.connection import Command, ReplyError

# A reply of this many entries is half a megabyte: a session that is behind catches up in few reads.
MOST_ENTRIES = 2_000
_MOST_WORDS = 16


def write_entry(session: str, entry: AnyEntry) -> Command:
    """Appends an entry; answers its id, or None where the session is gone (it is never created again)."""
    return ("XADD", keys.tokens(session), "NOMKSTREAM", "*", keys.ENTRY_FIELD, encode_entry(entry))


def read_entries(session: str, after: str, last: str = "+", most: int = MOST_ENTRIES) -> Command:
    """Up to `most` entries of the token stream after the id `after`, up to `last`."""
    return ("XRANGE", keys.tokens(session), f"({after}", last, "COUNT", most)


def entries_read(reply: Any) -> list[tuple[str, bytes]]:
    """The entries in the reply of read_entries. An entry of foreign fields has its first value taken, and will not
    decode."""
    return [(entry[0].decode(), entry[1][1]) for entry in reply]


def read_control(session: str, after: str) -> Command:
    """Asks for what was said to the producers after the id `after`."""
    return ("XRANGE", keys.control(session), f"({after}", "+", "COUNT", _MOST_WORDS)


def control_read(reply: Any) -> tuple[list[Stop | Play], str | None]:
    """The words in the reply of read_control, and the id of the last one (None: there was none)."""
    if not reply or isinstance(reply, ReplyError):
        return [], None
    words = list[Stop | Play]()
    for _, fields in reply:
        try:
            words.append(decode_control(fields[1]))
        except Malformed:
            # A word of a later version: this producer does not know it, and loses nothing by that.
            continue
    return words, reply[-1][0].decode()


class RisingClock:
    """Wall-clock nanoseconds that never fall: while the wall clock is behind what was told, the monotonic clock goes
    on."""

    def __init__(self) -> None:
        self._told_ns = 0
        self._told_at_ns = 0

    def now_ns(self) -> int:
        at_ns, wall_ns = time.monotonic_ns(), time.time_ns()
        self._told_ns = max(wall_ns, self._told_ns + at_ns - self._told_at_ns) if self._told_ns > wall_ns else wall_ns
        self._told_at_ns = at_ns
        return self._told_ns
