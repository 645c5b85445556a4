"""Where a client that connects again continues, and whether it can: does Redis still have what it received last?

A client of `/frames` sends `from`, and proves its last frame by the `cut`; a client of Server-Sent Events sends an id
with a nonce (event_stream.py). A number alone, as `after` of `/ws`, is not a proof: Redis may have lost that window,
and an aggregator may have committed it again. It marks such frames (StreamEntry.may_be_written_again), and a client
that names one of them starts again. It loses nothing by that.
"""

from __future__ import annotations

import time
from collections.abc import Iterable

from schemas.frames import decode_frame
from schemas.grid import window_index_at
from transport.frames import find_frame
from transport.redis.connection import AsyncPipe
from transport.sessions import SessionState


def was_due(state: SessionState, window: int) -> bool:
    """True for a window whose end has passed: where it is not committed, Redis may have lost it. False for a replay,
    which computes windows before they are due."""
    return state.clock_ms is None and window < window_index_at(time.time_ns() - state.origin_ns)


def unfinished_at(states: Iterable[SessionState], number: int) -> SessionState | None:
    """The session that a client without a session watched when it received the frame number, if more of it follows;
    `states` are the sessions, the last opened first. None where the client has all of it, or no session had that frame.

    Several sessions may have it, as they run at once. Such a client watches the one that was opened last.
    """
    for state in states:
        window = number - window_index_at(state.shown_origin_ns)
        if state.status != "open" and window == state.window + 1:
            # The session's last events follow its last frame.
            return None
        # Of an open session, Redis may have lost the window: the client is then told to start again.
        if window >= 0 and (window <= state.window or (state.status == "open" and was_due(state, window))):
            return state
    return None


async def can_continue_frames(pipe: AsyncPipe, state: SessionState, window: int, cut: str | None) -> bool:
    """True if a client that has received the frame of the window can continue after it; `cut` is what it says of that
    frame, if anything. Raises Malformed, RedisAway, RedisRefuses."""
    found = await find_frame(pipe, state.session, window)
    if cut is not None:
        return found is not None and decode_frame(found.raw).cut == cut
    if found is None:
        # It is no longer kept, or this client waits for a window of the future.
        return window <= state.window or not was_due(state, window)
    # After the last window of a session no text follows.
    is_over = state.status != "open" and window == state.window
    return is_over or not found.may_be_written_again
