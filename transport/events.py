"""DECIPHER's events: written together with its cursor, and read by any number of clients."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, TypeVar

import msgspec

from schemas import keys
from schemas.errors import Malformed, expired, not_here
from schemas.events import SentError
from transport.following import StreamEntry, StreamReader, entry_read, is_nonce
from transport.redis.connection import AsyncPipe, accepted
from transport.redis.scripts import SCRIPTS

T = TypeVar("T")

_EVENTS = SCRIPTS["events"]

# Ten minutes, as long as frames are kept, with an energy_update and three more events for each frame: more than six
# members and the field cause on average. At 200 bytes each 30 MB.
EVENTS_MAXLEN = 36_000 * 4
_STATE_FIELDS = ("status", "window", "decipher", "phase", "standing", "composed", "errors")

_encoder = msgspec.msgpack.Encoder()
_standing_decoder = msgspec.msgpack.Decoder(dict[str, bytes])
_errors_decoder = msgspec.msgpack.Decoder(list[SentError])


class EventBatch(msgspec.Struct):
    """Events of the frames in (before, after], as (entry id, JSON); `final` where the last of them ends the session.

    `checkpoint` is DECIPHER's own, `standing` the standing events by their types, `phase` that of the session's state
    machine. `nonce` is added to each event; `frame_nonce` is that of the frame `after`, empty where it has none.
    `errors` are the session's errors that are kept for later clients; None where they are as in the batch before.
    """

    before: str
    after: str
    events: list[tuple[str, bytes]]
    final: bool
    checkpoint: bytes
    standing: Mapping[str, bytes]
    phase: str
    nonce: bytes = b""
    frame_nonce: bytes = b""
    errors: Sequence[SentError] | None = None


class EventCheckpoint(msgspec.Struct, frozen=True):
    """What DECIPHER wrote with its last batch: the cursor, the composer's own checkpoint, the standing events by their
    types, and the session's errors. All are empty before the first batch, and the cursor is 0-0."""

    cursor: str = "0-0"
    composer: bytes = b""
    standing: dict[str, bytes] = {}
    errors: list[SentError] = []


class WrittenBatch(msgspec.Struct, frozen=True):
    """The result of writing a batch. `is_written` is False where another DECIPHER has moved the cursor, or where the
    frames do not stand any more; `cursor` is where it is now, `committed` the last committed window."""

    is_written: bool
    cursor: str
    committed: int


class Composed(msgspec.Struct, frozen=True):
    """How far a session is composed. `window` is the last committed one (-1: none). Where `is_over`, no event follows
    the cursor. `errors` are those up to the cursor that are kept, oldest first."""

    status: Literal["open", "ended"]
    window: int
    cursor: str
    phase: str
    standing: dict[str, bytes]
    is_over: bool
    errors: list[SentError] = []


async def write_events(pipe: AsyncPipe, session: str, batch: EventBatch) -> WrittenBatch:
    """Writes the batch if the cursor is at its beginning, and the last frame is the one that it was composed of. Raises
    SessionGone, RedisAway, RedisRefuses."""
    retention_s = keys.RETENTION_S if batch.final else 0
    arguments: list[str | bytes | int] = [
        batch.before,
        batch.after,
        EVENTS_MAXLEN,
        retention_s,
        batch.checkpoint,
        _encoder.encode(batch.standing),
        batch.phase,
        batch.nonce,
        batch.frame_nonce,
        b"" if batch.errors is None else _encoder.encode(batch.errors),
        *(part for event in batch.events for part in event),
    ]
    (reply,) = await pipe.run(
        [_EVENTS.call([keys.state(session), keys.events(session), keys.frames(session)], arguments)]
    )
    verdict, cursor, committed = accepted(reply)
    if verdict == b"GONE":
        raise expired(session)
    return WrittenBatch(verdict == b"OK", cursor.decode(), int(committed))


async def read_checkpoint(pipe: AsyncPipe, session: str) -> EventCheckpoint:
    """As of the last batch. Raises SessionGone, Malformed, RedisAway, RedisRefuses."""
    found = await pipe.one("HMGET", keys.state(session), "status", "decipher", "composer", "standing", "errors")
    if found[0] is None:
        raise expired(session)
    return EventCheckpoint(
        (found[1] or b"0-0").decode(), found[2] or b"", _decoded(_standing_decoder, found[3], {}),
        _decoded(_errors_decoder, found[4], []),
    )  # fmt: skip


async def find_composed(pipe: AsyncPipe, session: str) -> Composed:
    """Raises SessionGone, Malformed, RedisAway, RedisRefuses."""
    found = await pipe.one("HMGET", keys.state(session), *_STATE_FIELDS)
    if found[0] is None:
        raise not_here(session)
    status, window, cursor, phase = (value.decode() if value else "" for value in found[:4])
    return Composed(
        "open" if status == "open" else "ended",
        int(window),
        cursor or "0-0",
        phase,
        _decoded(_standing_decoder, found[4], {}),
        found[5] is not None,
        _decoded(_errors_decoder, found[6], []),
    )


def _decoded(decoder: msgspec.msgpack.Decoder[T], raw: bytes | None, empty: T) -> T:
    try:
        return decoder.decode(raw) if raw else empty
    except msgspec.MsgspecError as error:
        raise Malformed(f"the standing events or the errors of a session do not decode: {error}") from error


def events_after(pipe: AsyncPipe, session: str, after: str = "0-0", last: StreamEntry | None = None) -> StreamReader:
    """Reads a session's events after the id `after`; with `last`, only if that entry still stands. `raw` is JSON."""
    return StreamReader(pipe, session, keys.events(session), after, last)


def event_id(entry: StreamEntry) -> str:
    """The id of an event for clients: that of its entry, and behind it the entry's nonce, as in 42-0-9f3ac2d1. With it
    a client proves which event it has: Redis may lose an event, and then get another one with the same entry id."""
    return f"{entry.entry_id}-{entry.nonce.decode()}" if is_nonce(entry.nonce) else entry.entry_id


async def find_event(pipe: AsyncPipe, session: str, entry_id: str) -> StreamEntry | None:
    """The event with this id; None where there is none. Raises RedisAway, RedisRefuses."""
    found = await pipe.one("XRANGE", keys.events(session), entry_id, entry_id)
    return entry_read(found[0]) if found else None
