"""DECIPHER's shell: follows the frames of every open session and writes their events, each once.

    council:sessions --> one task a session:  frames --> Composing --> events, cursor and checkpoint, in one script

The cursor lives in the session's state and moves with the events, and so does all that the composer remembers: a second
DECIPHER, or one that was killed and came back, writes nothing twice, leaves nothing out, and goes on as if it had been
there.
"""

from __future__ import annotations

import asyncio

import msgspec

from consumers.decipher.composer import Composer
from consumers.decipher.composing import Composing, Work
from runtime.log import Log
from runtime.presence import RedisPresence
from runtime.registration import keep_record
from schemas.errors import Malformed, RedisAway, RedisRefuses, SessionGone
from transport.events import find_composed, read_checkpoint, write_events
from transport.frames import read_frames, wait_for_frames, wait_for_sessions
from transport.redis.connection import BlockingPipe
from transport.register import ProcessRegistration
from transport.sessions import SessionState, find_session, read_opening

_BLOCK_MS = 1_000
_RETRY_S = 0.25
# Each session has a connection of its own to wait on; new ones wait until there is room (a reply's worth over it).
_MOST_SESSIONS = 256


class Decipher:
    """All sessions' composers in one process."""

    def __init__(self, url: str, registration: ProcessRegistration, log: Log) -> None:
        self._url, self._registration = url, registration
        self._presence, self._log = RedisPresence(log), log
        self._following: dict[str, asyncio.Task[None]] = {}
        self._work = Work()

    async def run(self) -> None:
        """Follows whatever is announced, until it is cancelled."""
        pipe = BlockingPipe(self._url)
        self._registration.ready = True
        record = asyncio.create_task(keep_record(self._url, self._registration, self._presence, self._facts))
        after = "0"
        try:
            while True:
                try:
                    if len(self._following) >= _MOST_SESSIONS:
                        await asyncio.sleep(_RETRY_S)
                        continue
                    for entry_id, session in await wait_for_sessions(pipe, after, _BLOCK_MS):
                        self._follow(session)
                        after = entry_id
                    self._presence.come_back()
                except (RedisAway, RedisRefuses) as error:
                    # Refused: whoever waits is told so when this Redis becomes a replica (UNBLOCKED).
                    self._presence.lose(error)
                    # A Redis that lost its data begins its ids anew.
                    after = "0"
                    await asyncio.sleep(_RETRY_S)
        finally:
            tasks = [record, *self._following.values()]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await pipe.close()

    def _facts(self) -> dict[str, int]:
        return {"sessions": len(self._following), **msgspec.structs.asdict(self._work)}

    def _follow(self, session: str) -> None:
        if session in self._following:
            return
        task = asyncio.create_task(self._compose_session(session))
        self._following[session] = task
        task.add_done_callback(lambda _: self._following.pop(session, None))

    async def _compose_session(self, session: str) -> None:
        pipe = BlockingPipe(self._url)
        try:
            while True:
                try:
                    if await self._compose_from_cursor(pipe, session):
                        return
                except (RedisAway, RedisRefuses) as error:
                    self._presence.lose(error)
                    await asyncio.sleep(_RETRY_S)
        except SessionGone:
            return
        except Malformed as error:
            self._log.error("a session's frames cannot be read", session=session, error=str(error))
        finally:
            await pipe.close()

    async def _compose_from_cursor(self, pipe: BlockingPipe, session: str) -> bool:
        """Composes from the session's cursor on; True at its end, False where another DECIPHER moved the cursor."""
        state = await find_session(pipe, session)
        if (await find_composed(pipe, session)).is_over:
            return True
        opening = await read_opening(pipe, state)
        cursor, checkpoint, standing = await read_checkpoint(pipe, session)
        composing = Composing(Composer(opening, state.shown_origin_ns, checkpoint), cursor, standing, self._work)
        while True:
            frames = await wait_for_frames(pipe, session, composing.cursor, _BLOCK_MS)
            if not frames and (state := await find_session(pipe, session)).status != "open":
                # What was committed between the read and the look is read now; nothing comes after it.
                frames = await read_frames(pipe, session, composing.cursor)
                if not frames:
                    return await self._end_without_frame(pipe, state, composing)
            for batch in composing.batches(frames):
                written = await write_events(pipe, session, batch)
                if not written.is_written:
                    return False
                composing.note(written)
                if batch.final:
                    return True

    async def _end_without_frame(self, pipe: BlockingPipe, state: SessionState, composing: Composing) -> bool:
        """The session ended, and not by a final frame: it says why, once."""
        if not state.reason:
            return True
        written = await write_events(pipe, state.session, composing.failure(state.window, state.reason))
        return written.is_written
