"""The awaited members, as the terminal shows them; Enter continues without them."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import pty
import subprocess
import termios
import time
from pathlib import Path
from typing import Any

import pytest

from bench.gguf_model import gguf_model
from council.command.awaited import Awaited
from council.command.lanes import Lanes
from producers.member.delivery import Delivery
from runtime.log import log_to_stderr
from runtime.presence import RedisPresence
from schemas.entries import Alive, AnyEntry, Cancel, Claim, Loading, Token, decode_entry
from schemas.frames import Frame
from tests.council.command.test_lanes import frame_of, member
from tests.support.council_command import COUNCIL, council, environment
from tests.support.llama import needs_llama
from tests.support.redis_servers import RedisServer
from tests.support.role_processes import Roles
from tests.support.scripted_sessions import ScriptedProducer
from tests.support.sessions import check_each_token_in_one_frame, opening_of, token_stream, until_ended
from tests.support.waiting import until
from transport.redis.connection import AsyncPipe
from transport.sessions import cancel_session, find_session, list_sessions, open_session
from transport.tokens import write_entry

HELD, LOADING = member("held", "one"), member("loading", "other", awaited=True)


def awaited_after(*frames: Frame) -> Awaited:
    awaited = Awaited()
    for frame in frames:
        awaited.add(frame)
    return awaited


def waiting(windows: int, first: int = 0) -> list[Frame]:
    return [frame_of(HELD, LOADING, window=first + index) for index in range(windows)]


def test_a_wait_is_shown_once_it_has_taken_half_a_second() -> None:
    """The claims of a session arrive almost together."""
    assert (awaited_after(*waiting(30)).members, awaited_after(*waiting(30)).sentence) == ((), "")
    found = awaited_after(*waiting(31))
    assert (found.members, found.sentence, found.seconds) == ((1,), "waiting for other, which loads", 0)
    assert awaited_after(*waiting(121)).seconds == 2


def test_a_wait_that_is_over_is_not_shown_and_the_next_counts_from_its_own_beginning() -> None:
    over = frame_of(HELD, member("waiting", "other"), window=40)
    assert awaited_after(*waiting(40), over).sentence == ""
    assert awaited_after(*waiting(40), over, *waiting(20, first=41)).sentence == ""
    assert awaited_after(*waiting(40), over, *waiting(61, first=41)).seconds == 1


def test_if_all_members_are_awaited_the_user_cannot_continue_without_them() -> None:
    both = [frame_of(LOADING, LOADING, window=window) for window in range(40)]
    assert (awaited_after(*both).members, awaited_after(*both).can_go_on) == ((0, 1), False)
    assert awaited_after(*waiting(40)).can_go_on
    last = [frame_of(LOADING, member("dropped", "gone"), window=window) for window in range(40)]
    assert not awaited_after(*last).can_go_on


def test_each_awaited_member_is_named_with_its_state() -> None:
    queueing = member("waiting", "third", awaited=True)
    found = awaited_after(*[frame_of(HELD, LOADING, queueing, window=window) for window in range(40)])
    assert found.members == (1, 2)
    assert found.sentence == "waiting for other, which loads; and for third, which waits for its turn"


@pytest.mark.parametrize(("hint", "end"), [("Enter continues without", " · Enter continues without"), ("", "")])
def test_the_line_under_the_head_has_the_wait_the_seconds_and_the_key(hint: str, end: str) -> None:
    awaited = awaited_after(*waiting(100))
    lanes = Lanes(awaited, hint)
    for frame in waiting(100):
        lanes.add(frame)
    (line,) = lanes._between(waiting(1)[0], 100)
    assert line.plain == f"waiting for other, which loads, 1 s{end}"


class Loader(ScriptedProducer):
    """A producer of member 1 that loads until the test ends it."""

    def claim_and_load(self, session: str) -> None:
        self._session = session
        self._claim = self._write(Claim(1, time.time_ns())).decode()
        self.load()

    def load(self) -> None:
        self._write(Loading(1, self._claim, time.time_ns()))


async def entries(pipe: AsyncPipe, session: str) -> list[AnyEntry]:
    return [decode_entry(raw) for _, raw in await token_stream(pipe, session)]


async def newest(pipe: AsyncPipe) -> str:
    async def opened() -> str | None:
        found = await list_sessions(pipe)
        return found[0].session if found else None

    return await until(opened, "a session is opened")


async def test_enter_continues_without_the_member_that_loads(redis: RedisServer, roles: Roles, pipe: AsyncPipe) -> None:
    """In a terminal, which does not echo the key, and is unchanged afterwards."""
    roles.ready("aggregator")
    roles.ready("producers", "ngram:char-6", "--tokens-per-s", "200")
    loader = Loader(redis, "test:large")
    loader.offer()
    leader, follower = pty.openpty()
    words = ["ask", "What is a list?", "--models", "ngram:char-6,test:large", "--max-tokens", "20"]
    process = subprocess.Popen(
        [*COUNCIL, *words], stdin=follower, stdout=follower, stderr=follower, env=environment(redis.url, TERM="xterm"),
        start_new_session=True,
        # The terminal that it is in the foreground of, as a shell makes it.
        preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
    )  # fmt: skip
    os.close(follower)
    os.set_blocking(leader, False)
    seen = bytearray()

    async def is_awaited() -> bool:
        with_loader = await find_session(pipe, session)
        if with_loader.status == "open":
            loader.load()
        with contextlib.suppress(BlockingIOError):
            seen.extend(os.read(leader, 65_536))
        return b"which loads" in seen and b"Enter continues without" in seen

    try:
        session = await newest(pipe)
        loader.claim_and_load(session)
        await until(is_awaited, "the terminal shows the awaited member")
        os.write(leader, b"\n")
        await until_ended(pipe, session)
        cancels = [entry for entry in await entries(pipe, session) if isinstance(entry, Cancel)]
        assert [cancel.members for cancel in cancels] == [(1,)]

        async def has_ended() -> bool:
            is_over = process.poll() is not None  # first: what it writes at its end is read too
            # One read returns a part of what the terminal holds: until EAGAIN, or EIO after the command's end.
            with contextlib.suppress(OSError):
                while part := os.read(leader, 65_536):
                    seen.extend(part)
            return is_over

        await until(has_ended, "the command ends")
        assert process.returncode == 0, bytes(seen)
        assert b"test:large: dropped (cancelled)" in seen
    finally:
        process.kill()
        process.wait()
        os.close(leader)


@needs_llama
async def test_a_model_that_pauses_is_not_asked_before_a_cold_one_is_loaded(
    roles: Roles, pipe: AsyncPipe, tmp_path: Path
) -> None:
    """Not even in the moment between the claim of the cold one and its first sign: the claim itself says it waits.

    cold     claim (waits)   loading   loading   alive     token ...
    n-gram   claim                                    token ...
    """
    roles.ready("aggregator")
    roles.ready("producers", "cold", "--path", str(gguf_model(tmp_path)))
    roles.ready("producers", "ngram:char-6", "--tokens-per-s", "100")
    opening = opening_of("cold", "ngram:char-6", max_tokens=10)
    await open_session(pipe, opening)
    await until_ended(pipe, opening.session)
    frames = await check_each_token_in_one_frame(pipe, opening.session)
    written = await entries(pipe, opening.session)
    claims = {entry.member: entry.waits for entry in written if isinstance(entry, Claim)}
    assert claims == {0: True, 1: False}
    loaded = max(place for place, entry in enumerate(written) if isinstance(entry, Loading))
    first = next(place for place, entry in enumerate(written) if isinstance(entry, Token))
    ready = next(place for place, entry in enumerate(written) if isinstance(entry, Alive) and entry.member == 0)
    assert loaded < ready < first
    assert frames[0].members[0].awaited
    assert {member.state for member in frames[-1].members} == {"finished"}


async def test_a_sign_of_life_that_changes_during_a_round_trip_is_written_at_once(
    redis: RedisServer, pipe: AsyncPipe
) -> None:
    """Otherwise it would be written half a second later with the next sign of life, and delay each answer."""
    opening = opening_of("test:large")
    await open_session(pipe, opening)
    claim = (await pipe.one(*write_entry(opening.session, Claim(0, time.time_ns(), False)))).decode()
    own = AsyncPipe(redis.url)
    delivery = Delivery(own, opening.session, 0, claim, RedisPresence(log_to_stderr("producer")))
    run = own.run

    async def run_and_show(commands: Any, **options: Any) -> Any:
        replies = await run(commands, **options)
        delivery.show(Loading)
        return replies

    own.run = run_and_show  # type: ignore[method-assign]
    await delivery.flush()
    await delivery.flush()
    await own.close()
    signs = [type(entry) for entry in await entries(pipe, opening.session) if isinstance(entry, Alive | Loading)]
    assert signs == [Alive, Loading]


async def test_without_a_terminal_the_awaited_members_are_written_once_to_standard_error(
    redis: RedisServer, roles: Roles, pipe: AsyncPipe
) -> None:
    roles.ready("aggregator")
    roles.ready("producers", "ngram:char-6", "--tokens-per-s", "200")
    loader = Loader(redis, "test:large")
    loader.offer()
    words = ["ask", "What?", "--models", "ngram:char-6,test:large", "--max-tokens", "5", "--json"]
    asking = asyncio.create_task(asyncio.to_thread(council, *words, url=redis.url))
    session = await newest(pipe)
    loader.claim_and_load(session)

    async def waited_long() -> bool:
        loader.load()
        return (await find_session(pipe, session)).window > 90

    await until(waited_long, "it is awaited")
    await cancel_session(pipe, session, members=(1,))
    outcome = await asking
    assert outcome.code == 0
    assert outcome.said.count("council: Waiting for test:large, which loads.") == 1
    begun = [frame for frame in outcome.lines[:-1] if any(one["text"] for one in frame["members"])]
    assert begun
    assert begun[0]["window_index"] > 90
