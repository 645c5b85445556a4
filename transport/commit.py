"""The aggregator's commands: taking a session over, and committing its windows exactly once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from schemas import keys
from schemas.control import Progress, Stop, encode_control, encode_progress
from schemas.entries import Beat, Steered, decode_opening, encode_entry
from schemas.errors import Malformed
from schemas.frames import Frame, decode_frame, encode_frame
from schemas.sessions import Opening
from transport.redis.connection import Command, ReplyError, accepted
from transport.redis.scripts import SCRIPTS

_COMMIT = SCRIPTS["commit"]
_END = SCRIPTS["end"]
_TAKE_OVER = SCRIPTS["take_over"]


class Taken(msgspec.Struct, frozen=True):
    """A session at its takeover. `window` is the last committed one (-1: none); `checkpoint` is empty before the first
    one is written. `served_ms`: when this Redis server first gave it an owner, by its clock."""

    status: str
    epoch: int
    window: int
    cut: str
    checkpoint: bytes
    opened: str
    opening: Opening
    served_ms: int = 0


def take_over(session: str) -> Command:
    """The command that makes the caller the session's owner: from then on commits of earlier owners are refused."""
    return _TAKE_OVER.call([keys.state(session), keys.tokens(session), keys.frames(session)], [])


def epoch_taken(reply: Any) -> int:
    """The epoch in the reply to take_over, for a session that exists."""
    return int(reply[1])


def taken(reply: Any) -> Taken | None:
    """The session in the reply to take_over; None where it is gone. Raises RedisRefuses; OtherVersion where its entries
    or its frames have another version; Malformed for a session of another client."""
    if accepted(reply)[0] == b"GONE":
        return None
    status, epoch, window, cut, checkpoint, opened, raw, last_frame, served_ms = reply
    opening = decode_opening(raw)
    if last_frame:
        # Another version of the core would go on with other frames.
        decode_frame(last_frame)
    try:
        return Taken(
            status.decode(), epoch, int(window), cut.decode(), checkpoint, opened.decode(), opening, int(served_ms)
        )
    except (AttributeError, ValueError) as error:
        raise Malformed("its state does not decode") from error


def commit_frame(
    frame: Frame,
    epoch: int,
    last_ms: int,
    *,
    progress: tuple[Progress, ...],
    stops: Sequence[Stop],
    dead: Sequence[tuple[str, bytes]],
    checkpoint: bytes,
    marks: Sequence[Beat | Steered] = (),
    end_reason: str,
    nonce: bytes = b"",
) -> Command:
    """The command that commits one window; `last_ms` is its last millisecond, `checkpoint` may be empty, `nonce` is its
    owner's. `marks` are written into the token stream, after the window. verdict() reads the reply."""
    of_session = keys.of_session(frame.session)
    state, tokens, frames, _events, control, dead_key = of_session
    return _COMMIT.call(
        [state, tokens, frames, control, dead_key],
        [
            epoch,
            frame.window_index,
            frame.cut,
            last_ms,
            encode_frame(frame),
            keys.FRAMES_MAXLEN,
            encode_progress(progress),
            checkpoint,
            len(marks),
            "ended" if frame.final else "open",
            end_reason if frame.final else "",
            keys.RETENTION_S if frame.final else 0,
            keys.SIDE_STREAM_MAXLEN,
            nonce,
            len(stops),
            *map(encode_entry, marks),
            *map(encode_control, stops),
            *(part for entry in dead for part in entry),
        ],
    )


def verdict(reply: Any) -> str:
    """OK, GONE, STALE, AGAIN or WINDOW, or ERROR for a ReplyError."""
    return "ERROR" if isinstance(reply, ReplyError) else str(reply.decode().split(" ")[0])


def end_session(session: str, epoch: int, reason: str) -> Command:
    """The command that ends a session which its owner cannot compute: with a reason, and without a further frame. The
    command of an earlier owner changes nothing."""
    state, tokens, frames, events, control, dead = keys.of_session(session)
    return _END.call(
        [state, control, tokens, frames, events, dead],
        [epoch, reason, encode_control(Stop((), reason)), keys.SIDE_STREAM_MAXLEN, keys.RETENTION_S],
    )
