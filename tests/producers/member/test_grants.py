"""Grants: a backend that pauses generates as far as it is allowed, and not one token further. On a real Redis, with the
state that an aggregator's commits would write."""

from __future__ import annotations

import asyncio
import contextlib
import functools
from collections.abc import AsyncIterator, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec
import pytest

from bench.gguf_model import gguf_model
from producers.backend import Backend, Chunk, Ending, ModelLoading, ModelWaiting, Piece, Request
from producers.llama.backend import LlamaBackend
from producers.llama.stretch import STRETCH_TOKENS
from producers.member import serving
from producers.member.grants import GrantGate
from producers.member.served import ServedModel
from producers.member.serving import Service, SessionServing
from producers.ngram.backend import NgramBackend
from producers.ngram.model import PromptedModel
from producers.source import ModelSource, gguf_source
from runtime.log import log_to_stderr
from runtime.presence import RedisPresence
from schemas import keys
from schemas.control import NOT_STARTED, Progress, encode_progress
from schemas.entries import Alive, Claim, Finished, Token, decode_entry
from schemas.models import ModelFacts
from schemas.rules.lanes import lane_end
from schemas.rules.tiers import TIERS
from schemas.sessions import Opening
from tests.support.llama import needs_llama
from tests.support.session_folder import session_folder
from tests.support.sessions import opening_of, token_stream
from tests.support.waiting import until
from transport.redis.connection import AsyncPipe
from transport.register import ProcessRegistration
from transport.sessions import cancel_session, open_session

MODEL = "ngram:bpe-2"
AS_FAST_AS_IT_CAN = float("inf")
# State reads of a held producer: enough to see whether it goes on.
SOME_READS = 12


class Served:
    """One session's member, served in this process, and what its stream contains."""

    def __init__(self, pipe: AsyncPipe, opening: Opening, task: asyncio.Task[None]) -> None:
        self.pipe, self.opening, self.task = pipe, opening, task

    async def entries(self, kind: type[Any]) -> list[Any]:
        stream = await token_stream(self.pipe, self.opening.session)
        return [entry for _, raw in stream if isinstance(entry := decode_entry(raw), kind)]

    async def claim(self) -> str:
        return (await self.claims(1))[0]

    async def claims(self, count: int) -> list[str]:
        """The ids of all claims, once there are so many."""

        async def are_written() -> list[str]:
            stream = await token_stream(self.pipe, self.opening.session)
            found = [entry_id for entry_id, raw in stream if isinstance(decode_entry(raw), Claim)]
            return found if len(found) >= count else []

        return await until(are_written, f"the member has {count} claims")

    async def bounds(self) -> list[tuple[int, int]]:
        """[start, end) of each token of the answer, in bytes; a token that was written twice counts once."""
        ends, tokens = [0], {token.seq: token for token in await self.entries(Token)}
        for token in tokens.values():
            if token.lane == "answer":
                ends.append(lane_end(token, ends[-1]))
        return list(pairwise(ends))

    async def commit(self, window: int, grant: int | None) -> None:
        """Writes what a window's commit leaves in the state for the producers, once the member is claimed."""
        progress = encode_progress((Progress(await self.claim(), 0, False, grant),))
        await self.pipe.one("HSET", keys.state(self.opening.session), "window", window, "progress", progress)

    async def start(self) -> None:
        """Commits the first window that lets it start."""
        await self.commit(0, 0)

    async def until_held(self, grant: int) -> None:
        """Returns when everything that `grant` allows is written, and the state was read several times since."""

        async def is_written() -> bool:
            bounds = await self.bounds()
            return bool(bounds) and bounds[-1][1] > grant

        await until(is_written, f"all is written whose start is within {grant}")
        before = await state_reads(self.pipe)

        async def was_read() -> bool:
            return await state_reads(self.pipe) >= before + SOME_READS

        await until(was_read, "the producer has read the state, and read it again")
        assert (await self.bounds())[-1][0] <= grant


