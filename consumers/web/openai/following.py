"""One session for one client, from its first frame to the final one, while the client is there.

several members    frames, as they are committed
one member         its tokens, as they are written; and the frames behind them, for their numbers and the end
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from typing import TypeVar

import msgspec

from consumers.web.openai.lone_member import LoneMember
from schemas.entries import Finished, Token
from schemas.errors import RedisAway, RedisRefuses, Refused, SessionGone, SetBack
from schemas.frames import Frame, decode_frame
from schemas.keys import entry_order
from transport.following import StreamEntry, StreamReader
from transport.frames import find_newest_frame, frames_after
from transport.redis.connection import ReadingPipe
from transport.silence import raise_reason
from transport.tokens import tokens_after

_BLOCK_MS = 250
_RETRY_S = 0.25
# A restart of Redis takes some seconds; clients wait longer for a first token.
_REDIS_AWAY_S = 30.0
# The numbers beside a member's text are so old at most. To read each frame for them would cost more than the text.
_NUMBERS_S = 0.25

T = TypeVar("T")


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
        self._pipe = ReadingPipe(url)
        self._silent_from = self._received_at = time.monotonic()
        # The frame whose numbers are shown beside the tokens of the only member.
        self._newest: StreamEntry | None = None
        # Whether the last read failed because Redis is away.
        self._is_away = False

    async def aclose(self) -> None:
        await self._pipe.close()

    async def frames(self) -> AsyncGenerator[Arrived, None]:
        """All frames; nothing arrived where a quarter of a second passes without a frame."""
        reader, is_final = frames_after(self._pipe, self._session), False
        while not is_final:
            frames = await self._decoded(await self._next(reader, _BLOCK_MS))
            is_final = bool(frames) and frames[-1].final
            yield Arrived(frames)

    async def only_member(self) -> AsyncGenerator[Arrived, None]:
        """The tokens of the only member, and the newest frame every quarter of a second, up to the final one."""
        member, reader = LoneMember(), tokens_after(self._pipe, self._session)
        due_s, is_final = 0.0, False
        while not is_final:
            entries = await self._next(reader, None if member.is_over else _BLOCK_MS)
            frames: list[Frame] = []
            if member.is_over or time.monotonic() >= due_s:
                frames = await self._newest_frame(is_over=member.is_over)
                due_s = time.monotonic() + _NUMBERS_S
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

    async def _newest_frame(self, *, is_over: bool) -> list[Frame]:
        """The newest frame, if it is a new one. Where the answer is over it waits for one: the final one comes next."""
        if is_over:
            after = self._newest.entry_id if self._newest else "0-0"
            entries = await self._next(frames_after(self._pipe, self._session, after), _BLOCK_MS)
            found = entries[-1] if entries else None
        else:
            found = await self._attempt(find_newest_frame(self._pipe, self._session), None)
        is_new = found is not None and (self._newest is None or found.entry_id != self._newest.entry_id)
        self._newest = found or self._newest
        return await self._decoded([found] if found is not None and is_new else [])

    async def _decoded(self, entries: Sequence[StreamEntry]) -> list[Frame]:
        """The frames. Where there are none for long, the reason is raised, if there is one."""
        if entries:
            self._silent_from = self._received_at = time.monotonic()
        else:
            await self._attempt(raise_reason(self._pipe, self._session, time.monotonic() - self._silent_from), None)
        return [decode_frame(entry.raw) for entry in entries]

    async def _next(self, reader: StreamReader, block_ms: int | None) -> list[StreamEntry]:
        """The next entries; none while Redis is away."""
        return await self._attempt(reader.read(block_ms), [])

    async def _attempt(self, reading: Awaitable[T], nothing: T) -> T:
        """What it reads; `nothing` while Redis is away."""
        try:
            found, self._is_away = await reading, False
        except (SetBack, SessionGone):
            raise _lost() from None
        except (RedisAway, RedisRefuses):
            # While Redis is away the aggregator cannot close a window: that time is not its silence.
            self._silent_from = time.monotonic()
            if self._silent_from - self._received_at > _REDIS_AWAY_S:
                raise
            await asyncio.sleep(_RETRY_S)
            found, self._is_away = nothing, True
        if not self._is_wanted():
            raise ClientGone
        return found


def _lost() -> Refused:
    """The error where Redis lost the session, or what was read of it. Clients send a request again for this status, and
    not for the 404 of a session that a user names."""
    return Refused("redis_set_back", "Redis lost the session of this answer: ask again.", status=503)
