"""One connection, several callers: a break that one of them met concerns them all."""

from __future__ import annotations

import contextlib

from producers.backend import Piece
from producers.member.delivery import Delivery
from runtime.log import Log
from runtime.presence import RedisPresence
from schemas.entries import Claim, Token, decode_entry
from schemas.errors import RedisAway
from tests.support.roles import DurableRedis
from tests.support.sessions import opening_of, token_stream
from transport.redis.connection import AsyncPipe
from transport.sessions import open_session
from transport.tokens import write_entry


async def test_a_producer_writes_again_what_redis_lost_though_another_caller_met_the_break(
    durable: DurableRedis,
) -> None:
    pipe = AsyncPipe(durable.url)
    opening = opening_of("ngram:word-3")
    await open_session(pipe, opening)
    claim = (await pipe.one(*write_entry(opening.session, Claim(0, 1)))).decode()
    delivery = Delivery(pipe, opening.session, 0, claim, RedisPresence(Log(50)))
    size = durable.log.stat().st_size
    delivery.add(tuple(Piece(f" word-{number}") for number in range(5)))
    await delivery.flush()
    durable.roll_back(size)
    with contextlib.suppress(RedisAway):
        await pipe.one("PING")
    delivery.add((Piece(" last"),))
    for _ in range(3):
        await delivery.flush()
    entries = [decode_entry(raw) for _, raw in await token_stream(pipe, opening.session)]
    seqs = [entry.seq for entry in entries if isinstance(entry, Token)]
    # The one that was written before the break was noticed is there twice, which the core counts and ignores.
    assert sorted(set(seqs)) == list(range(6))
    assert seqs[-6:] == list(range(6))
    await pipe.close()
