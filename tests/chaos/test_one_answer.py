"""A council that writes one answer, while its processes, its connections and its Redis fail between a decision and the
steers that follow from it.

commit of a decision ......... the producer reads the state ......... tokens of the new branch
        ^ the owner dies                ^ the reply is lost                  ^ Redis restarts as before the commit
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator

import aiohttp
import msgspec
import pytest

from schemas.entries import Steered, decode_entry
from schemas.frames import Frame
from schemas.keys import state as state_key
from schemas.sessions import Limits, Opening
from tests.chaos.proxied_roles import AGGREGATOR, ProxiedRole, ngram, proxied_roles_on
from tests.support.redis_servers import DurableRedis
from tests.support.sessions import (
    check_each_token_in_one_frame,
    check_one_text,
    opening_of,
    token_stream,
    until_ended,
)
from tests.support.tcp_proxy import Fault, Kind, Words, is_state_read, is_steering, is_token_write
from tests.support.waiting import until, wait_until
from tests.support.web_server import WebServer
from transport.answers import FoundFrame, find_released
from transport.redis.connection import AsyncPipe
from transport.sessions import find_session, open_session

_MODELS = ("word-3", "char-6", "bpe-3")
# Characters are written as fast as the words of the others.
_PRODUCERS = (ngram("word-3", 100), ngram("char-6", 400), ngram("bpe-3", 150))
# A member is not left behind in the seconds of a takeover: the answer then does not depend on time.
_LONGEST_WAIT_MS = 20_000
_TOKENS = 40
# The answer of a session without faults, which is the same in each test.
_undisturbed: list[str] = []


@pytest.fixture
def web(durable: DurableRedis) -> Iterator[WebServer]:
    found = WebServer(durable.url)
    yield found
    found.close()


def _opening(detach_ms: int = _LONGEST_WAIT_MS, max_tokens: int = _TOKENS) -> Opening:
    models = [f"ngram:{model}" for model in _MODELS]
    opening = opening_of(*models, max_tokens=max_tokens, limits=Limits(detach_ms=detach_ms))
    return msgspec.structs.replace(
        opening,
        sync="consensus",
        prefix="There are",
        sampling=msgspec.structs.replace(opening.sampling, temperature=0.0),
    )


async def _undisturbed_answer(pipe: AsyncPipe) -> str:
    if not _undisturbed:
        opening = _opening()
        await open_session(pipe, opening)
        await until_ended(pipe, opening.session)
        _undisturbed.append(check_one_text(await check_each_token_in_one_frame(pipe, opening.session)))
    return _undisturbed[0]


async def _marks(pipe: AsyncPipe, session: str) -> list[tuple[int, int]]:
    """(member, branch) of each steer in the token stream."""
    entries = [decode_entry(raw) for _, raw in await token_stream(pipe, session)]
    return [(entry.member, entry.branch) for entry in entries if isinstance(entry, Steered)]


async def _check_one_answer(pipe: AsyncPipe, web: WebServer, session: str) -> tuple[str, list[Frame]]:
    """Waits for the session's end. Checks its law, that each steer came once, and that the web process has the same
    text. Returns the text and the frames."""
    await until_ended(pipe, session)
    frames = await check_each_token_in_one_frame(pipe, session)
    agreed = check_one_text(frames)
    marks = await _marks(pipe, session)
    counts = Counter(member for member, _ in marks)
    assert sorted(marks) == [(member, branch) for member in sorted(counts) for branch in range(1, counts[member] + 1)]
    async with aiohttp.ClientSession() as client, client.get(f"{web.http}/api/sessions/{session}") as reply:
        shown = await reply.json()
    assert shown["agreed"] == agreed
    texts = ["".join(frame.members[member].text for frame in frames) for member in range(len(_MODELS))]
    assert [member["text"] for member in shown["members"]] == texts
    return agreed, frames


def _of(session: str, matches: Callable[[Words], bool]) -> Callable[[Words], bool]:
    return lambda words: matches(words) and state_key(session).encode() in words


def _every(number: int, matches: Callable[[Words], bool]) -> Callable[[Words], bool]:
    """Every so many of the commands for which `matches` is true."""
    count = 0

    def is_next(words: Words) -> bool:
        nonlocal count
        is_one = matches(words)
        count += is_one
        return is_one and count % number == 0

    return is_next


def _hold(roles: list[ProxiedRole], matches: Callable[[Words], bool], times: int = 1) -> list[Fault]:
    return [role.proxy.strike(Kind.HOLD, matches, times) for role in roles]


def _release(faults: list[Fault], then: Kind | None = None) -> None:
    for fault in faults:
        fault.left = 0
        fault.release(then)


async def test_an_owner_dies_between_a_decision_and_the_steer_and_the_next_one_does_not_steer_again(
    durable: DurableRedis, direct: AsyncPipe, web: WebServer
) -> None:
    """commit of the third decision | SIGKILL | no producer reads the state | takeover | producers read the state."""
    with proxied_roles_on(durable, AGGREGATOR, AGGREGATOR, *_PRODUCERS) as roles:
        calm = await _undisturbed_answer(direct)
        opening = _opening()
        owners = roles.of("aggregator")
        commits = _hold(owners, _every(3, is_steering))
        await open_session(direct, opening)
        (owner,) = wait_until(lambda: [n for n in (0, 1) if commits[n].commands], "the third decision is on its way")
        reads = _hold(roles.of("producers"), is_state_read, 10_000)
        struck_at = int(commits[owner].commands[0][9])
        owners[owner].kill()
        _release(commits, Kind.CUT_AFTER)
        wait_until(lambda: commits[owner].replies, "Redis has the commit")
        marks = await _marks(direct, opening.session)

        async def is_taken_over() -> bool:
            state = await find_session(direct, opening.session)
            return state.epoch == 2 and state.window > struck_at + 5

        await until(is_taken_over, "the other aggregator goes on")
        assert len(marks) >= 3
        assert await _marks(direct, opening.session) == marks
        _release(reads)
        owners[owner].start()
        agreed, _ = await _check_one_answer(direct, web, opening.session)
        assert agreed == calm
        roles.check()


async def test_connections_that_break_around_decisions_change_no_text(
    durable: DurableRedis, direct: AsyncPipe, web: WebServer
) -> None:
    """Commits with steers: lost, their replies lost, and doubled. Of all producers: lost tokens, and lost replies to
    reads of the state."""
    with proxied_roles_on(durable, AGGREGATOR, *_PRODUCERS) as roles:
        calm = await _undisturbed_answer(direct)
        opening = _opening()
        (owner,) = roles.of("aggregator")
        commits = [
            owner.proxy.strike(kind, _of(opening.session, is_steering))
            for kind in (Kind.CUT_BEFORE, Kind.CUT_AFTER, Kind.TWICE)
        ]
        cuts = [
            role.proxy.strike(kind, _every(number, matches), 2)
            for role in roles.of("producers")
            for number, kind, matches in ((11, Kind.CUT_AFTER, is_state_read), (13, Kind.CUT_BEFORE, is_token_write))
        ]
        await open_session(direct, opening)
        agreed, _ = await _check_one_answer(direct, web, opening.session)
        assert agreed == calm
        assert all(fault.commands for fault in [*commits, *cuts])
        roles.check()


async def test_redis_restarts_as_it_was_before_a_decision_that_producers_have_followed(
    durable: DurableRedis, direct: AsyncPipe, web: WebServer
) -> None:
    """Twice: first before a token of the new branch comes, then after some."""
    with proxied_roles_on(durable, AGGREGATOR, *_PRODUCERS) as roles:
        calm = await _undisturbed_answer(direct)
        opening = _opening()
        (owner,) = roles.of("aggregator")
        for lost_windows in (0, 12):
            commits = _hold([owner], _every(2, is_steering))
            if not lost_windows:
                await open_session(direct, opening)
            wait_until(lambda faults=commits: faults[0].commands, "a decision is on its way")  # type: ignore[misc]
            length, decided = durable.append_only_file.stat().st_size, int(commits[0].commands[0][9])
            _release(commits)

            async def is_past(window: int = decided + lost_windows) -> bool:
                state = await find_session(direct, opening.session)
                # It may be the last decision of the answer.
                return state.window >= window or state.status == "ended"

            await until(is_past, f"the decision and {lost_windows} windows after it are committed, or the last window")
            async with aiohttp.ClientSession() as client:
                await client.get(f"{web.http}/api/sessions/{opening.session}")
            durable.roll_back(length)
            await direct.close()
        agreed, _ = await _check_one_answer(direct, web, opening.session)
        assert agreed == calm
        roles.check()


async def test_a_producer_that_stands_still_is_steered_when_it_returns_and_one_that_dies_is_left_out(
    durable: DurableRedis, direct: AsyncPipe, web: WebServer
) -> None:
    """
    word-3    SIGSTOP after its second steer ... others go on without it ... SIGCONT: steered to their text
    char-6                                                          SIGKILL: the others finish without it
    """
    with proxied_roles_on(durable, AGGREGATOR, *_PRODUCERS) as roles:
        opening = _opening(detach_ms=300, max_tokens=120)
        word, char, _ = roles.of("producers")
        await open_session(direct, opening)
        await _until(direct, opening.session, lambda found: found.state.progress[0].branch >= 2)
        word.pause()
        stands = await find_released(direct, opening.session)
        assert stands.frame
        end = stands.frame.members[2].position_bytes + 60
        alone = await _until(direct, opening.session, lambda found: _end(found, 2) >= end)
        word.resume()
        steers = alone.state.progress[0].branch + 1
        await _until(direct, opening.session, lambda found: found.state.progress[0].branch >= steers)
        char.kill()
        agreed, frames = await _check_one_answer(direct, web, opening.session)
        assert [member.state for member in frames[-1].members] == ["finished", "dropped", "finished"]
        assert len(agreed) > end


def _end(found: FoundFrame, member: int) -> int:
    return found.frame.members[member].position_bytes if found.frame else 0


async def _until(pipe: AsyncPipe, session: str, holds: Callable[[FoundFrame], bool]) -> FoundFrame:
    """The open session and its newest frame, once they are so."""

    async def reached() -> FoundFrame | None:
        found = await find_released(pipe, session)
        assert found.state.status == "open"
        return found if found.state.progress and holds(found) else None

    return await until(reached, "the session comes so far")
