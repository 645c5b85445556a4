"""Faults at random: after each storm every session's law, its tokens and its events are checked.

One short storm; with COUNCIL_CHAOS=long storm after storm for CHAOS_MINUTES. CHAOS_SEED chooses the first one.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import AsyncIterator

from schemas.sessions import Opening
from tests.chaos.events import check_events
from tests.chaos.seats import AGGREGATOR, DECIPHER, Seats, long_opening, ngram, seats_on
from tests.chaos.storm import Storm
from tests.support.redis_servers import DurableRedis, redis_binaries
from tests.support.sessions import check_all_finished, check_all_is_told_once, until_ended
from transport.redis.connection import AsyncPipe
from transport.sessions import open_session

_COUNCIL = (
    AGGREGATOR, AGGREGATOR, AGGREGATOR, DECIPHER, DECIPHER,
    ngram("char-6", 50), ngram("char-6", 50), ngram("word-3", 30),
)  # fmt: skip
_MODELS = ("char-6", "word-3")
_OPEN_AT_ONCE = 3
_SHORT_FAULTS = 5
_LONG_FAULTS = 25
_LONG_MINUTES = 10.0
# What a member may say that lost its producer, or whose producer was away for longer than the session is patient.
_REASONS = {"producer died after it began", "producer gone", "nobody serves it"}


async def test_whatever_is_struck_the_law_holds() -> None:
    """Storm after storm, each with a seed of its own, which is printed: CHAOS_SEED=n repeats it."""
    is_long = os.environ.get("COUNCIL_CHAOS") == "long"
    minutes = float(os.environ.get("CHAOS_MINUTES") or _LONG_MINUTES) if is_long else 0.0
    seed = int(os.environ.get("CHAOS_SEED") or (time.time_ns() // 1_000_000 % 1_000_000 if is_long else 1))
    over_at = time.monotonic() + 60 * minutes
    servers = list(redis_binaries().values())
    while True:
        server = DurableRedis(servers[seed % len(servers)])
        print(f"\nCHAOS_SEED={seed} on {server.binary}", flush=True)
        try:
            await _weather(server, seed, _LONG_FAULTS if is_long else _SHORT_FAULTS)
        finally:
            server.close()
        seed += 1
        if time.monotonic() >= over_at:
            return


async def _weather(redis: DurableRedis, seed: int, faults: int) -> None:
    with seats_on(redis, *_COUNCIL) as seats:
        storm, sessions = Storm(seats, seed), list[str]()
        for _ in range(faults):
            while len(seats.witness.open_sessions()) < _OPEN_AT_ONCE:
                sessions.append(await _open(seats, _random_opening(storm)))
            storm.first_byte = redis.append_only_file.stat().st_size
            await storm.strike()
        calm = await _open(seats, long_opening(*_MODELS, max_tokens=30))
        async with _pipe_to(redis) as pipe:
            for session in sessions:
                await until_ended(pipe, session)
                frames = await check_all_is_told_once(pipe, session)
                assert {m.reason for m in frames[-1].members if m.state == "dropped"} <= _REASONS
                await check_events(pipe, session, frames)
            await until_ended(pipe, calm)
            await check_events(pipe, calm, await check_all_finished(pipe, calm))
        seats.check()
        print(f"  {len(sessions)} sessions; the longest takeovers: {_longest(storm.takeovers_s)} s", flush=True)


def _random_opening(storm: Storm) -> Opening:
    members = storm.random.sample(_MODELS, storm.random.randint(1, len(_MODELS)))
    return long_opening(*members, max_tokens=storm.random.randint(60, 200), sync=storm.random.choice(["step", "free"]))


async def _open(seats: Seats, opening: Opening) -> str:
    async with _pipe_to(seats.redis) as pipe:
        await open_session(pipe, opening)
    seats.witness.follow(opening.session)
    return opening.session


@contextlib.asynccontextmanager
async def _pipe_to(redis: DurableRedis) -> AsyncIterator[AsyncPipe]:
    pipe = AsyncPipe(redis.url)
    try:
        yield pipe
    finally:
        await pipe.close()


def _longest(takeovers_s: list[float]) -> list[float]:
    return [round(seconds, 2) for seconds in sorted(takeovers_s)[-3:]]
