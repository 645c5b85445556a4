"""The newest live session: a client of `/ws` that names no session watches this one."""

from __future__ import annotations

import asyncio

from runtime.presence import RedisPresence
from schemas.errors import RedisAway, RedisRefuses
from transport.frames import wait_for_sessions
from transport.redis.connection import AsyncPipe, BlockingPipe
from transport.sessions import list_sessions

_BLOCK_MS = 1_000
_RETRY_S = 0.25
# A thousand clients learn of a session's end at once, and then ask for the newest session.
_BATCH_S = 0.01


class NewestSession:
    """Follows the list of opened sessions. Whenever one is opened, `opened` is set and replaced by a new event."""

    def __init__(self, url: str, pipe: AsyncPipe, presence: RedisPresence) -> None:
        self._url, self._pipe, self._presence = url, pipe, presence
        self.opened = asyncio.Event()
        self._finding: asyncio.Task[str | None] | None = None

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
        """The running session that was opened last. Raises RedisAway, RedisRefuses.

        Calls within a moment share one read, which begins after the last of these calls.
        """
        if self._finding is None:
            self._finding = asyncio.create_task(self._find())
        return await asyncio.shield(self._finding)

    async def _find(self) -> str | None:
        await asyncio.sleep(_BATCH_S)
        self._finding = None
        states = await list_sessions(self._pipe)
        return next((state.session for state in states if state.status == "open"), None)
