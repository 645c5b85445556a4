"""DECIPHER's shell: it takes sessions from its consumer group, follows their frames and writes their events, each once.

    council:sessions --lease--> a task for each session:  frames --> BatchComposer --> events, cursor and checkpoint,
                                                                                       in one script

The cursor and all that the composer remembers are kept in the session's state, and change with the events. So the next
DECIPHER of a session writes no event twice, leaves none out, and goes on as if it had composed the session from its
beginning.
"""

from __future__ import annotations

import asyncio

import msgspec

from consumers.decipher.batches import MOST_FRAMES, BatchComposer, WorkCounts
from consumers.decipher.composer import Composer
from runtime.leasing import LeasedTasks
from runtime.log import Log
from runtime.presence import RedisPresence
from schemas import keys
from schemas.errors import Malformed, OtherVersion, RedisAway, RedisRefuses, SessionGone, SetBack
from transport.events import find_composed, read_checkpoint, write_events
from transport.frames import frames_after
from transport.leases import MOST_DELIVERIES, Lease
from transport.redis.connection import BlockingPipe
from transport.register import ProcessRegistration
from transport.sessions import SessionState, find_session, read_opening

_BLOCK_MS = 1_000
_RETRY_S = 0.25
# Each session has a connection of its own to wait on.
_MOST_SESSIONS = 256
# A frame that cannot be composed so many times will not be composed the next time either.
_MOST_FAILURES = 3


class Decipher:
    """Composes the sessions whose leases this process has."""

    def __init__(self, url: str, registration: ProcessRegistration, log: Log) -> None:
        self._url, self._log, self._work = url, log, WorkCounts()
        self._sessions = LeasedTasks(
            url, keys.DECIPHER_GROUP, registration, RedisPresence(log), log, _MOST_SESSIONS, self._compose_session,
            facts=lambda: msgspec.structs.asdict(self._work),
        )  # fmt: skip

    async def run(self, stopping: asyncio.Event) -> None:
        """Composes until `stopping` is set, then hands its sessions over."""
        await self._sessions.run(stopping)

    async def _compose_session(self, lease: Lease) -> None:
        """Composes the session to its end, or until it is gone. Raises RedisAway, RedisRefuses, OtherVersion."""
        pipe = BlockingPipe(self._url)
        try:
            if lease.deliveries >= MOST_DELIVERIES:
                reason = f"{lease.deliveries} DECIPHER processes took this session and none could go on with it."
                await self._end_events(pipe, lease.session, reason)
            else:
                await self._follow(pipe, lease)
        except SessionGone:
            return
        except OtherVersion as error:
            if not (error.is_older and self._sessions.leased.leases.was_left(lease)):
                raise
            await self._end_events(pipe, lease.session, str(error))
        finally:
            await pipe.close()

    async def _follow(self, pipe: BlockingPipe, lease: Lease) -> None:
        """After an error in composing it goes on from the cursor, frame by frame, so that the events of all frames
        before the one that fails are written. Raises RedisAway, RedisRefuses, SessionGone, OtherVersion."""
        failed_at, failures, logged_at = "", 0, -MOST_FRAMES
        while True:
            composer = None
            try:
                composer = await self._composer(pipe, lease.session, 1 if failures else MOST_FRAMES)
                if composer is None or await self._compose_from_cursor(pipe, lease, composer):
                    return
            except SetBack:
                # What the composer remembers is of frames that Redis lost; the stored checkpoint is not.
                continue
            except (OtherVersion, RedisAway, RedisRefuses, SessionGone):
                raise
            except Exception as error:  # noqa: BLE001  # a bug that one session brings out must not end the others
                cursor, windows = (composer.cursor, composer.windows) if composer else ("", 0)
                failures = failures + 1 if cursor == failed_at else 1
                failed_at = cursor
                if windows >= logged_at + MOST_FRAMES:
                    logged_at = windows
                    self._log.exception("a frame cannot be composed; trying again", session=lease.session)
                if failures == _MOST_FAILURES:
                    is_bug = not isinstance(error, Malformed)
                    reason = f"DECIPHER failed on a frame ({type(error).__name__})." if is_bug else str(error)
                    return await self._end_events(pipe, lease.session, reason)
                await asyncio.sleep(_RETRY_S)

    async def _composer(self, pipe: BlockingPipe, session: str, most_frames: int = MOST_FRAMES) -> BatchComposer | None:
        """What composes the session from its cursor on; None where all is composed."""
        state = await find_session(pipe, session)
        if (await find_composed(pipe, session)).is_over:
            return None
        opening = await read_opening(pipe, state)
        checkpoint = await read_checkpoint(pipe, session)
        composer = Composer(opening, state.shown_origin_ns, checkpoint.composer)
        return BatchComposer(composer, checkpoint, self._work, most_frames)

    async def _compose_from_cursor(self, pipe: BlockingPipe, lease: Lease, composer: BatchComposer) -> bool:
        """True at the session's end, False where another DECIPHER moved the cursor, or where Redis lost frames. Raises
        SetBack where it lost the frame at the cursor."""
        session, reader = lease.session, frames_after(pipe, lease.session, composer.cursor)
        while True:
            frames = await reader.read(_BLOCK_MS)
            if not frames and (state := await find_session(pipe, session)).status != "open":
                # What was committed between the two reads is read now; nothing follows it.
                frames = await reader.read()
                if not frames:
                    return await self._end_without_frame(pipe, state, composer)
            nonces = {frame.entry_id: frame.nonce for frame in frames}
            for batch in composer.batches([(frame.entry_id, frame.raw) for frame in frames]):
                batch.frame_nonce = nonces.get(batch.after, b"")
                written = await write_events(pipe, session, batch)
                if not written.is_written:
                    return False
                composer.note(written)
                self._sessions.leased.leases.prove(lease)
                if batch.final:
                    return True

    async def _end_without_frame(self, pipe: BlockingPipe, state: SessionState, composer: BatchComposer) -> bool:
        """The session ended without a final frame: the last event contains the reason."""
        return (await write_events(pipe, state.session, composer.session_failed(state.window, state.reason))).is_written

    async def _end_events(self, pipe: BlockingPipe, session: str, reason: str) -> None:
        """Gives the session's events up: the last one contains the reason. Its frames go on. Raises RedisAway,
        RedisRefuses, SessionGone."""
        self._log.error("a session's events end here", session=session, reason=reason)
        try:
            if composer := await self._composer(pipe, session):
                await write_events(pipe, session, composer.decipher_failed(reason))
        except Malformed as error:
            self._log.error("its last event cannot be written", session=session, error=str(error))
