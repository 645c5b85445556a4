"""DECIPHER's side of the door: its events and its cursor, written together."""

from __future__ import annotations

import msgspec

from schemas import keys
from schemas.errors import SessionGone
from schemas.frames import Frame, decode_frame
from transport.connection import AsyncPipe, accepted
from transport.scripts import EVENTS

# As long as the frames are kept, with a handful of events each.
_EVENTS_MAXLEN = 36_000 * 3


class EventBatch(msgspec.Struct):
    """Events of the frames in (before, after], as (entry id, JSON); `final` once the last of them ends the session."""

    before: str
    after: str
    events: list[tuple[str, bytes]]
    final: bool


async def write_events(pipe: AsyncPipe, session: str, batch: EventBatch) -> str:
    """Writes the batch if the cursor stands at its beginning; returns where the cursor stands now. Raises
    SessionGone, RedisAway."""
    retention_s = keys.RETENTION_S if batch.final else 0
    events = (part for event in batch.events for part in event)
    arguments: list[str | bytes | int] = [batch.before, batch.after, _EVENTS_MAXLEN, retention_s, *events]
    (reply,) = await pipe.run([EVENTS.call([keys.state(session), keys.events(session)], arguments)])
    if accepted(reply)[0] == b"GONE":
        raise SessionGone(f"The session {session!r} has expired.")
    return str(reply[1].decode())


async def frame_before(pipe: AsyncPipe, session: str, cursor: str) -> Frame | None:
    """The frame at the cursor, which was composed last; None at the beginning."""
    entries = await pipe.one("XRANGE", keys.frames(session), cursor, cursor)
    return decode_frame(entries[0][1][1]) if entries else None
