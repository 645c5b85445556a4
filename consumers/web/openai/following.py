"""The frames of one session for one client, from the first to the final one, while the client is there."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable

from schemas.errors import CouncilError, NoAggregator, RedisAway, RedisRefuses
from schemas.frames import Frame, decode_frame
from transport.frames import frames_after
from transport.redis.connection import BlockingPipe
from transport.sessions import find_session

_BLOCK_MS = 250
_RETRY_S = 0.25
# A restart of Redis takes some seconds; clients wait longer for a first token.
_REDIS_AWAY_S = 30.0
# Three hundred frames are missing.
_NO_AGGREGATOR_S = 5.0


class ClientGone(Exception):
    """The client has disconnected, or this server stops."""


async def frames_of(url: str, session: str, is_wanted: Callable[[], bool]) -> AsyncGenerator[list[Frame], None]:
    """The frames as they are committed, one list a read; an empty one after a quarter of a second without a frame.

    Raises ClientGone as soon as `is_wanted` returns False; SetBack where Redis lost frames that were yielded;
    SessionGone; NoAggregator where no frame arrives for five seconds; RedisAway, RedisRefuses where that lasts half a
    minute; CouncilError where the session ended without a final frame.
    """
    # A connection of its own: it waits for frames.
    pipe = BlockingPipe(url)
    reader = frames_after(pipe, session)
    silent_from = received_at = time.monotonic()
    try:
        while True:
            try:
                found = await reader.read(_BLOCK_MS)
                if not found:
                    await _raise_reason(pipe, session, time.monotonic() - silent_from)
            except (RedisAway, RedisRefuses):
                # While Redis is away the aggregator cannot close a window: that time is not its silence.
                silent_from = time.monotonic()
                if silent_from - received_at > _REDIS_AWAY_S:
                    raise
                await asyncio.sleep(_RETRY_S)
                found = []
            if not is_wanted():
                raise ClientGone
            frames = [decode_frame(entry.raw) for entry in found]
            if frames:
                silent_from = received_at = time.monotonic()
            yield frames
            if frames and frames[-1].final:
                return
    finally:
        await pipe.close()


async def _raise_reason(pipe: BlockingPipe, session: str, silent_s: float) -> None:
    """Raises the reason why no frame arrives, if there is one."""
    state = await find_session(pipe, session)
    if state.status != "open" and state.reason and silent_s > 1.0:
        raise CouncilError(state.reason)
    if silent_s > _NO_AGGREGATOR_S:
        raise NoAggregator("No aggregator closes this session's windows: start one with `council up`.")
