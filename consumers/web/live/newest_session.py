"""The sessions of a client of `/ws` that names none: the newest live one, and the one that it continues before."""

from __future__ import annotations

import asyncio

from consumers.web.live.continuing import unfinished_at
from runtime.presence import RedisPresence
from schemas.errors import RedisAway, RedisRefuses
from transport.frames import wait_for_sessions
from transport.redis.connection import AsyncPipe, BlockingPipe
from transport.sessions import SessionState, list_sessions

_BLOCK_MS = 1_000
_RETRY_S = 0.25
# A thousand clients learn of a session's end at once, and then ask for the newest session.
_BATCH_S = 0.01


class NewestSession:
    """Follows the list of opened sessions. Whenever one is opened, `opened` is set and replaced by a new event."""

    def __init__(self, url: str, pipe: AsyncPipe, presence: RedisPresence) -> None:
        self._url, self._pipe, self._presence = url, pipe, presence
        self.opened = asyncio.Event()
        self._listing: asyncio.Task[list[SessionState]] | None = None

    async def run(self) -> None:
        """Reads until it is cancelled."""
        pipe, after = BlockingPipe(self._url), "0"
        try:
            while True:
                try:
                    if names := await wait_for_sessions(pipe, after, _BLOCK_MS):
                        after = names[-1][0]
                        opened, self.opened = self.opened, asyncio.Event()
                        opened.set()
                except (RedisAway, RedisRefuses) as error:
                    self._presence.lose(error)
                    # A Redis that lost its data starts its ids again.
                    after = "0"
                    await asyncio.sleep(_RETRY_S)
        finally:
            await pipe.close()

    async def find(self) -> str | None:
        """The running session that was opened last. Raises RedisAway, RedisRefuses."""
        return next((state.session for state in await self._list() if state.status == "open"), None)

    async def find_unfinished(self, number: int) -> str | None:
        """The session that had the frame number and that a client continues from there, as unfinished_at() returns it.
        Raises RedisAway, RedisRefuses."""
        state = unfinished_at(await self._list(), number)
        return None if state is None else state.session

    async def _list(self) -> list[SessionState]:
        """The sessions, the last opened first. Calls within a moment share one read, which begins after the last of
        these calls."""
        if self._listing is None:
            self._listing = asyncio.create_task(self._read())
        return await asyncio.shield(self._listing)

    async def _read(self) -> list[SessionState]:
        await asyncio.sleep(_BATCH_S)
        self._listing = None
        return await list_sessions(self._pipe)
