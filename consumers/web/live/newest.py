"""The newest live session: what a client of `/ws` watches that names none."""

from __future__ import annotations

import asyncio

from runtime.presence import RedisPresence
from schemas.errors import RedisAway, RedisRefuses
from transport.frames import wait_for_sessions
from transport.redis.connection import AsyncPipe, BlockingPipe
from transport.sessions import list_sessions

_BLOCK_MS = 1_000
_RETRY_S = 0.25
# A thousand clients hear of a session's end at once.
_TOGETHER_S = 0.01


class Newest:
    """Hears of sessions as they are opened. `opened` is set, and made anew, whenever that happens."""

    def __init__(self, url: str, pipe: AsyncPipe, presence: RedisPresence) -> None:
        self._url, self._pipe, self._presence = url, pipe, presence
        self.opened = asyncio.Event()
        self._finding: asyncio.Task[str | None] | None = None

    async def run(self) -> None:
        """Listens until it is cancelled."""
        pipe, after = BlockingPipe(self._url), "0"
        try:
            while True:
                try:
                    news = await wait_for_sessions(pipe, after, _BLOCK_MS)
                    after = news[-1][0] if news else after
                    if news:
                        self._tell()
                except (RedisAway, RedisRefuses) as error:
                    self._presence.lose(error)
                    # A Redis that lost its data begins its ids anew.
                    after = "0"
                    await asyncio.sleep(_RETRY_S)
        finally:
            await pipe.close()

    def _tell(self) -> None:
        opened, self.opened = self.opened, asyncio.Event()
        opened.set()

    async def find(self) -> str | None:
        """The session that was opened last of those that run. Raises RedisAway, RedisRefuses.

        All who ask within a moment share one look, which begins after the last of them asked.
        """
        if self._finding is None:
            self._finding = asyncio.create_task(self._find())
        return await asyncio.shield(self._finding)

    async def _find(self) -> str | None:
        await asyncio.sleep(_TOGETHER_S)
        self._finding = None
        states = await list_sessions(self._pipe)
        return next((state.session for state in states if state.status == "open"), None)