async def calls(pipe: AsyncPipe, command: str) -> int:
    """How often this Redis has executed the command."""
    lines = (await pipe.one("INFO", "commandstats")).decode().splitlines()
    found = [line for line in lines if line.startswith(f"cmdstat_{command}:")]
    return int(found[0].partition("calls=")[2].partition(",")[0]) if found else 0


async def state_reads(pipe: AsyncPipe) -> int:
    """How often a session's state was read from this Redis."""
    return await calls(pipe, "hmget")


async def looks_at_a_time(pipe: AsyncPipe) -> float:
    """State reads of the only producer for each read of the control stream, of which there are ten a second."""
    states, controls = await state_reads(pipe), await calls(pipe, "xrange")

    async def was_read() -> bool:
        return await calls(pipe, "xrange") >= controls + SOME_READS

    await until(was_read, "it looks at the control stream, and again")
    return (await state_reads(pipe) - states) / (await calls(pipe, "xrange") - controls)


@contextlib.asynccontextmanager
async def served(pipe: AsyncPipe, backend: Backend, opening: Opening, *, opens: bool = True) -> AsyncIterator[Served]:
    """A member of the opened session, served until it ends; `opens`: the session is opened before."""
    log = log_to_stderr("producer")
    model = opening.members[0].model
    source = ModelSource("ngram", model)
    await backend.start()
    its_pipe = AsyncPipe(pipe.url)
    ready: asyncio.Future[ServedModel] = asyncio.get_running_loop().create_future()
    registration = ProcessRegistration("producer", model=model)
    served_model = ServedModel(its_pipe, model, source, backend, registration, TIERS["high"], log)
    ready.set_result(served_model)
    keeping = [asyncio.create_task(served_model.keeper.run(is_warmed=False))] if served_model.keeper else []
    if opens:
        await open_session(pipe, opening)
    service = Service(its_pipe, model, ready, backend.pauses, "p", RedisPresence(log), log)
    work = SessionServing(service, opening.session)
    task = asyncio.create_task(work.run())
    try:
        yield Served(pipe, opening, task)
    finally:
        for one in (task, *keeping):
            one.cancel()
        await asyncio.gather(task, *keeping, return_exceptions=True)
        await backend.close()
        await its_pipe.close()


def opened(model: str = MODEL, max_tokens: int = 400, **changed: Any) -> Opening:
    return msgspec.structs.replace(opening_of(model, max_tokens=max_tokens), **changed)


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Every token that an n-gram model of this process has drawn, taken or not. It begins again where it would end,
    because the length of its answer depends on this Python's help texts."""
    tokens: list[str] = []
    answer = PromptedModel.answer

    def counted(*arguments: Any) -> Iterator[Any]:
        while True:
            for token in answer(*arguments):
                if token.text:
                    tokens.append(token.text)
                    yield token

    monkeypatch.setattr(PromptedModel, "answer", counted)
    return tokens


@pytest.fixture
def shorter_lapse(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serving, "GrantGate", functools.partial(GrantGate, 0.3))


async def test_no_token_is_drawn_before_the_start_and_each_grant_is_used_and_not_exceeded(
    pipe: AsyncPipe, drawn: list[str]
) -> None:
    """
    grant   (none)   -1   0   1       9        80
    drawn   0        0    1   1..     all that start in [0, 9], and no other one    ...
    """
    async with served(pipe, NgramBackend(MODEL, AS_FAST_AS_IT_CAN), opened()) as member:
        await member.commit(0, NOT_STARTED)
        looked = await state_reads(pipe)

        async def has_looked_again() -> bool:
            return await state_reads(pipe) >= looked + SOME_READS

        await until(has_looked_again, "it looks for its start again")
        assert drawn == []
        for window, grant in enumerate((0, 1, 9, 9, 80, 300), 1):
            await member.commit(window, grant)
            await member.until_held(grant)
            starts, ends = zip(*await member.bounds(), strict=True)
            assert len(drawn) == len(starts)
            assert starts[-1] <= grant < ends[-1]
        await member.commit(9, None)
        await until(lambda: member.entries(Finished), "without a grant it writes as it likes")
        (finished,) = await member.entries(Finished)
        assert finished.tokens == len(drawn)


