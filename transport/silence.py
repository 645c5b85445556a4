"""Why no frame of a session arrives."""

from __future__ import annotations

from schemas.errors import CouncilError, NoAggregator
from transport.redis.connection import AsyncPipe
from transport.sessions import find_session

# Three hundred frames are missing.
NO_AGGREGATOR_S = 5.0
# So long after the end of a session without a final frame, no final frame follows.
_END_S = 1.0


async def raise_reason(pipe: AsyncPipe, session: str, silent_s: float) -> None:
    """Raises the reason why no frame has arrived for `silent_s`, if there is one: CouncilError with that of a session
    that ended without a final frame; NoAggregator after five seconds. Raises SessionGone, RedisAway, RedisRefuses."""
    state = await find_session(pipe, session)
    if state.status != "open" and state.reason and silent_s > _END_S:
        raise CouncilError(state.reason)
    # A replay may be paused.
    if silent_s > NO_AGGREGATOR_S and state.clock_ms is None:
        raise NoAggregator(
            "No aggregator closes this session's windows: start one with `council up` or `python -m aggregator`."
        )
