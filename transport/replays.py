"""Replays: writing recorded entries under their recorded ids, and controlling the playback.

    replay process --play--> tokens, clock, playback        clock: the replay's own time, in recorded milliseconds
    frontends --order_playback--> control --read_control--> replay process
    frontends <--find_playback-- playback

The aggregator closes the windows of a replay by its clock, and those of a live session by Redis's.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from schemas import keys
from schemas.control import Play, Playback, Progress, encode_control, encode_progress
from schemas.entries import UNDECODABLE
from schemas.errors import Refused, not_here
from schemas.frames import Frame, encode_frame
from schemas.sessions import Opening
from transport.commit import end_session
from transport.redis.connection import AsyncPipe, Command, accepted
from transport.redis.scripts import SCRIPTS
from transport.sessions import cancel_session, find_session

# A replay process writes at least so often; without a write for ten times as long it has crashed.
SIGN_S = 1.0
SILENT_MS = 10_000

_decoder = msgspec.json.Decoder(Playback)

_PLAY = SCRIPTS["play"]
_SHOW = SCRIPTS["show"]


class Played(msgspec.Struct, frozen=True):
    """The session after a part was written: its status (GONE: it has expired; LOST: Redis was set back), the last
    committed window, and the id of the last entry."""

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
    """The command that writes the entries, all of them before `clock_ms`, and then moves the clock there (None: it
    stays). Writing the same again changes nothing. Where `after`, the last written entry, is missing, nothing is done.
    """
    clock = "" if clock_ms is None else clock_ms
    parts = [part for entry in entries for part in entry]
    return _PLAY.call(keys.of_session(session), [clock, msgspec.json.encode(playback), ttl_s, after, *parts])


def played(reply: Any) -> Played:
    """The session in the reply to play(). Raises RedisRefuses."""
    status, window, last_id = accepted(reply)
    return Played(status.decode(), int(window), last_id.decode())


def show(frame: Frame, progress: tuple[Progress, ...], after: int) -> Command:
    """The command that shows a recorded frame after the window `after`, in a replay that no aggregator computes. The
    reply is the last window that is shown: the frame's, or another one where the frame was not shown."""
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
    """The command that reads a replay's time."""
    return ("HMGET", keys.state(session), "clock", "played")


def clock_read(reply: Any) -> tuple[int, int]:
    """(the replay's time, when its process last wrote) in milliseconds, in the reply to read_clock; 0 where the session
    has expired."""
    clock, written = reply
    return int(clock or 0), int(written or 0)


def seconds_to_live(opening: Opening) -> int:
    """The time to live of a replay's keys after each renewal."""
    return opening.limits.life_ms // 1000 + keys.RETENTION_S


async def order_playback(pipe: AsyncPipe, session: str, order: Play) -> None:
    """Sends the order to the replay process, which follows it within some milliseconds unless the replay has ended.

    Raises Refused where the session is not a replay, SessionGone, RedisAway, RedisRefuses.
    """
    state = await find_session(pipe, session)
    if state.clock_ms is None:
        raise _not_a_replay(session)
    await pipe.one(
        "XADD", keys.control(session), "NOMKSTREAM", "MAXLEN", "~", keys.SIDE_STREAM_MAXLEN, "*", keys.ENTRY_FIELD,
        encode_control(order),
    )  # fmt: skip


async def end_replay(pipe: AsyncPipe, opening: Opening, reason: str) -> None:
    """Ends a replay that is open: one that an aggregator computes by a cancel, one of recorded frames at once. Raises
    SessionGone, RedisAway, RedisRefuses."""
    if opening.replay is None or not opening.replay.frames:
        await cancel_session(pipe, opening.session, reason)
        return
    # An aggregator that takes the session over, and then leaves it alone, begins a new epoch.
    while (state := await find_session(pipe, opening.session)).status == "open":
        (reply,) = await pipe.run([end_session(opening.session, state.epoch, reason)])
        accepted(reply)


async def find_playback(pipe: AsyncPipe, session: str) -> Playback | None:
    """The state of the replay's playback; None before it begins. Raises Refused where the session is not a replay,
    SessionGone, RedisAway, RedisRefuses."""
    status, clock, raw = await pipe.one("HMGET", keys.state(session), "status", "clock", "playback")
    if status is None:
        raise not_here(session)
    if clock is None:
        raise _not_a_replay(session)
    try:
        return _decoder.decode(raw) if raw else None
    except UNDECODABLE:
        return None


def _not_a_replay(session: str) -> Refused:
    return Refused("not_a_replay", f"The session {session!r} is not a replay: only a replay can be played.", status=409)
