"""DECIPHER's side of the door, and its readers': its events and its cursor, written together and read by many."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import msgspec

from schemas import keys
from schemas.errors import Malformed, SessionGone
from transport.frames import read_stream, wait_for_entries
from transport.redis.connection import AsyncPipe, BlockingPipe, accepted
from transport.redis.scripts import SCRIPTS

_EVENTS = SCRIPTS["events"]

# Ten minutes, as long as the frames are kept, of an energy_update for each frame and three others beside it: more than
# six members say and a field changes on average. At 200 bytes each 30 MB.
_EVENTS_MAXLEN = 36_000 * 4
_STATE_FIELDS = ("status", "window", "decipher", "phase", "standing", "composed")

_encoder = msgspec.msgpack.Encoder()
_standing_decoder = msgspec.msgpack.Decoder(dict[str, bytes])


class EventBatch(msgspec.Struct):
    """Events of the frames in (before, after], as (entry id, JSON); `final` once the last of them ends the session.

    `checkpoint` is DECIPHER's own, `standing` the events by their types that are true after them, `phase` the state
    of the session's machine.
    """

    before: str
    after: str
    events: list[tuple[str, bytes]]
    final: bool
    checkpoint: bytes
    standing: Mapping[str, bytes]
    phase: str


class Written(msgspec.Struct, frozen=True):
    """What came of a batch: written, or moved on by another DECIPHER; where the cursor stands now, and which window was
    committed last."""

    is_written: bool
    cursor: str
    committed: int


class Composed(msgspec.Struct, frozen=True):
    """How far a session is composed. `window` is the last committed one (-1: none); nothing follows the cursor once it
    `is_over`."""

    status: Literal["open", "ended"]
    window: int
    cursor: str
    phase: str
    standing: dict[str, bytes]
    is_over: bool


async def write_events(pipe: AsyncPipe, session: str, batch: EventBatch) -> Written:
    """Writes the batch if the cursor stands at its beginning. Raises SessionGone, RedisAway, RedisRefuses."""
    retention_s = keys.RETENTION_S if batch.final else 0
    arguments: list[str | bytes | int] = [
        batch.before,
        batch.after,
        _EVENTS_MAXLEN,
        retention_s,
        batch.checkpoint,
        _encoder.encode(batch.standing),
        batch.phase,
        *(part for event in batch.events for part in event),
    ]
    (reply,) = await pipe.run([_EVENTS.call([keys.state(session), keys.events(session)], arguments)])
    verdict, cursor, committed = accepted(reply)
    if verdict == b"GONE":
        raise SessionGone(f"The session {session!r} has expired.")
    return Written(verdict == b"OK", cursor.decode(), int(committed))


async def read_checkpoint(pipe: AsyncPipe, session: str) -> tuple[str, bytes, dict[str, bytes]]:
    """The cursor, and the checkpoint and what stood when it came there (empty before the first batch). Raises
    SessionGone, RedisAway, RedisRefuses; Malformed."""
    found = await pipe.one("HMGET", keys.state(session), "status", "decipher", "composer", "standing")
    if found[0] is None:
        raise SessionGone(f"The session {session!r} has expired.")
    return (found[1] or b"0-0").decode(), found[2] or b"", _standing(found[3])


async def find_composed(pipe: AsyncPipe, session: str) -> Composed:
    """Raises SessionGone, Malformed, RedisAway, RedisRefuses."""
    found = await pipe.one("HMGET", keys.state(session), *_STATE_FIELDS)
    if found[0] is None:
        raise SessionGone(f"There is no session {session!r} here: `council sessions` lists those that are.")
    status, window, cursor, phase = (value.decode() if value else "" for value in found[:4])
    return Composed(
        "open" if status == "open" else "ended",
        int(window),
        cursor or "0-0",
        phase,
        _standing(found[4]),
        found[5] is not None,
    )


def _standing(raw: bytes | None) -> dict[str, bytes]:
    try:
        return _standing_decoder.decode(raw) if raw else {}
    except msgspec.MsgspecError as error:
        raise Malformed(f"what stands of a session's events does not decode: {error}") from error


async def read_events(pipe: AsyncPipe, session: str, after: str) -> list[tuple[str, bytes]]:
    """The events after the id `after`, as (entry id, JSON). Raises RedisAway, RedisRefuses."""
    return await read_stream(pipe, keys.events(session), after)


async def wait_for_events(pipe: BlockingPipe, session: str, after: str, block_ms: int) -> list[tuple[str, bytes]]:
    """As read_events; waits up to block_ms for the first one."""
    return await wait_for_entries(pipe, keys.events(session), after, block_ms)
