"""Orders to the recorder to record a session, in a stream of their own.

page, command --ask_to_keep--> council:keep --wait_for_orders--> recorder --forget_order--> (deleted, once it is kept)
"""

from __future__ import annotations

from schemas import keys
from transport.frames import wait_for_entries
from transport.redis.connection import AsyncPipe, BlockingPipe, accepted, atomically

# An order that is not executed is of no use without its session, which lives a day at most.
_MOST_ORDERS = 1_000


async def ask_to_keep(pipe: AsyncPipe, session: str) -> None:
    """Orders that the session is recorded from its beginning, whether it is open or has ended. Raises RedisAway,
    RedisRefuses."""
    order = ("XADD", keys.KEEP, "MAXLEN", "~", _MOST_ORDERS, "*", keys.SESSION_FIELD, session)
    *_, done = await pipe.run(atomically(order, ("EXPIRE", keys.KEEP, keys.SESSIONS_TTL_S)))
    accepted(accepted(done)[0])


async def wait_for_orders(pipe: BlockingPipe, after: str, block_ms: int) -> list[tuple[str, str]]:
    """The orders after the id `after`, as (entry id, session); waits up to block_ms for the first one. Raises
    RedisAway, RedisRefuses."""
    found = await wait_for_entries(pipe, keys.KEEP, after, block_ms)
    return [(entry_id, keys.session_named(raw)) for entry_id, raw in found]


async def forget_order(pipe: AsyncPipe, entry_id: str) -> None:
    """Deletes an order that is executed, or that cannot be executed. Raises RedisAway, RedisRefuses."""
    await pipe.one("XDEL", keys.KEEP, entry_id)
