"""Reading what others write: frames by session, and the names of new sessions. Many may read; nobody waits for a
reader."""

from __future__ import annotations

from typing import Any

from schemas import keys
from transport.redis.connection import AsyncPipe, accepted

# Ten seconds of frames in one reply: a reader that is behind catches up in few round trips and bounded memory.
_MOST_AT_ONCE = 600


async def read_frames(pipe: AsyncPipe, session: str, after: str, block_ms: int) -> list[tuple[str, bytes]]:
    """Frames after the id `after`, as (entry id, packed frame); waits up to block_ms for the first. Raises
    RedisAway."""
    return await read_stream(pipe, keys.frames(session), after, block_ms)


async def read_session_names(pipe: AsyncPipe, after: str, block_ms: int) -> list[tuple[str, str]]:
    """Sessions announced after the id `after`, as (entry id, session). Raises RedisAway."""
    return [(entry_id, raw.decode()) for entry_id, raw in await read_stream(pipe, keys.SESSIONS, after, block_ms)]


async def read_stream(pipe: AsyncPipe, key: str, after: str, block_ms: int) -> list[tuple[str, bytes]]:
    """The one-field entries of a stream after the id `after`; waits up to block_ms for the first. Raises RedisAway,
    RedisRefuses."""
    command = ("XREAD", "COUNT", _MOST_AT_ONCE, "BLOCK", block_ms, "STREAMS", key, after)
    (reply,) = await pipe.run([command], block_s=block_ms / 1000)
    return entries_of(accepted(reply))


def entries_of(reply: Any) -> list[tuple[str, bytes]]:
    """The one-field entries of the first stream in an XREAD reply."""
    return [(entry[0].decode(), entry[1][1]) for entry in reply[0][1]] if reply else []
