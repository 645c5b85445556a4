"""Opens sessions over HTTP, live ones and replays, within the limits on new and open sessions."""

from __future__ import annotations

import asyncio

from consumers.web.door.limits import SessionLimit
from schemas.sessions import Opening
from transport.redis.connection import AsyncPipe
from transport.sessions import open_among, open_session


class Opener:
    """Opens the sessions for all handlers of this process."""

    def __init__(self, pipe: AsyncPipe) -> None:
        self._pipe, self._limit, self._lock = pipe, SessionLimit(), asyncio.Lock()

    async def open(self, opening: Opening, opened: str = "*") -> None:
        """Opens the session; `opened` is the id of a replay's opening entry. Raises TooMany, Refused where Redis is
        full, RedisAway, RedisRefuses."""
        # One at a time: two requests at once must not both take the last session that the limit allows.
        async with self._lock:
            self._limit.check(await open_among(self._pipe, self._limit.opened))
            await open_session(self._pipe, opening, opened)
            self._limit.opened.add(opening.session)
