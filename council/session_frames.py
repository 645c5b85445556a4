"""The frames of sessions for a program that reads them: of one session, of the newest one, or of each in turn."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator

from council.running.keeper import is_ended
from council.running.meeting import require_council
from council.settings.schema import load_settings
from schemas.errors import CouncilError, RedisAway, RedisRefuses, SessionGone, Unavailable
from schemas.frames import Frame, decode_frame
from schemas.rules.arguments import check_frames
from transport.frames import frames_after, last_announced, wait_for_sessions
from transport.redis.connection import BlockingPipe
from transport.sessions import find_session, list_sessions
from transport.silence import raise_reason

_BLOCK_MS = 250
_RETRY_S = 0.25
_REDIS_AWAY_S = 30.0
# A private Redis that died is started again within this time. When its council ends, its folder is removed.
_ENDED_S = 1.5


async def frames(
    session: str | None = None, redis_url: str | None = None, *, each: bool = False
) -> AsyncIterator[Frame]:
    """Every frame of the session with the id `session`, from the first one that Redis has to the final one, as they are
    committed. Reading changes nothing in the session.

    Without `session` it is the session that was opened last of those that run, else the next one that is opened. With
    `each` those that are opened after it follow, each from its beginning to its final frame; frame.session
    distinguishes them. `redis_url` is the council's Redis; without it that of the settings, else that of the council
    that runs on this machine.

    Raises Refused for a wrong argument and where no council is found, SessionGone where there is no such session,
    OtherVersion where the council has another version, and as EnsembleSession.frames() does. After an error,
    frames() must be called again.
    """
    check_frames(session, redis_url, each)
    pipe = BlockingPipe(await require_council(load_settings(None, {"redis_url": redis_url}).redis_url))
    try:
        if session is not None:
            await find_session(pipe, session)
            async for frame in frames_of(pipe, session):
                yield frame
            return
        async for name in _from_the_newest(pipe):
            async for frame in frames_of(pipe, name):
                yield frame
            if not each:
                return
    finally:
        await pipe.close()


async def frames_of(pipe: BlockingPipe, session: str) -> AsyncIterator[Frame]:
    """The frames of a session that has existed; EnsembleSession.frames() has the errors that it raises."""
    reader, outage, silent_from = frames_after(pipe, session), _Outage(pipe.url), time.monotonic()
    while True:
        try:
            found = await reader.read(_BLOCK_MS)
            if not found:
                await raise_reason(pipe, session, time.monotonic() - silent_from)
        except SessionGone:
            raise SessionGone("Redis has lost this session: it was restarted without its data.") from None
        except (RedisAway, RedisRefuses) as error:
            await outage.wait(error)
            # While Redis is away the aggregator cannot close a window: that time does not count as its silence.
            silent_from = time.monotonic()
            continue
        outage.end()
        for entry in found:
            silent_from = time.monotonic()
            frame = decode_frame(entry.raw)
            yield frame
            if frame.final:
                return


async def _from_the_newest(pipe: BlockingPipe) -> AsyncIterator[str]:
    """The session that was opened last of those that run, then each one that is opened later."""
    after = await last_announced(pipe)
    states = await list_sessions(pipe)
    newest = next((state.session for state in states if state.status == "open"), None)
    if newest is not None:
        yield newest
    outage = _Outage(pipe.url)
    while True:
        try:
            announced = await wait_for_sessions(pipe, after, _BLOCK_MS)
        except (RedisAway, RedisRefuses) as error:
            await outage.wait(error)
            continue
        outage.end()
        for entry_id, name in announced:
            after = entry_id
            # It may be announced between the two reads above.
            if name != newest:
                yield name


class _Outage:
    """Redis does not reply, or refuses, because it loads its data or has become a replica."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._since: float | None = None

    async def wait(self, error: CouncilError) -> None:
        """Waits a moment before the next try. Raises the error after half a minute, and Unavailable where the council
        has ended."""
        now = time.monotonic()
        self._since = now if self._since is None else self._since
        if now - self._since > _ENDED_S and is_ended(self._url):
            raise Unavailable("The council has ended.") from None
        if now - self._since > _REDIS_AWAY_S:
            raise error
        await asyncio.sleep(_RETRY_S)

    def end(self) -> None:
        self._since = None
