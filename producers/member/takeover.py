"""A member whose text another producer has begun: does that producer still write it?"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator

from schemas.entries import AnyEntry, Beat, Cancel, Claim, Steered, Token, decode_entry
from schemas.errors import Malformed
from schemas.rules.claims import ClaimLedger
from schemas.sessions import Opening
from transport.redis.connection import AsyncPipe, accepted
from transport.tokens import MOST_ENTRIES, entries_read, read_entries

# A living producer writes at least every half second; this leaves it a second try. The stream is read four times in it.
_SIGNS_OF_LIFE_S = 1.2
_LISTEN_S = 0.3


async def claim_that_began(pipe: AsyncPipe, session: str, opened: str, member: int, claim: str) -> str | None:
    """The claim whose text of this member was accepted between the entries `opened` and `claim`; None where there is
    none. Raises RedisAway, RedisRefuses."""
    ledger = ClaimLedger()
    async for entry_id, entry in _entries(pipe, session, opened, claim):
        if not isinstance(entry, Claim | Token | Steered) or entry.member != member:
            continue
        if isinstance(entry, Claim):
            ledger.add_claim(entry_id)
        elif isinstance(entry, Steered):
            ledger.steer(entry.branch)
        else:
            ledger.judge_token(entry.claim, entry.seq, entry.branch)
            if ledger.begun:
                return ledger.claim
    return None


async def still_writes(pipe: AsyncPipe, session: str, winner: str, claim: str) -> bool:
    """True where the winning claim's producer writes after the entry `claim`: after a stall of Redis every lease looks
    abandoned, and none is. Time in which Redis stalls does not count: that producer could not write either. Raises
    RedisAway, RedisRefuses."""
    after, silent_s = claim, 0.0
    while silent_s < _SIGNS_OF_LIFE_S:
        await asyncio.sleep(_LISTEN_S)
        asked_at = time.monotonic()
        async for entry_id, entry in _entries(pipe, session, after, "+"):
            after = entry_id
            if not isinstance(entry, Opening | Claim | Beat | Cancel | Steered) and entry.claim == winner:
                return True
        has_stalled = time.monotonic() - asked_at > _LISTEN_S
        silent_s = 0.0 if has_stalled else silent_s + _LISTEN_S
    return False


async def _entries(pipe: AsyncPipe, session: str, after: str, last: str) -> AsyncIterator[tuple[str, AnyEntry]]:
    """The entries in (after, last] that decode, page by page."""
    while True:
        (reply,) = await pipe.run([read_entries(session, after, last)])
        page = entries_read(accepted(reply))
        for entry_id, raw in page:
            with contextlib.suppress(Malformed):
                yield entry_id, decode_entry(raw)
        if len(page) < MOST_ENTRIES:
            return
        after = page[-1][0]
