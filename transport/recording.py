"""Reading a session for its recording: frames with the entries that they depend on, events, health.

frames (a second of them) --cut of the last one--> entries up to the cut: only committed entries are recorded
"""

from __future__ import annotations

from typing import Any, NamedTuple

from schemas import keys
from schemas.frames import Frame, decode_frame, encode_frame
from transport.following import StreamEntry, entry_read, last_of, read_last
from transport.redis.cluster import KeyedCommand
from transport.redis.connection import AsyncPipe, Command, accepted, redis_ns
from transport.redis.replies import optional_info
from transport.register import list_processes
from transport.sessions import SessionState, read_state, session_state
from transport.status import cursors
from transport.tokens import entries_read, read_entries

# A second of frames: the unit by which a recording grows.
_MOST_FRAMES = 60
_MOST_ENTRIES = 500
_MOST_EVENTS = 600


class SessionPart(NamedTuple):
    """The next part of a session. `state` is None where the session is gone. `is_torn` where the last recorded frame or
    event is missing or differs: Redis was set back, and the recording is no longer valid. `last_event` is the last one
    that was read."""

    state: SessionState | None
    entries: list[tuple[str, bytes]]
    frames: list[Frame]
    events: list[tuple[str, bytes]]
    is_torn: bool
    last_event: StreamEntry | None = None

    @property
    def is_empty(self) -> bool:
        """True where the part contains nothing new."""
        return not (self.entries or self.frames or self.events)


async def read_part(
    pipe: AsyncPipe,
    session: str,
    last: Frame | None,
    after_entry: str,
    after_event: str,
    last_event: StreamEntry | None = None,
) -> SessionPart:
    """What follows the frame `last` and these ids, at most a second of it. `last_event` is the event that was read
    last, if it is known. Raises RedisAway, RedisRefuses, Malformed."""
    first = "-" if last is None else keys.frame_id(last.window_index)
    state_reply, frame_reply, event_reply, event_proof = await pipe.run(
        [
            read_state(session),
            ("XRANGE", keys.frames(session), first, "+", "COUNT", _MOST_FRAMES + 1),
            ("XRANGE", keys.events(session), f"({after_event}", "+", "COUNT", _MOST_EVENTS),
            read_last(keys.events(session), last_event.entry_id if last_event else after_event),
        ]
    )
    state = session_state(session, state_reply)
    if state is None:
        return SessionPart(None, [], [], [], is_torn=False)
    frames = [decode_frame(raw) for _, raw in entries_read(accepted(frame_reply))]
    if last_event is not None and last_of(event_proof) != last_event:
        return SessionPart(state, [], [], [], is_torn=True)
    if last is not None:
        if state.window < last.window_index or (frames and not _is_same(frames[0], last)):
            return SessionPart(state, [], [], [], is_torn=True)
        frames = frames[1:] if frames and frames[0].window_index == last.window_index else frames
    frames = frames[:_MOST_FRAMES]
    entries = await _entries(pipe, session, after_entry, frames[-1].cut) if frames else []
    events = [entry_read(entry) for entry in accepted(event_reply)]
    pairs = [(event.entry_id, event.raw) for event in events]
    return SessionPart(state, entries, frames, pairs, is_torn=False, last_event=events[-1] if events else last_event)


def _is_same(found: Frame, last: Frame) -> bool:
    """True where the frame `found` is the recorded one, or a later one because that was trimmed.

    A recording has no nonces. Its frames have a `cut`: entries that replaced lost ones have later ids, as long as
    Redis's clock rises."""
    return found.window_index > last.window_index or encode_frame(found) == encode_frame(last)


async def _entries(pipe: AsyncPipe, session: str, after: str, last: str) -> list[tuple[str, bytes]]:
    """The entries in (after, last], read in pages. A second has some hundred; those before the first kept frame may be
    a whole session."""
    found: list[tuple[str, bytes]] = []
    while keys.entry_order(after) < keys.entry_order(last):
        (reply,) = await pipe.run([read_entries(session, after, last, _MOST_ENTRIES)])
        page = entries_read(accepted(reply))
        found += page
        if len(page) < _MOST_ENTRIES:
            break
        after = page[-1][0]
    return found


async def read_rest(pipe: AsyncPipe, session: str, after_entry: str) -> list[tuple[str, bytes]]:
    """The entries of a session after its last window. Raises RedisAway, RedisRefuses."""
    return await _entries(pipe, session, after_entry, f"{2**63}-0")


async def read_health(pipe: AsyncPipe, state: SessionState) -> tuple[int, dict[str, Any]]:
    """(Redis's time in nanoseconds, the session's cursors and the load of its council). Raises RedisAway,
    RedisRefuses."""
    records = await list_processes(pipe)
    command: list[Command] = [("TIME",), KeyedCommand(keys.state(state.session), ("INFO", "memory"))]
    time_reply, memory = await pipe.run(command)
    now_ns = redis_ns(accepted(time_reply))
    return now_ns, {
        **cursors(state, now_ns),
        "redis_used_bytes": int(optional_info(memory).get("used_memory", 0)),
        "processes": len(records),
        "cpu_s": round(sum(record.cpu_s for record in records), 3),
    }
