"""A replay's side of the door: writing recorded entries under their recorded ids, and how the replay goes on.

    replay process --play--> tokens, clock, playback        clock: the replay's own time, in recorded milliseconds
    frontends --order_playback--> control --read_control--> replay process
    frontends <--find_playback-- playback

The aggregator closes the windows of a replay by its clock, where it closes those of a live session by Redis's.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from schemas import keys
from schemas.control import Play, Playback, Progress, encode_control, encode_progress
from schemas.entries import UNDECODABLE
from schemas.errors import Refused, SessionGone
from schemas.frames import Frame, encode_frame
from schemas.sessions import Opening
from transport.commit import end_session
from transport.redis.connection import AsyncPipe, Command, accepted
from transport.redis.scripts import SCRIPTS
from transport.sessions import cancel_session, find_session

# A replay writes its state at least so often; one that does not for ten times as long has ended without a word.
SIGN_S = 1.0
SILENT_MS = 10_000

_decoder = msgspec.json.Decoder(Playback)

_PLAY = SCRIPTS["play"]
_SHOW = SCRIPTS["show"]


class Played(msgspec.Struct, frozen=True):
    """What the session is after a part was written: its status (GONE: it has expired; LOST: Redis was set back), the
    last committed window, and the id of the last entry."""

    status: str
    window: int
    last_id: str


def play(
    session: str,
    clock_ms: int | None,
    playback: Playback,
    entries: Sequence[tuple[str, bytes]],
    *,
    after: str = "",
    ttl_s: int = 0,
) -> Command:
    """Writes the entries, all of which come before `clock_ms` (None: it stays), and then moves the clock. Writing the
    same again changes nothing. Where `after`, the entry that was written last, is not there any more, nothing is done.
    """
    clock = "" if clock_ms is None else clock_ms
    parts = [part for entry in entries for part in entry]
    return _PLAY.call(keys.of_session(session), [clock, msgspec.json.encode(playback), ttl_s, after, *parts])


def played(reply: Any) -> Played:
    """What play() answered. Raises RedisRefuses."""
    status, window, last_id = accepted(reply)
    return Played(status.decode(), int(window), last_id.decode())


def show(frame: Frame, progress: tuple[Progress, ...], after: int) -> Command:
    """Shows a recorded frame after the window `after`, in a replay that no aggregator computes. It answers the last
    window that is shown: another one than the frame's where that was not shown."""
    state, tokens, frames, events, control, dead = keys.of_session(frame.session)
    status, retention_s = ("ended", keys.RETENTION_S) if frame.final else ("open", 0)
    return _SHOW.call(
        [state, frames, tokens, events, control, dead],
        [
            frame.window_index, frame.cut, encode_frame(frame), keys.FRAMES_MAXLEN, encode_progress(progress), status,
            retention_s, after,
        ],
    )  # fmt: skip


def read_clock(session: str) -> Command:
    """Asks for a replay's time."""
    return ("HMGET", keys.state(session), "clock", "played")


def clock_read(reply: Any) -> tuple[int, int]:
    """(the replay's time, when its process last wrote) in milliseconds, in the reply of read_clock; 0 where the session
    has expired."""
    clock, at = reply
    return int(clock or 0), int(at or 0)


def seconds_to_live(opening: Opening) -> int:
    """How long a replay's keys live from its last renewal on."""
    return opening.limits.life_ms // 1000 + keys.RETENTION_S


async def order_playback(pipe: AsyncPipe, session: str, word: Play) -> None:
    """Lets the replay go on as the word says; it follows within some milliseconds, or not at all where it has ended.

    Raises Refused where the session is not a replay, SessionGone, RedisAway, RedisRefuses.
    """
    state = await find_session(pipe, session)
    if state.clock_ms is None:
        raise _no_replay(session)
    await pipe.one(
        "XADD", keys.control(session), "NOMKSTREAM", "MAXLEN", "~", keys.SIDE_STREAM_MAXLEN, "*", keys.ENTRY_FIELD,
        encode_control(word),
    )  # fmt: skip


async def end_replay(pipe: AsyncPipe, opening: Opening, reason: str) -> None:
    """Ends a replay that is open. An aggregator closes those that it computes; one of recorded frames ends at once.
    Raises SessionGone, RedisAway, RedisRefuses."""
    if opening.replay is None or not opening.replay.frames:
        await cancel_session(pipe, opening.session, reason)
        return
    # An aggregator that looks at the session, and leaves it alone, begins a new epoch.
    while (state := await find_session(pipe, opening.session)).status == "open":
        (reply,) = await pipe.run([end_session(opening.session, state.epoch, reason)])
        accepted(reply)


async def find_playback(pipe: AsyncPipe, session: str) -> Playback | None:
    """How far the replay is; None before it begins. Raises Refused where the session is not a replay, SessionGone,
    RedisAway, RedisRefuses."""
    status, clock, raw = await pipe.one("HMGET", keys.state(session), "status", "clock", "playback")
    if status is None:
        raise SessionGone(f"There is no session {session!r} here: `council sessions` lists those that are.")
    if clock is None:
        raise _no_replay(session)
    try:
        return _decoder.decode(raw) if raw else None
    except UNDECODABLE:
        return None


def _no_replay(session: str) -> Refused:
    return Refused("not_a_replay", f"The session {session!r} is not a replay: only a replay can be played.", status=409)
