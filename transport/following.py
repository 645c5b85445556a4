"""Following a stream: its entries in order, and the proof with each read that they continue what was read before.

    read 1    41 42 43         the stream in Redis    … 41 42 43 44 45
    read 2    44 45 | 43                                       ^ the last entry that was read: is it still the same one?

An id is not a proof. After a restart from a snapshot, or a failover, Redis may lack its last entries, and the same ids
are soon written again with other content. So each read also fetches the entry that was read last, in the same round
trip, and compares it byte for byte. Checking after each new connection would not be enough: a proxy hides a break, and
a cluster moves a slot without one.

An entry proves all entries before it only if it is never written twice. So the writers of frames and of events add a
*nonce* to each entry: random text that a process draws whenever it loads a session. A process that continues behind
what Redis kept has loaded the session again. A frame itself may be equal by chance: between two tokens nothing of it
but its times changes. (Its `cut`, the id of the last token entry, differs where Redis's clock only rises.) So an entry
that stands was written before Redis lost anything, and everything before it stands too.
"""

from __future__ import annotations

import re
import secrets
from typing import Any, NamedTuple

from schemas.errors import SetBack
from transport.redis.connection import AsyncPipe, BlockingPipe, Command, accepted
from transport.sessions import find_session

NONCE_FIELD = b"n"
_NONCE = re.compile(rb"[0-9a-f]{8}")
# Behind the nonce of a frame that an aggregator committed late, on a Redis server that has not served the session
# before: clients may have received the same window from another server, or before a restart.
_WRITTEN_AGAIN = b"~"
# Ten seconds of frames in one reply: a reader that is behind catches up in few round trips and bounded memory.
MOST_AT_ONCE = 600


class StreamEntry(NamedTuple):
    """An entry of a stream: `raw` is the value of its first field, `nonce` is empty where its writer added none."""

    entry_id: str
    raw: bytes
    nonce: bytes = b""

    @property
    def may_be_written_again(self) -> bool:
        """True for a frame whose window may have been committed with other content before Redis lost it."""
        return self.nonce.endswith(_WRITTEN_AGAIN)


def new_nonce() -> bytes:
    """Eight hexadecimal digits."""
    return secrets.token_hex(4).encode()


def is_nonce(text: bytes) -> bool:
    """True for what new_nonce() returns; another client may have written anything."""
    return _NONCE.fullmatch(text) is not None


def nonce_again(nonce: bytes) -> bytes:
    """The nonce of a frame that may have been written before."""
    return nonce + _WRITTEN_AGAIN


def entry_read(entry: Any) -> StreamEntry:
    """An entry in the reply to XREAD or XRANGE. Another client may have written it with other fields."""
    entry_id, fields = entry
    return StreamEntry(entry_id.decode(), fields[1], fields[3] if len(fields) > 3 and fields[2] == NONCE_FIELD else b"")


def entries_of(reply: Any) -> list[StreamEntry]:
    """The entries of the first stream in an XREAD reply."""
    return [entry_read(entry) for entry in reply[0][1]] if reply else []


def read_after(key: str, after: str) -> Command:
    """The command that reads the entries of a stream after the id `after`; entries_of() reads the reply."""
    return ("XREAD", "COUNT", MOST_AT_ONCE, "STREAMS", key, after)


def read_last(key: str, last: str = "+") -> Command:
    """The command that reads the last entry of a stream up to the id `last`; last_of() reads the reply."""
    return ("XREVRANGE", key, last, "-", "COUNT", 1)


def last_of(reply: Any) -> StreamEntry | None:
    """The entry in the reply to read_last. Raises RedisRefuses."""
    found = accepted(reply)
    return entry_read(found[0]) if found else None


class StreamReader:
    """Reads one stream of a session after the id `after`. `last` is the entry that was read last; before the first read
    it is the one that is known to stand before `after`, and None where none is known."""

    def __init__(
        self, pipe: AsyncPipe, session: str, key: str, after: str = "0-0", last: StreamEntry | None = None
    ) -> None:
        self._pipe, self._session, self._key = pipe, session, key
        self.after, self.last = after, last

    async def read(self, block_ms: int | None = None) -> list[StreamEntry]:
        """The next entries, at most ten seconds of frames. With `block_ms`, which needs a BlockingPipe, it waits so
        long for the first one.

        Raises SetBack where the entry that was read last does not stand any more; SessionGone, RedisAway, RedisRefuses.
        """
        reading = read_after(self._key, self.after)
        proving = read_last(self._key, self.last.entry_id if self.last else self.after)
        if block_ms is not None and isinstance(self._pipe, BlockingPipe):
            replies = await self._pipe.wait_and_run(reading, block_ms, proving)
        else:
            replies = await self._pipe.run([reading, proving])
        found, stands = entries_of(accepted(replies[0])), last_of(replies[1])
        if self.last is not None and stands != self.last:
            await find_session(self._pipe, self._session)
            raise SetBack(self._session)
        # Before the first entry, the one that stands before `after` is the proof.
        self.last = found[-1] if found else stands
        self.after = found[-1].entry_id if found else self.after
        return found
