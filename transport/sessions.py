"""Sessions: opening, reading, listing, cancelling and deleting them."""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Collection, Sequence
from typing import Any

import msgspec

from schemas import keys
from schemas.control import Progress, Stop, decode_progress, encode_control
from schemas.entries import Cancel, decode_opening, encode_entry
from schemas.errors import CouncilError, Malformed, RedisRefuses, Refused, expired, not_here
from schemas.grid import NS_PER_MS, next_grid_point_ns
from schemas.sessions import LONGEST_MS, Opening
from transport.branches import add_branch
from transport.redis.cluster import KeyedCommand
from transport.redis.connection import AsyncPipe, Command, ReplyError, accepted, atomically, is_out_of_memory, redis_ns
from transport.redis.refusals import in_words
from transport.redis.replies import is_wrong_type, optional_info
from transport.redis.scripts import SCRIPTS

_CANCEL = SCRIPTS["cancel"]
_DELETE = SCRIPTS["delete"]
_OPEN = SCRIPTS["open"]

# Above this share of Redis's memory limit no session is opened, so that the open ones have room to end.
_FULLEST = 0.8
# The most sessions in a list, newest first.
MOST_LISTED = 200
# The most pages of names that are read for it: some sessions were deleted, or have expired.
_MOST_PAGES = 20


class SessionState(msgspec.Struct, frozen=True):
    """A session's state hash. `window` is the last committed one (-1: none); status is open or ended; `phase` is that
    of DECIPHER's state machine, empty before its first event.

    The last two are set for a replay alone, whose ids are recorded ones: its own time, before which all recorded
    entries are written, and the time at which it was opened.
    """

    session: str
    status: str
    opened: str
    window: int
    epoch: int
    reason: str
    decipher: str
    cut: str
    progress: tuple[Progress, ...]
    phase: str = ""
    clock_ms: int | None = None
    began_ms: int | None = None

    @property
    def origin_ns(self) -> int:
        """The first grid point at or after the opening entry, in nanoseconds of Unix time."""
        return origin_ns(self.opened)

    @property
    def shown_origin_ns(self) -> int:
        """The origin on the time line of the real-time protocol, where a replay begins when it was opened."""
        return self.origin_ns if self.began_ms is None else next_grid_point_ns(self.began_ms * NS_PER_MS)


def origin_ns(opened: str) -> int:
    """The origin of the session whose opening entry has the id `opened`."""
    return next_grid_point_ns(keys.entry_ms(opened) * NS_PER_MS)


def new_session_id() -> str:
    """Twelve hexadecimal digits: safe in keys, URLs and shells."""
    return secrets.token_hex(6)


async def open_session(pipe: AsyncPipe, opening: Opening, opened: str = "*") -> str:
    """Writes the opening and announces the session; returns the opening's entry id, which for a replay is `opened`. A
    what-if branch is first added to those of its parent.

    Raises Refused where Redis is full or nearly so, RedisAway, RedisRefuses.
    """
    await require_room(pipe, opening.session)
    life_s = opening.limits.life_ms // 1000
    # A replay of a branch is not a branch.
    if opening.parent is not None and opening.replay is None:
        try:
            await add_branch(pipe, opening.parent.session, opening.session)
        except RedisRefuses as refusal:
            raise refused(refusal) from refusal
    (written,) = await pipe.run(
        [_OPEN.call(keys.of_session(opening.session), [encode_entry(opening), life_s + keys.RETENTION_S, opened])]
    )
    if isinstance(written, ReplyError):
        raise refused(written) from written
    is_replay = opening.replay is not None
    now_ms = redis_ns(await pipe.one("TIME")) // NS_PER_MS if is_replay else keys.entry_ms(written.decode())
    oldest_ms = max(0, now_ms - 2 * LONGEST_MS)
    announce = ("XADD", keys.SESSIONS, "MINID", "~", oldest_ms, "*", keys.SESSION_FIELD, opening.session)
    *_, done = await pipe.run(atomically(announce, ("EXPIRE", keys.SESSIONS, keys.SESSIONS_TTL_S)))
    accepted(accepted(done)[0])
    return str(written.decode())


async def require_room(pipe: AsyncPipe, session: str) -> None:
    """Raises Refused where the Redis that serves this session's keys is nearly full; RedisAway."""
    (reply,) = await pipe.run([KeyedCommand(keys.state(session), ("INFO", "memory"))])
    # Without the right to INFO, a full Redis refuses the opening itself.
    fields = optional_info(reply)
    limit = int(fields.get("maxmemory", 0))
    if limit and int(fields["used_memory"]) > _FULLEST * limit:
        raise _full()


def refused(error: Exception) -> CouncilError:
    """The error for a client, where Redis refuses what a process writes. `error` is a ReplyError or a RedisRefuses."""
    if is_out_of_memory(error):
        return _full()
    return error if isinstance(error, RedisRefuses) else RedisRefuses(f"Redis refuses: {in_words(error)}")


def _full() -> Refused:
    return Refused(
        "redis_full",
        "Redis is short of memory and takes no new session: wait until old sessions expire, or raise its maxmemory.",
        status=503,
    )