@needs_llama
async def test_llama_computes_at_most_a_stretch_ahead_while_it_is_held(pipe: AsyncPipe, llama_file: Path) -> None:
    """By llama.cpp's own count of decodes: one for each written token, and the rest of the stretch."""
    name, source = gguf_source(llama_file)
    backend = LlamaBackend(name, source)
    async with served(pipe, backend, opened(name, max_tokens=60)) as member:
        await member.start()
        for window, grant in enumerate((0, 5, 30)):
            await until(lambda: member.entries(Token), "it has begun")
            await member.commit(window, grant)
            await member.until_held(grant)
            assert backend.child
            metrics = (await backend.child.ask("/metrics")).decode().splitlines()
            decodes = next(line for line in metrics if line.startswith("llamacpp:n_decode_total "))
            ahead = int(decodes.split()[1]) - len(await member.entries(Token))
            assert 0 <= ahead < STRETCH_TOKENS
        await member.commit(9, 10_000)
        await until(lambda: member.entries(Finished), "it goes on to its end")


@pytest.fixture
def llama_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return gguf_model(session_folder(tmp_path_factory))


class Thinker:
    """A backend that thinks for five tokens, answers with eight of three bytes each, and then waits for ever."""

    residence, slots, facts = None, 1, ModelFacts("thinker")

    def __init__(self, *, pauses: bool) -> None:
        self.pauses = pauses

    async def start(self) -> None: ...
    async def close(self) -> None: ...

    async def generate(self, request: Request) -> AsyncIterator[Chunk | ModelLoading | ModelWaiting | Ending]:
        for _ in range(5):
            yield Chunk((Piece(" hm", "thinking"),))
        for _ in range(8):
            yield Chunk((Piece("yes"),))
        await asyncio.Event().wait()
        yield Ending("stop")


async def test_thinking_needs_only_the_start(pipe: AsyncPipe) -> None:
    async with served(pipe, Thinker(pauses=True), opened("thinker")) as member:
        await member.start()
        await member.until_held(0)
        assert [token.lane for token in await member.entries(Token)] == ["thinking"] * 5 + ["answer"]


async def test_a_backend_that_does_not_pause_needs_no_grant_and_looks_for_none(pipe: AsyncPipe) -> None:
    async with served(pipe, Thinker(pauses=False), opened("thinker")) as member:

        async def has_answered() -> bool:
            return len(await member.entries(Token)) == 13

        await until(has_answered, "it has written all that its model has produced")
        assert await looks_at_a_time(pipe) < 0.5


async def test_a_grant_of_another_claim_does_not_count(pipe: AsyncPipe, drawn: list[str]) -> None:
    """A producer that died before it began had a grant; the one that takes its session over begins without one."""
    async with served(pipe, NgramBackend(MODEL, AS_FAST_AS_IT_CAN), opened()) as member:
        await member.start()
        await member.until_held(0)
        other = encode_progress((Progress("1-0", 0, False, 500),))
        await pipe.one("HSET", keys.state(member.opening.session), "window", 3, "progress", other)
        await member.until_held(0)
        assert len(drawn) == 1


async def test_a_free_session_has_no_grants(pipe: AsyncPipe, drawn: list[str]) -> None:
    """Without an aggregator, and so without progress, everything is written."""
    async with served(pipe, NgramBackend(MODEL, AS_FAST_AS_IT_CAN), opened(max_tokens=50, sync="free")) as member:
        await until(lambda: member.entries(Finished), "it is written to its end")
        assert len(drawn) == len(await member.entries(Token)) > 1


