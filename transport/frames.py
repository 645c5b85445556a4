"""Reading frames, and the names of new sessions.

The read functions return at once, on a connection that callers may share. The wait functions wait for the first entry,
on a connection of their own.
"""

from __future__ import annotations

from typing import Any

from schemas import keys
from transport.redis.connection import AsyncPipe, BlockingPipe, Command, accepted

# Ten seconds of frames in one reply: a reader that is behind catches up in few round trips and bounded memory.
_MOST_AT_ONCE = 600


async def read_frames(pipe: AsyncPipe, session: str, after: str) -> list[tuple[str, bytes]]:
    """The frames after the id `after`, as (entry id, packed frame). Raises RedisAway, RedisRefuses."""
    return await read_stream(pipe, keys.frames(session), after)


async def wait_for_frames(pipe: BlockingPipe, session: str, after: str, block_ms: int) -> list[tuple[str, bytes]]:
    """As read_frames; waits up to block_ms for the first one."""
    return await wait_for_entries(pipe, keys.frames(session), after, block_ms)


async def wait_for_sessions(pipe: BlockingPipe, after: str, block_ms: int) -> list[tuple[str, str]]:
    """The sessions announced after the id `after`, as (entry id, session); waits up to block_ms for the first one.
    Raises RedisAway, RedisRefuses."""
    found = await wait_for_entries(pipe, keys.SESSIONS, after, block_ms)
    return [(entry_id, keys.session_named(raw)) for entry_id, raw in found]


async def read_stream(pipe: AsyncPipe, key: str, after: str) -> list[tuple[str, bytes]]:
    """The one-field entries of a stream after the id `after`. Raises RedisAway, RedisRefuses."""
    return entries_of(await pipe.one(*_read(key, after)))


async def wait_for_entries(pipe: BlockingPipe, key: str, after: str, block_ms: int) -> list[tuple[str, bytes]]:
    """As read_stream; waits up to block_ms for the first one."""
    return entries_of(accepted(await pipe.wait(_read(key, after), block_ms)))


def _read(key: str, after: str) -> Command:
    return ("XREAD", "COUNT", _MOST_AT_ONCE, "STREAMS", key, after)


def entries_of(reply: Any) -> list[tuple[str, bytes]]:
    """The one-field entries of the first stream in an XREAD reply."""
    return [(entry[0].decode(), entry[1][1]) for entry in reply[0][1]] if reply else []
