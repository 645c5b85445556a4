"""One session for one client, from its first frame to the final one, while the client is there.

several members    frames, as they are committed
one member         its tokens, as they are written; and the frames behind them, for their numbers and the end
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Sequence

import msgspec

from consumers.web.openai.lone_member import LoneMember
from schemas.entries import Finished, Token
from schemas.errors import CouncilError, NoAggregator, RedisAway, RedisRefuses, Refused, SessionGone, SetBack
from schemas.frames import Frame, decode_frame
from schemas.keys import entry_order
from transport.following import StreamEntry, StreamReader
from transport.frames import frames_after
from transport.redis.connection import BlockingPipe
from transport.sessions import find_session
from transport.tokens import tokens_after

_BLOCK_MS = 250
_RETRY_S = 0.25
# A restart of Redis takes some seconds; clients wait longer for a first token.
_REDIS_AWAY_S = 30.0
# Three hundred frames are missing.
_NO_AGGREGATOR_S = 5.0
# The numbers beside a member's text are so old at most. To read each frame for them would cost more than the text.
_FRAMES_S = 0.1


class ClientGone(Refused):
    """The client has disconnected, or this server stops, which its clients receive as this error."""

    def __init__(self) -> None:
        super().__init__("server_stopping", "The web server stops: ask again in a moment.", status=503)


class Arrived(msgspec.Struct, frozen=True):
    """What came since the last one: frames; and tokens of the only member, None where the frames contain the text.
    `finished` is that member's mark, in the last one, where its answer ended by itself."""

    frames: Sequence[Frame]
    tokens: Sequence[Token] | None = None
    finished: Finished | None = None


class SessionFollower:
    """Reads the session. Its methods raise ClientGone as soon as `is_wanted` returns False; Refused where Redis lost
    the session, or what was read of it; NoAggregator where no frame arrives for five seconds; RedisAway, RedisRefuses
    where that lasts half a minute; CouncilError where the session ended without a final frame."""

    def __init__(self, url: str, session: str, is_wanted: Callable[[], bool]) -> None:
        self._session, self._is_wanted = session, is_wanted
        # A connection of its own: it waits for entries.
        self._pipe = BlockingPipe(url)
        self._frames = frames_after(self._pipe, session)
        self._silent_from = self._received_at = time.monotonic()
        # Whether the last read failed because Redis is away.
        self._is_away = False

    async def aclose(self) -> None:
        await self._pipe.close()

    async def frames(self) -> AsyncGenerator[Arrived, None]:
        """All frames; nothing arrived where a quarter of a second passes without a frame."""
        is_final = False
        while not is_final:
            frames = await self._next_frames(_BLOCK_MS)
            is_final = bool(frames) and frames[-1].final
            yield Arrived(frames)

    async def only_member(self) -> AsyncGenerator[Arrived, None]:
        """The tokens of the only member, and all frames; nothing arrived where a quarter of a second passes."""
        member, reader = LoneMember(), tokens_after(self._pipe, self._session)
        due_s, is_final = 0.0, False
        while not is_final:
            entries = await self._next(reader, None if member.is_over else _BLOCK_MS)
            frames: list[Frame] = []
            if member.is_over or not entries or time.monotonic() >= due_s:
                frames = await self._next_frames(_BLOCK_MS if member.is_over else None)
                due_s = time.monotonic() + _FRAMES_S
            is_final = bool(frames) and frames[-1].final
            while is_final and entry_order(reader.after) < entry_order(frames[-1].cut):
                entries += await self._rest(reader)
            tokens = [token for entry in entries if (token := member.take(entry.entry_id, entry.raw)) is not None]
            yield Arrived(frames, tokens, member.finished if is_final else None)

    async def _rest(self, reader: StreamReader) -> list[StreamEntry]:
        """The next entries, which the final frame contains: they exist, unless Redis lost them."""
        while not (found := await self._next(reader, None)):
            if not self._is_away:
                raise _lost()
        return found

    async def _next_frames(self, block_ms: int | None) -> list[Frame]:
        frames = [decode_frame(entry.raw) for entry in await self._next(self._frames, block_ms)]
        if frames:
            self._silent_from = self._received_at = time.monotonic()
        else:
            await self._raise_reason(time.monotonic() - self._silent_from)
        return frames

    async def _next(self, reader: StreamReader, block_ms: int | None) -> list[StreamEntry]:
        """The next entries; none while Redis is away."""
        try:
            found, self._is_away = await reader.read(block_ms), False
        except (SetBack, SessionGone):
            raise _lost() from None
        except (RedisAway, RedisRefuses):
            # While Redis is away the aggregator cannot close a window: that time is not its silence.
            self._silent_from = time.monotonic()
            if self._silent_from - self._received_at > _REDIS_AWAY_S:
                raise
            await asyncio.sleep(_RETRY_S)
            found, self._is_away = [], True
        if not self._is_wanted():
            raise ClientGone
        return found

    async def _raise_reason(self, silent_s: float) -> None:
        """Raises the reason why no frame arrives, if there is one."""
        if silent_s < 1.0:
            return
        try:
            state = await find_session(self._pipe, self._session)
        except SessionGone:
            raise _lost() from None
        except (RedisAway, RedisRefuses):
            return
        if state.status != "open" and state.reason:
            raise CouncilError(state.reason)
        if silent_s > _NO_AGGREGATOR_S:
            raise NoAggregator("No aggregator closes this session's windows: start one with `council up`.")


def _lost() -> Refused:
    """The error where Redis lost the session, or what was read of it. Clients send a request again for this status, and
    not for the 404 of a session that a user names."""
    return Refused("redis_set_back", "Redis lost the session of this answer: ask again.", status=503)
