"""DECIPHER's shell: follows the frames of every open session and writes their events, each once.

    council:sessions --> one task a session:  frames --> Composer --> events and cursor, in one script

The cursor lives in the session's state and moves with the events: a second DECIPHER, or one that was killed and came
back, writes nothing twice and leaves nothing out.
"""

from __future__ import annotations

import asyncio
import time

from structlog.stdlib import BoundLogger

from consumers.decipher.composer import Composer, encode_event
from schemas.errors import Malformed, RedisAway, RedisRefuses, SessionGone
from schemas.frames import Frame, decode_frame
from schemas.keys import entry_order
from transport.connection import AsyncPipe
from transport.events import EventBatch, frame_before, write_events
from transport.frames import read_frames, read_session_names
from transport.presence import RedisPresence
from transport.process import Standing, keep_record
from transport.sessions import SessionState, find_session

_BLOCK_MS = 1_000
_RETRY_S = 0.25
# Each session has a connection of its own to wait on; new ones wait until there is room (a reply's worth over it).
_MOST_SESSIONS = 256


class Decipher:
    """All sessions' composers in one process."""

    def __init__(self, url: str, standing: Standing, log: BoundLogger) -> None:
        self._url, self._standing = url, standing
        self._presence, self._log = RedisPresence(log), log
        self._following: dict[str, asyncio.Task[None]] = {}
        self._frames = 0

    async def run(self) -> None:
        """Follows whatever is announced, until it is cancelled."""
        pipe = AsyncPipe(self._url)
        self._standing.ready = True
        record = asyncio.create_task(keep_record(self._url, self._standing, self._presence, self._facts))
        after = "0"
        try:
            while True:
                try:
                    if len(self._following) >= _MOST_SESSIONS:
                        await asyncio.sleep(_RETRY_S)
                        continue
                    for entry_id, session in await read_session_names(pipe, after, _BLOCK_MS):
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
        return {"sessions": len(self._following), "frames": self._frames}

    def _follow(self, session: str) -> None:
        if session in self._following:
            return
        task = asyncio.create_task(self._compose_session(session))
        self._following[session] = task
        task.add_done_callback(lambda _: self._following.pop(session, None))

    async def _compose_session(self, session: str) -> None:
        pipe = AsyncPipe(self._url)
        try:
            while True:
                try:
                    state = await find_session(pipe, session)
                    if _is_composed(state) or await self._compose_from(pipe, state):
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

    async def _compose_from(self, pipe: AsyncPipe, state: SessionState) -> bool:
        """Composes from the session's cursor on; True at its end, False where another DECIPHER moved the cursor."""
        cursor = state.decipher
        composer = Composer(state.origin_ns, await frame_before(pipe, state.session, cursor))
        while True:
            frames = await read_frames(pipe, state.session, cursor, _BLOCK_MS)
            if not frames:
                is_over = (await find_session(pipe, state.session)).status != "open"
                # What was committed between the read and the look is read now; nothing comes after it.
                frames = await read_frames(pipe, state.session, cursor, 1) if is_over else []
                if is_over and not frames:
                    return True
            if not frames:
                continue
            batch = EventBatch(cursor, frames[-1][0], [], False)
            for entry_id, raw in frames:
                started = time.perf_counter()
                frame = decode_frame(raw)
                self._add(batch, composer, frame, entry_id, started)
            moved_to = await write_events(pipe, state.session, batch)
            if moved_to != batch.after:
                return False
            cursor = batch.after
            self._frames += len(frames)
            if batch.final:
                return True

    def _add(self, batch: EventBatch, composer: Composer, frame: Frame, entry_id: str, started: float) -> None:
        window = entry_id.partition("-")[0]
        events = composer.compose(frame, lambda: (time.perf_counter() - started) * 1000)
        batch.events += [(f"{window}-{n}", encode_event(event)) for n, event in enumerate(events)]
        batch.final = frame.final


def _is_composed(state: SessionState) -> bool:
    """True for a session that has ended and whose every frame is composed: one of an earlier hour, at a start."""
    return state.status != "open" and entry_order(state.decipher)[0] > state.window
