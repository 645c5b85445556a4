"""One connection of several callers: after a break that one of them meets, each writes again what Redis lost."""

from __future__ import annotations

import contextlib

from producers.backend import Piece
from producers.member.delivery import Delivery
from runtime.log import Log
from runtime.presence import RedisPresence
from schemas.entries import Claim, Token, decode_entry
from schemas.errors import RedisAway
from tests.support.redis_servers import DurableRedis
from tests.support.sessions import opening_of, token_stream
from transport.redis.connection import AsyncPipe
from transport.sessions import open_session
from transport.tokens import write_entry


async def test_a_producer_writes_again_what_redis_lost_where_another_caller_met_the_break(
    durable: DurableRedis, direct: AsyncPipe
) -> None:
    opening = opening_of("ngram:word-3")
    await open_session(direct, opening)
    claim = (await direct.one(*write_entry(opening.session, Claim(0, 1)))).decode()
    delivery = Delivery(direct, opening.session, 0, claim, RedisPresence(Log(50)))
    size = durable.append_only_file.stat().st_size
    delivery.add(tuple(Piece(f" word-{number}") for number in range(5)))
    await delivery.flush()
    durable.roll_back(size)
    with contextlib.suppress(RedisAway):
        await direct.one("PING")
    delivery.add((Piece(" last"),))
    for _ in range(3):
        await delivery.flush()
    entries = [decode_entry(raw) for _, raw in await token_stream(direct, opening.session)]
    seqs = [entry.seq for entry in entries if isinstance(entry, Token)]
    # The token that was written before the outbox noticed the break is there twice; the core ignores the second one.
    assert sorted(set(seqs)) == list(range(6))
    assert seqs[-6:] == list(range(6))