async def test_a_grant_lapses_with_its_aggregator_and_counts_again_when_that_is_back(
    pipe: AsyncPipe, drawn: list[str], shorter_lapse: None
) -> None:
    """
    window   5 ----- does not move ----- 6
    drawn    1        one by one         none
    """
    async with served(pipe, NgramBackend(MODEL, 100.0), opened(max_tokens=8_000)) as member:
        await until(lambda: member.entries(Token), "it has begun")
        await member.commit(5, 0)

        async def has_lapsed() -> bool:
            return len(drawn) >= 5

        await until(has_lapsed, "it goes on without a grant")
        window = 6

        async def is_held() -> bool:
            """While the window moves, the grant of 0 counts."""
            nonlocal window
            window += 1
            await member.commit(window, 0)
            before = len(drawn), await state_reads(pipe)
            await until(functools.partial(was_read, before[1] + 3), "the state was read")
            return len(drawn) == before[0]

        async def was_read(times: int) -> bool:
            return await state_reads(pipe) >= times

        await until(is_held, "it stops again")


async def test_a_held_member_writes_signs_of_life_and_looks_for_its_grant(pipe: AsyncPipe, drawn: list[str]) -> None:
    """It looks for its grant six times for each time that it looks for a stop."""
    async with served(pipe, NgramBackend(MODEL, AS_FAST_AS_IT_CAN), opened()) as member:
        await member.start()
        await member.until_held(0)

        async def signs() -> bool:
            return len(await member.entries(Alive)) >= 2

        await until(signs, "it gives signs of life")
        assert await looks_at_a_time(pipe) > 2.0
        assert len(drawn) == 1


@pytest.mark.parametrize("way", ["cancel", "ended", "dropped", "gone"])
async def test_a_held_member_that_is_no_longer_needed_leaves_nothing_behind(pipe: AsyncPipe, way: str) -> None:
    """Cancelled by a user, ended with its session, dropped by the aggregator, or its session expired: no task is left,
    and its slot is free."""
    backend = NgramBackend(MODEL, AS_FAST_AS_IT_CAN)
    backend.slots = 1
    before = asyncio.all_tasks()
    async with served(pipe, backend, opened()) as member:
        await member.start()
        await member.until_held(0)
        state = keys.state(member.opening.session)
        if way == "cancel":
            await cancel_session(pipe, member.opening.session)
        elif way == "ended":
            await pipe.one("HSET", state, "status", "ended")
        elif way == "dropped":
            dropped = encode_progress((Progress(await member.claim(), 1, True),))
            await pipe.one("HSET", state, "progress", dropped)
        else:
            await pipe.one("DEL", *keys.of_session(member.opening.session))
        async with asyncio.timeout(10):
            await member.task
        assert asyncio.all_tasks() == before


async def test_a_break_of_the_connection_does_not_release_a_held_member(pipe: AsyncPipe, drawn: list[str]) -> None:
    """Redis closes the connection of a held member: it is held again, and continues with its grant."""
    async with served(pipe, NgramBackend(MODEL, AS_FAST_AS_IT_CAN), opened()) as member:
        await member.start()
        await member.until_held(0)
        await pipe.one("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
        await member.until_held(0)
        assert len(drawn) == 1
        await member.commit(1, 40)
        await member.until_held(40)
        assert len(drawn) == len(await member.bounds()) > 1


async def test_a_member_that_has_ended_looks_for_no_grant(pipe: AsyncPipe) -> None:
    """Its end is past its grant, and no token follows: it reads the state once a second, as every member does."""
    async with served(pipe, NgramBackend(MODEL, AS_FAST_AS_IT_CAN), opened(max_tokens=2)) as member:
        await member.start()
        await member.until_held(0)
        (first,) = await member.bounds()
        await member.commit(1, first[1])
        await until(lambda: member.entries(Finished), "two tokens were all")
        assert (await member.bounds())[-1][1] > first[1]
        assert await looks_at_a_time(pipe) < 0.5
