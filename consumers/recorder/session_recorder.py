"""Recording one session: what is committed is written, until the session has ended or is gone.

Redis --read_part, four times a second--> RecordingFile --flush, each second--> disk --finish--> its final name
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib.metadata
from pathlib import Path

import msgspec

from consumers.recorder.recording_file import RecordingFile
from recordings.contents import About, Health, RecordingSummary
from recordings.folder import UNFINISHED
from recordings.reading import RecordingReader
from recordings.writing import about_session
from runtime.presence import RedisPresence
from schemas.errors import Malformed, RedisAway, RedisRefuses, Refused, SessionGone
from transport.events import find_composed
from transport.following import StreamEntry
from transport.recording import SessionPart, read_health, read_part, read_rest
from transport.redis.connection import AsyncPipe
from transport.sessions import find_session, read_opening

VERSION = importlib.metadata.version("turbo-ensemble")
_POLL_S = 0.25
# A chunk ends so long after the one before it, at the next poll: within a second.
_FLUSH_S = 0.7
_HEALTH_S = 1.0
_RETRY_S = 0.25
# After a session's end DECIPHER composes for a moment; where none runs, no events come.
_EVENTS_WAIT_S = 1.0
# How a recording ends whose session Redis lost.
_GONE = "Redis lost the session before it had ended."


async def record_session(
    pipe: AsyncPipe,
    session: str,
    path: Path,
    presence: RedisPresence,
    *,
    text: bool = True,
    stopping: asyncio.Event | None = None,
) -> RecordingSummary:
    """Records the session from its beginning to its end, or until `stopping` is set, into the file `path`, which exists
    when this returns.

    Continues what another process has written of it. Raises SessionGone where the session does not exist, Refused where
    the file exists or is being written, OSError where it cannot be written; an incomplete file is then deleted.
    """
    recorder = SessionRecorder(pipe, session, path, presence, text=text, stopping=stopping)
    try:
        return await recorder.run()
    except OSError:
        recorder.discard()
        raise
    finally:
        recorder.close()


class SessionRecorder:
    """One session and its file."""

    def __init__(
        self,
        pipe: AsyncPipe,
        session: str,
        path: Path,
        presence: RedisPresence,
        *,
        text: bool,
        stopping: asyncio.Event | None,
    ) -> None:
        """Raises Refused where the file exists, or is being written; OSError."""
        self._stopping = stopping or asyncio.Event()
        self._pipe, self._session, self._presence, self._text = pipe, session, presence, text
        self._file = RecordingFile(path)
        self._about: About | None = None
        # The event that was read last by this process.
        self._last_event: StreamEntry | None = None
        self._flush_at = self._health_at = 0.0
        self._ended_at: float | None = None
        self._loop = asyncio.get_running_loop()

    async def run(self) -> RecordingSummary:
        """As record_session."""
        while True:
            try:
                if self._about is None:
                    self._about = await self._begin()
                file = self._file
                part = await read_part(
                    self._pipe, self._session, file.last_frame, file.after_entry, file.after_event, self._last_event
                )
                self._presence.come_back()
                summary = await self._take(part)
                if summary is not None:
                    return summary
            except (RedisAway, RedisRefuses) as error:
                self._presence.lose(error)
                await asyncio.sleep(_RETRY_S)
            except (SessionGone, Malformed) as error:
                if self._about is None:
                    raise
                return self._file.finish(_GONE if isinstance(error, SessionGone) else str(error))

    def discard(self) -> None:
        """Deletes what was written."""
        self._file.discard()

    def close(self) -> None:
        """Leaves an unfinished file to another process."""
        self._file.close()

    async def _begin(self) -> About:
        """Raises SessionGone."""
        state = await find_session(self._pipe, self._session)
        opening = await read_opening(self._pipe, state)
        about = about_session(opening, state.opened, VERSION, text=self._text)
        self._file.begin(about)
        return about

    async def _take(self, part: SessionPart) -> RecordingSummary | None:
        """Writes the part; the summary where that was the last one."""
        file, now = self._file, self._loop.time()
        self._last_event = part.last_event
        if part.state is None:
            return file.finish(_GONE)
        if part.is_torn:
            assert self._about is not None
            file.restart(self._about)
            return None
        file.add_entries(part.entries)
        file.add_frames(part.frames)
        file.add_events(part.events)
        is_open = part.state.status == "open"
        if is_open and now >= self._health_at:
            self._health_at = now + _HEALTH_S
            at_ns, health = await read_health(self._pipe, part.state)
            file.add_health(at_ns, msgspec.convert(health, Health))
        is_whole_second = len(part.frames) >= 60
        if now >= self._flush_at or is_whole_second:
            self._flush_at = now + _FLUSH_S
            file.flush()
        if is_whole_second:
            # Other sessions of this process are served meanwhile.
            await asyncio.sleep(0)
        elif is_open and self._stopping.is_set():
            return file.finish("The recording was stopped before the session had ended.")
        elif is_open or not await self._is_complete(part, now):
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_POLL_S):
                    await (self._stopping if is_open else asyncio.Event()).wait()
        else:
            file.add_entries(await read_rest(self._pipe, self._session, file.after_entry))
            return file.finish(part.state.reason)
        return None

    async def _is_complete(self, part: SessionPart, now: float) -> bool:
        """True where nothing more comes of a session that has ended."""
        if not part.is_empty:
            self._ended_at = None
            return False
        self._ended_at = self._ended_at or now
        composed = await find_composed(self._pipe, self._session)
        return composed.is_over or now - self._ended_at > _EVENTS_WAIT_S


def finish_unfinished(path: Path) -> RecordingSummary | None:
    """Completes the file of a session that is gone; None where it contains nothing valid, and then deletes it. Raises
    Refused where another process writes it, OSError."""
    unfinished = path.with_name(f".{path.name}{UNFINISHED}")
    with contextlib.closing(RecordingFile(path)) as file:
        try:
            with RecordingReader(unfinished) as reader:
                about = reader.about
        except (Malformed, Refused):
            file.discard()
            return None
        file.begin(about)
        return file.finish(_GONE)
