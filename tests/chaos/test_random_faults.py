"""Faults at random; after each series the law, the tokens and the events of every session are checked.

One short series; with COUNCIL_CHAOS=long one after the other for CHAOS_MINUTES. CHAOS_SEED chooses the first one.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import AsyncIterator

import pytest

from aggregator.core.consensus import LEFT_BEHIND
from schemas.sessions import Opening
from tests.chaos.events import check_events, check_finished_with_events
from tests.chaos.proxied_roles import AGGREGATOR, DECIPHER, ProxiedRoles, long_opening, ngram, proxied_roles_on
from tests.chaos.random_faults import RandomFaults
from tests.support.redis_servers import DurableRedis, redis_binaries
from tests.support.sessions import check_each_token_in_one_frame, until_ended
from transport.redis.connection import AsyncPipe
from transport.sessions import open_session

_COUNCIL = (
    AGGREGATOR, AGGREGATOR, AGGREGATOR, DECIPHER, DECIPHER,
    ngram("char-6", 50), ngram("char-6", 50), ngram("word-3", 30),
)  # fmt: skip
_MODELS = ("char-6", "word-3")
_OPEN_AT_ONCE = 3
_SHORT_FAULTS = 3
_LONG_FAULTS = 25
_LONG_MINUTES = 10.0
# The reasons of members whose producer was killed, or was away for longer than the session waits.
_REASONS = {"producer died after it began", "producer gone", "nobody serves it", LEFT_BEHIND}


@pytest.mark.parametrize("name", redis_binaries())
async def test_the_law_holds_after_random_faults(name: str) -> None:
    """Series after series, each with a seed of its own, which is printed: CHAOS_SEED=n repeats it."""
    # Other faults on each server.
    first = 1 + [*redis_binaries()].index(name)
    is_long = os.environ.get("COUNCIL_CHAOS") == "long"
    minutes = float(os.environ.get("CHAOS_MINUTES") or _LONG_MINUTES) / len(redis_binaries()) if is_long else 0.0
    seed = int(os.environ.get("CHAOS_SEED") or (time.time_ns() // 1_000_000 % 1_000_000 if is_long else first))
    over_at = time.monotonic() + 60 * minutes
    while True:
        server = DurableRedis(redis_binaries()[name])
        print(f"\nCHAOS_SEED={seed} on {server.binary}", flush=True)
        try:
            await _strike_and_check(server, seed, _LONG_FAULTS if is_long else _SHORT_FAULTS)
        finally:
            server.close()
        seed += 1
        if time.monotonic() >= over_at:
            return


async def _strike_and_check(redis: DurableRedis, seed: int, count: int) -> None:
    with proxied_roles_on(redis, *_COUNCIL) as roles:
        faults, sessions = RandomFaults(roles, seed), list[str]()
        for _ in range(count):
            while len(roles.observer.open_sessions()) < _OPEN_AT_ONCE:
                sessions.append(await _open(roles, _random_opening(faults)))
            faults.first_byte = redis.append_only_file.stat().st_size
            await faults.strike()
        undisturbed = await _open(roles, long_opening(*_MODELS, max_tokens=30))
        async with _pipe_to(redis) as pipe:
            for session in sessions:
                await until_ended(pipe, session)
                frames = await check_each_token_in_one_frame(pipe, session)
                assert {m.reason for m in frames[-1].members if m.state == "dropped"} <= _REASONS
                await check_events(pipe, session, frames)
            await check_finished_with_events(pipe, undisturbed)
        roles.check()
        print(f"  {len(sessions)} sessions; the longest takeovers: {_longest(faults.takeovers_s)} s", flush=True)


def _random_opening(faults: RandomFaults) -> Opening:
    random = faults.random
    members = random.sample(_MODELS, random.randint(1, len(_MODELS)))
    return long_opening(*members, max_tokens=random.randint(60, 200), sync=random.choice(["step", "free", "consensus"]))


async def _open(roles: ProxiedRoles, opening: Opening) -> str:
    async with _pipe_to(roles.redis) as pipe:
        await open_session(pipe, opening)
    roles.observer.follow(opening.session)
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
