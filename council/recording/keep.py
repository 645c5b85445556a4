"""Recording one session into a file, for the command line and Python."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import NamedTuple

from council.settings.schema import Settings
from recordings.contents import RecordingSummary
from recordings.folder import Library, recording_name
from runtime.log import log_to_stderr
from runtime.presence import RedisPresence
from schemas.errors import Refused, Unavailable
from schemas.keys import entry_ms
from transport.redis.connection import AsyncPipe
from transport.sessions import find_session, read_opening


class RecordingOrder(NamedTuple):
    """The session is recorded into the file `path`; without `text`, numbers only."""

    path: Path
    text: bool = True


def require_new_file(path: Path) -> None:
    """Raises Refused where no new file can be made at `path`. To be called before a session is opened."""
    folder = path.parent
    if path.exists() or path.is_symlink():
        raise Refused("file_exists", f"{path} exists already: name another file, or delete this one.")
    if not folder.is_dir():
        raise Refused("no_folder", f"There is no folder {folder}: make it, or name a file in another one.")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise Refused(
            "no_rights", f"You have no permission to write into the folder {folder}: name a file in another one."
        )


def library_of(settings: Settings) -> Library:
    """The library of these settings. Raises Refused where the user has no home folder and no folder is set."""
    library = settings.library
    if library is None:
        raise Refused("no_recordings_folder", "There is no home folder for recordings: name one with --recordings DIR.")
    return library


async def library_path(pipe: AsyncPipe, session: str, settings: Settings, *, text: bool) -> Path:
    """A new file's path in the library, named for the session. Raises Refused for a replay, SessionGone, RedisAway."""
    library = library_of(settings)
    library.make()
    state = await find_session(pipe, session)
    opening = await read_opening(pipe, state)
    if state.clock_ms is not None:
        raise Refused("is_replay", f"The session {session!r} is a replay: its recording exists already.")
    return library.folder / recording_name(session, opening.prompt if text else "", entry_ms(state.opened))


async def record_into(
    pipe: AsyncPipe, session: str, path: Path, *, text: bool = True, stopping: asyncio.Event | None = None
) -> RecordingSummary:
    """As EnsembleSession.record, for the session with this id."""
    from consumers.recorder.session_recorder import record_session  # imported here: it imports MCAP

    require_new_file(path)
    presence = RedisPresence(log_to_stderr("council"))
    try:
        return await record_session(pipe, session, path, presence, text=text, stopping=stopping)
    except OSError as error:
        raise Unavailable(
            f"{path} cannot be written ({error.strerror or error}), and is not kept: make room, and record the session "
            "again with `council keep` while Redis has it."
        ) from None


def size_for_a_person(size: int) -> str:
    """The size in bytes as kB or MB."""
    return f"{size / 1e6:.1f} MB" if size >= 10**6 else f"{size / 1e3:.0f} kB"
