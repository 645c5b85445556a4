"""The openings of many sessions at once: what a listing shows of them."""

from __future__ import annotations

from collections.abc import Sequence

from schemas import keys
from schemas.entries import decode_entry
from schemas.errors import Malformed
from schemas.sessions import Opening
from transport.connection import AsyncPipe, ReplyError
from transport.sessions import SessionState


async def read_openings(pipe: AsyncPipe, states: Sequence[SessionState]) -> dict[str, Opening]:
    """The opening of each session by its name, in one round trip, less those that have expired. Raises RedisAway."""
    if not states:
        return {}
    replies = await pipe.run([("XRANGE", keys.tokens(s.session), s.opened, s.opened) for s in states])
    openings = {}
    for state, reply in zip(states, replies, strict=True):
        if isinstance(reply, ReplyError) or not reply:
            continue
        try:
            entry = decode_entry(reply[0][1][1])
        except Malformed:
            continue
        if isinstance(entry, Opening):
            openings[state.session] = entry
    return openings