# Two numbers below 2**64.
_LONGEST_ID = 41
_STATE_FIELDS = (
    "status", "opened", "window", "epoch", "reason", "decipher", "cut", "progress", "phase", "clock", "began",
)  # fmt: skip


def read_state(session: str) -> Command:
    """The command whose reply session_state() reads."""
    return ("HMGET", keys.state(session), *_STATE_FIELDS)


def session_state(session: str, reply: Any) -> SessionState | None:
    """The state in the reply to read_state. None where the session is gone, or where its state is not one of this
    version. Raises RedisRefuses."""
    if is_wrong_type(reply) or accepted(reply)[0] is None:
        return None
    try:
        status, opened, window, epoch, reason, decipher, cut, *_ = (
            value.decode() if value else "" for value in reply[:7]
        )
        phase = reply[8].decode() if reply[8] else ""
        clock_ms, began_ms = (int(value) if value else None for value in reply[9:11])
        state = SessionState(
            session, status, opened, int(window), int(epoch), reason, decipher or "0-0", cut,
            decode_progress(reply[7]) if reply[7] else (), phase, clock_ms, began_ms,
        )  # fmt: skip
    except (ValueError, Malformed):
        return None
    has_ids = all(len(text) <= _LONGEST_ID and keys.is_entry_id(text) for text in (opened, state.decipher, cut))
    return state if has_ids and state.window >= -1 else None


async def find_session(pipe: AsyncPipe, session: str) -> SessionState:
    """The session's state. Raises SessionGone, RedisAway, RedisRefuses."""
    (reply,) = await pipe.run([read_state(session)])
    state = session_state(session, reply)
    if state is None:
        raise not_here(session)
    return state


async def read_opening(pipe: AsyncPipe, state: SessionState) -> Opening:
    """The session's opening. Raises SessionGone where it has expired, OtherVersion, Malformed, RedisAway,
    RedisRefuses."""
    entries = await pipe.one(*_read_opening(state))
    if not entries:
        raise expired(state.session)
    return decode_opening(entries[0][1][1])


async def read_openings(pipe: AsyncPipe, states: Sequence[SessionState]) -> dict[str, Opening]:
    """The opening of each session by its id, in one round trip, without those that have expired or do not decode.

    Raises RedisAway, RedisRefuses.
    """
    if not states:
        return {}
    replies = await pipe.run(list(map(_read_opening, states)))
    openings = {}
    for state, reply in zip(states, replies, strict=True):
        with contextlib.suppress(Malformed):
            if entries := accepted(reply):
                openings[state.session] = decode_opening(entries[0][1][1])
    return openings


def _read_opening(state: SessionState) -> Command:
    return ("XRANGE", keys.tokens(state.session), state.opened, state.opened)


async def list_sessions(pipe: AsyncPipe) -> list[SessionState]:
    """The newest sessions that exist, newest first. Raises RedisAway, RedisRefuses."""
    found, last = list[SessionState](), "+"
    for _ in range(_MOST_PAGES):
        entries = await pipe.one("XREVRANGE", keys.SESSIONS, last, "-", "COUNT", MOST_LISTED)
        found += await _states_of(pipe, [keys.session_named(entry[1][1]) for entry in entries])
        if len(entries) < MOST_LISTED or len(found) >= MOST_LISTED:
            break
        last = f"({entries[-1][0].decode()}"
    return found[:MOST_LISTED]


async def open_among(pipe: AsyncPipe, names: Collection[str]) -> set[str]:
    """The sessions of these that are open. Raises RedisAway, RedisRefuses."""
    return {state.session for state in await _states_of(pipe, list(names)) if state.status == "open"}


async def _states_of(pipe: AsyncPipe, names: Sequence[str]) -> list[SessionState]:
    """The states of those that exist."""
    replies = await pipe.run([read_state(name) for name in names]) if names else []
    states = (session_state(name, reply) for name, reply in zip(names, replies, strict=True))
    return [state for state in states if state is not None]


async def cancel_session(
    pipe: AsyncPipe, session: str, reason: str = "cancelled", members: tuple[int, ...] = ()
) -> bool:
    """Stops these members of a session; all of them where none is given. False where the session had ended, and is not
    changed. Raises SessionGone, RedisAway, RedisRefuses."""
    session_keys = [keys.state(session), keys.tokens(session), keys.control(session)]
    mark, stop = encode_entry(Cancel(members, reason)), encode_control(Stop(members, reason))
    (status,) = await pipe.run([_CANCEL.call(session_keys, [mark, stop, keys.SIDE_STREAM_MAXLEN])])
    return _status_of(session, status) == "open"


async def delete_session(pipe: AsyncPipe, session: str) -> None:
    """Deletes all keys of a session that has ended. Raises Refused where it is open, SessionGone, RedisAway,
    RedisRefuses."""
    (status,) = await pipe.run([_DELETE.call(keys.of_session(session), [])])
    if _status_of(session, status) == "open":
        raise Refused(
            "session_open", f"The session {session!r} is open: cancel it, and delete it after its end.", status=409
        )


def _status_of(session: str, reply: Any) -> str:
    """The status in the reply of a script. Raises SessionGone, RedisRefuses."""
    status = str(accepted(reply).decode())
    if status == "GONE":
        raise not_here(session)
    return status
