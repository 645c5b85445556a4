"""Reading a session's frames, and lists of ids that other processes announce.

The wait functions wait for the first entry, on a connection of their own.
"""

from __future__ import annotations

from schemas import keys
from transport.following import StreamEntry, StreamReader, entries_of, entry_read, last_of, read_after, read_last
from transport.redis.connection import AsyncPipe, BlockingPipe, accepted


def frames_after(pipe: AsyncPipe, session: str, after: str = "0-0", last: StreamEntry | None = None) -> StreamReader:
    """Reads a session's frames after the id `after`; with `last`, only if that entry still stands."""
    return StreamReader(pipe, session, keys.frames(session), after, last)


async def find_newest_frame(pipe: AsyncPipe, session: str) -> StreamEntry | None:
    """The frame that was committed last; None before the first one. Raises RedisAway, RedisRefuses."""
    (found,) = await pipe.run([read_last(keys.frames(session))])
    return last_of(found)


async def find_frame(pipe: AsyncPipe, session: str, window: int) -> StreamEntry | None:
    """The frame of the window; None where there is none. Raises RedisAway, RedisRefuses."""
    entry_id = keys.frame_id(window)
    found = await pipe.one("XRANGE", keys.frames(session), entry_id, entry_id)
    return entry_read(found[0]) if found else None


async def last_announced(pipe: AsyncPipe) -> str:
    """The id after which wait_for_sessions() finds the sessions that are announced from now on. Raises RedisAway,
    RedisRefuses."""
    (reply,) = await pipe.run([read_last(keys.SESSIONS)])
    last = last_of(reply)
    return last.entry_id if last else "0-0"


async def wait_for_sessions(pipe: BlockingPipe, after: str, block_ms: int) -> list[tuple[str, str]]:
    """The sessions announced after the id `after`, as (entry id, session); waits up to block_ms for the first one.
    Raises RedisAway, RedisRefuses."""
    found = await wait_for_entries(pipe, keys.SESSIONS, after, block_ms)
    return [(entry_id, keys.session_named(raw)) for entry_id, raw in found]


async def wait_for_entries(pipe: BlockingPipe, key: str, after: str, block_ms: int) -> list[tuple[str, bytes]]:
    """The one-field entries of a stream after the id `after`; waits up to block_ms for the first one. Raises RedisAway,
    RedisRefuses."""
    reply = accepted(await pipe.wait(read_after(key, after), block_ms))
    return [(entry.entry_id, entry.raw) for entry in entries_of(reply)]
