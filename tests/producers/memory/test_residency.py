"""Models in and out of memory: one loader at a time, no eviction during an answer, a lower tier without memory."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from typing import Any

import msgspec
import pytest

from schemas.entries import Failed, Loading, Starved, Waiting, decode_entry
from schemas.frames import Frame
from schemas.rules.served import served_models
from schemas.rules.tiers import TIERS, TierPolicy
from schemas.sessions import Member, Opening, Rung
from tests.support.ollama.books import GB, Books, Limits, StoredModel
from tests.support.ollama.server import OllamaServer, ollama_server
from tests.support.role_processes import Roles
from tests.support.sessions import check_the_law, opening_of, token_stream, until_ended
from tests.support.waiting import until
from transport import residency as ledger
from transport.redis.connection import AsyncPipe
from transport.register import list_processes
from transport.sessions import cancel_session, find_session, open_session

KEY = ("http://127.0.0.1:11434", "a:latest")
SMALL, MIDDLE, LARGE = (StoredModel(f"{name}:latest", size * GB) for name, size in (("s", 1), ("m", 3), ("l", 6)))


async def answer(pipe: AsyncPipe, *commands: Any) -> list[Any]:
    return list(await pipe.run(commands))


# --- the ledger -------------------------------------------------------------------------------------------------------


async def test_a_use_and_an_eviction_of_one_model_exclude_each_other(pipe: AsyncPipe) -> None:
    """use, evict: refused | end of use, evict: granted | use: refused | end of eviction, use: granted."""
    other = (KEY[0], "b")
    assert await answer(pipe, ledger.use(KEY, "p s1"), ledger.begin_eviction(KEY)) == [1, 0]
    assert await answer(pipe, ledger.begin_eviction(other)) == [1]
    assert await answer(pipe, ledger.end_use(KEY, "p s1"), ledger.begin_eviction(KEY)) == [1, 1]
    assert await answer(pipe, ledger.use(KEY, "p s2"), ledger.use(other, "p s2")) == [0, 0]
    # The reply contains how often the model was evicted: a process that saw it loaded before looks again.
    assert await answer(pipe, ledger.end_eviction(KEY), ledger.use(KEY, "p s2")) == [1, 2]
    assert ledger.keys_in_use(await pipe.run(ledger.read_uses())) == {KEY}


async def test_a_use_of_a_dead_process_ends_by_itself(pipe: AsyncPipe) -> None:
    await pipe.run([ledger.use(KEY, "p s1")])
    (field,) = [name for name in await pipe.one("HKEYS", "council:residency") if name.startswith(b"use")]
    await pipe.one("HSET", "council:residency", field, 1)
    assert ledger.keys_in_use(await pipe.run(ledger.read_uses())) == frozenset()
    assert await answer(pipe, ledger.begin_eviction(KEY)) == [1]
    assert field not in await pipe.one("HKEYS", "council:residency")


async def until_it_loads(pipe: AsyncPipe, process: str, size_bytes: int = 0) -> None:
    async def holds() -> bool:
        return await pipe.one(*ledger.hold_loader(process, size_bytes)) == 1

    await until(holds, f"{process} may load")


async def test_one_process_loads_at_a_time(pipe: AsyncPipe) -> None:
    await until_it_loads(pipe, "p1")
    assert await answer(pipe, ledger.hold_loader("p2", 0), ledger.hold_loader("p1", 0)) == [0, 1]
    assert 0 < await pipe.one("PTTL", "council:loader") <= ledger.LOADER_MS
    assert await answer(pipe, ledger.give_up_loader("p2"), ledger.hold_loader("p2", 0)) == [0, 0]
    await pipe.run([ledger.give_up_loader("p1")])
    await until_it_loads(pipe, "p2")


async def test_of_several_processes_the_one_with_the_smallest_model_loads_first(pipe: AsyncPipe) -> None:
    """They ask in the order of their names, again and again; the smallest model that is left comes next."""
    sizes = {"p1": 300, "p2": 100, "p3": 200, "p4": 100}
    order: list[str] = []

    async def all_have_loaded() -> bool:
        for process in [process for process in sizes if process not in order]:
            if await pipe.one(*ledger.hold_loader(process, sizes[process])) == 1:
                order.append(process)
                await pipe.run([ledger.give_up_loader(process)])
                break
        return len(order) == len(sizes)

    await until(all_have_loaded, "all have loaded")
    assert order == ["p2", "p4", "p3", "p1"]


async def test_a_process_that_died_before_it_loaded_does_not_block_the_others(pipe: AsyncPipe) -> None:
    await pipe.run([ledger.hold_loader("dead", 1)])
    await until_it_loads(pipe, "p1", 1_000)


async def test_an_order_is_taken_once_and_the_latest_counts(pipe: AsyncPipe) -> None:
    assert await ledger.take_order(pipe, "a") is None
    await ledger.order(pipe, "a", "load")
    await ledger.order(pipe, "a", "unload")
    await ledger.order(pipe, "b", "load")
    assert [await ledger.take_order(pipe, "a"), await ledger.take_order(pipe, "a")] == ["unload", None]
    assert await ledger.take_order(pipe, "b") == "load"


# --- with an Ollama's books -------------------------------------------------------------------------------------------


class Council:
    """An aggregator and a producer for each model of an Ollama, in a tier of the test."""

    def __init__(self, pipe: AsyncPipe, roles: Roles, server: OllamaServer) -> None:
        self.pipe, self._roles, self.server = pipe, roles, server

    async def start(self, *models: str, tier: TierPolicy = TIERS["high"], options: tuple[str, ...] = ()) -> None:
        policies = msgspec.json.encode({"high": tier}).decode()
        started = [self._roles.start("aggregator")]
        for model in models:
            where = [] if model.startswith("ngram:") else ["--api", "ollama", "--backend", self.server.url]
            started.append(
                self._roles.start(
                    "producers", *where, *options, "--", model, COUNCIL_TIER="high", COUNCIL_TIER_POLICIES=policies
                )
            )
        for role in started:
            # In a thread, because the server that it asks at its start runs in this one.
            await asyncio.to_thread(role.wait_ready)

    async def open(self, opening: Opening) -> str:
        await open_session(self.pipe, opening)
        return opening.session

    async def residency(self, model: str) -> str:
        return next(f.residency for f in served_models(await list_processes(self.pipe)) if f.model == model)

    async def ended(self, session: str) -> list[Frame]:
        await until_ended(self.pipe, session)
        return await check_the_law(self.pipe, session)

    async def tokens(self, session: str) -> int:
        return sum(progress.next_seq for progress in (await find_session(self.pipe, session)).progress)

    async def kinds(self, session: str) -> list[type]:
        return [type(decode_entry(raw)) for _, raw in await token_stream(self.pipe, session)]


def texts(frames: list[Frame]) -> list[str]:
    return ["".join(frame.members[i].text for frame in frames) for i in range(len(frames[0].members))]


async def test_a_model_is_loaded_with_its_first_request_and_the_session_shows_it(roles: Roles, pipe: AsyncPipe) -> None:
    async with ollama_server(SMALL, limits=Limits(load_s=0.5)) as server:
        council = Council(pipe, roles, server)
        await council.start("s:latest")
        assert await council.residency("s:latest") == "absent"
        session = await council.open(opening_of("s:latest", max_tokens=8))
        frames = await council.ended(session)
        assert (frames[-1].members[0].state, frames[-1].members[0].reason) == ("finished", "length")
        assert "loading" in {frame.members[0].state for frame in frames}
        assert await council.residency("s:latest") == "loaded"
        assert server.loaded == {"s:latest"}
        assert Loading in await council.kinds(session)


async def test_models_are_warmed_at_the_start_as_far_as_they_fit_and_one_at_a_time(
    roles: Roles, pipe: AsyncPipe
) -> None:
    """Two of three are within the tier's number; the third is not loaded, and none is evicted for it."""
    two = msgspec.structs.replace(TIERS["high"], max_loaded_models=2)
    async with ollama_server(SMALL, MIDDLE, LARGE) as server:
        council = Council(pipe, roles, server)
        await council.start("s:latest", "m:latest", "l:latest", tier=two, options=("--warm",))

        async def two_are_loaded() -> bool:
            return len(server.loaded) == 2

        await until(two_are_loaded, "two models are loaded")
        session = await council.open(opening_of(*server.loaded, max_tokens=3))
        await council.ended(session)
        assert len(server.loaded) == 2


async def test_the_least_recently_used_model_is_evicted_and_never_one_that_answers(
    roles: Roles, pipe: AsyncPipe
) -> None:
    """One model at a time: l waits while s answers, and some seconds more; then the idle s is evicted."""
    one = msgspec.structs.replace(TIERS["high"], max_loaded_models=1)
    async with ollama_server(SMALL, LARGE) as server:
        council = Council(pipe, roles, server)
        await council.start("s:latest", "l:latest", tier=one)
        first = await council.open(opening_of("s:latest", max_tokens=40))

        async def answers() -> bool:
            return await council.tokens(first) > 0

        await until(answers, "s answers")
        second = await council.open(opening_of("l:latest", max_tokens=3))

        async def waits() -> bool:
            return Waiting in await council.kinds(second)

        await until(waits, "l waits")
        assert server.loaded == {"s:latest"}
        frames = await council.ended(first)
        assert frames[-1].members[0].state == "finished"
        frames = await council.ended(second)
        assert frames[-1].members[0].state == "finished"
        assert server.loaded == {"l:latest"}
        assert await council.residency("l:latest") == "loaded"


async def test_when_memory_runs_out_the_session_falls_a_tier_and_the_others_continue(
    roles: Roles, pipe: AsyncPipe
) -> None:
    async with ollama_server(LARGE, limits=Limits(memory_bytes=5 * GB)) as server:
        council = Council(pipe, roles, server)
        await council.start("l:latest", "ngram:char-6")
        opening = opening_of("l:latest", "ngram:char-6", max_tokens=30)
        opening = msgspec.structs.replace(opening, tier="high", ladder=(Rung("mid", 4), Rung("low", 2)))
        frames = await council.ended(await council.open(opening))
        large, small = frames[-1].members
        assert (large.state, small.state, frames[-1].tier) == ("dropped", "finished", "mid")
        assert large.reason is not None
        assert "memory" in large.reason
        assert large.reason.endswith("; the session fell to the mid tier")
        kinds = await council.kinds(opening.session)
        assert kinds.count(Starved) == 1
        assert Failed not in kinds


async def test_no_member_is_dropped_for_the_heaviest_where_that_would_free_nothing(
    roles: Roles, pipe: AsyncPipe
) -> None:
    async with ollama_server(LARGE, limits=Limits(memory_bytes=5 * GB)) as server:
        council = Council(pipe, roles, server)
        await council.start("l:latest", "ngram:char-6")
        opening = opening_of("l:latest", "ngram:char-6", max_tokens=20)
        opening = msgspec.structs.replace(opening, members=(Member("l:latest", 2.0), Member("ngram:char-6")))
        frames = await council.ended(await council.open(opening))
        assert [member.state for member in frames[-1].members] == ["dropped", "finished"]


@pytest.mark.parametrize("frees", [True, False])
async def test_the_heaviest_member_gets_the_memory_of_the_others_and_tries_once_more(
    roles: Roles, pipe: AsyncPipe, frees: bool
) -> None:
    """Two servers share this machine: s answers at one, l finds no memory at the other; s is dropped for it."""
    slow, small = Limits(tokens_per_s=1.0), Limits(memory_bytes=5 * GB)
    async with ollama_server(SMALL, limits=slow) as first, ollama_server(LARGE, limits=small) as second:
        council = Council(pipe, roles, first)
        await council.start("s:latest")
        await Council(pipe, roles, second).start("l:latest")
        opening = opening_of("s:latest", max_tokens=2_000)
        alone = await council.open(opening)

        async def answers() -> bool:
            return await council.tokens(alone) > 0

        await until(answers, "s answers another session, and stays in memory")
        opening = opening_of("l:latest", "s:latest", max_tokens=10)
        opening = msgspec.structs.replace(opening, members=(Member("l:latest", 2.0), Member("s:latest")))
        session = await council.open(opening)

        async def starves() -> bool:
            return Starved in await council.kinds(session)

        await until(starves, "l found no memory")
        if frees:
            second.limits.memory_bytes = 64 * GB
        frames = await council.ended(session)
        large, small = frames[-1].members
        assert (large.state, small.state) == ("finished" if frees else "dropped", "dropped")
        assert small.reason == "it made room: no memory for l:latest"
        assert (await council.kinds(session)).count(Starved) == (1 if frees else 2)
        await cancel_session(pipe, alone)
        await council.ended(alone)


async def test_a_model_that_can_never_fit_fails_at_once(roles: Roles, pipe: AsyncPipe) -> None:
    little = msgspec.structs.replace(TIERS["high"], ram_budget_gb=2.0, vram_budget_gb=1.0)
    async with ollama_server(LARGE) as server:
        council = Council(pipe, roles, server)
        await council.start("l:latest", tier=little)
        frames = await council.ended(await council.open(opening_of("l:latest")))
        assert "has 6.0 GB and the high tier has 3 GB of memory for models" in (frames[-1].members[0].reason or "")


async def test_a_server_that_was_away_at_the_start_is_within_the_tiers_limits(roles: Roles, pipe: AsyncPipe) -> None:
    small = msgspec.structs.replace(TIERS["high"], max_model_size_gb=4.0)
    with contextlib.closing(socket.create_server(("127.0.0.1", 0))) as held:
        port = held.getsockname()[1]
    council = Council(pipe, roles, OllamaServer(Books((), Limits()), url=f"http://127.0.0.1:{port}"))
    await council.start("l:latest", tier=small)
    facts = next(iter(served_models(await list_processes(pipe))))
    assert "cannot be reached" in facts.trouble
    async with ollama_server(LARGE, port=port) as server:
        frames = await council.ended(await council.open(opening_of("l:latest")))
        assert "has 6.0 GB and the high tier takes models of up to 4 GB" in (frames[-1].members[0].reason or "")
        assert server.loaded == set()
        facts = next(iter(served_models(await list_processes(pipe))))
        assert (facts.size_bytes, facts.trouble) == (6 * GB, "")


async def test_a_session_that_is_cancelled_while_it_loads_takes_nothing_from_another(
    roles: Roles, pipe: AsyncPipe
) -> None:
    async with ollama_server(SMALL) as server:
        server.books.may_load.clear()
        council = Council(pipe, roles, server)
        await council.start("s:latest")
        first, second = [await council.open(opening_of("s:latest", max_tokens=5, prompt=text)) for text in "ab"]

        async def both_load() -> bool:
            return Loading in await council.kinds(first) and Loading in await council.kinds(second)

        await until(both_load, "both sessions load")
        await cancel_session(pipe, first)
        await until_ended(pipe, first)
        server.books.may_load.set()
        frames = await council.ended(second)
        assert frames[-1].members[0].state == "finished"
        assert len([path for path in server.paths if path == "/api/generate"]) == 1


async def test_identical_requests_that_wait_are_generated_once_and_written_to_each_session(
    roles: Roles, pipe: AsyncPipe
) -> None:
    async with ollama_server(SMALL, limits=Limits(parallel=1, tokens_per_s=1.0)) as server:
        council = Council(pipe, roles, server)
        await council.start("s:latest", options=("--parallel", "1"))
        busy = await council.open(opening_of("s:latest", max_tokens=2_000, prompt="Something else?"))

        async def answers() -> bool:
            return await council.tokens(busy) > 0

        await until(answers, "the slot is taken")
        twins = [await council.open(opening_of("s:latest", max_tokens=12)) for _ in range(3)]

        async def all_wait() -> bool:
            return all([Waiting in await council.kinds(session) for session in twins])

        await until(all_wait, "all three wait for the slot")
        server.limits.tokens_per_s = 200.0
        await cancel_session(pipe, busy)
        answered = [await council.ended(session) for session in [busy, *twins]]
        answers_of = [texts(frames)[0] for frames in answered]
        assert answers_of[1] == answers_of[2] == answers_of[3] != ""
        assert [frames[-1].members[0].state for frames in answered] == ["dropped", "finished", "finished", "finished"]
        prompts = [str(question) for question in server.questions if "What is a list?" in str(question)]
        assert len(prompts) == 1


async def test_a_producer_follows_orders_and_keeps_a_model_that_answers(roles: Roles, pipe: AsyncPipe) -> None:
    async with ollama_server(SMALL, limits=Limits(tokens_per_s=1.0)) as server:
        council = Council(pipe, roles, server)
        await council.start("s:latest")
        await ledger.order(pipe, "s:latest", "load")

        async def loaded() -> bool:
            return server.loaded == {"s:latest"} and await council.residency("s:latest") == "loaded"

        await until(loaded, "it is loaded as ordered")
        session = await council.open(opening_of("s:latest", max_tokens=75))

        async def answers() -> bool:
            return await council.tokens(session) > 0

        await until(answers, "it answers")
        await ledger.order(pipe, "s:latest", "unload")

        async def taken() -> bool:
            return b"order\ns:latest" not in await pipe.one("HKEYS", "council:residency")

        await until(taken, "the order is taken")
        server.limits.tokens_per_s = 200.0
        frames = await council.ended(session)
        assert frames[-1].members[0].state == "finished"
        assert server.loaded == {"s:latest"}
        await ledger.order(pipe, "s:latest", "unload")

        async def unloaded() -> bool:
            return server.loaded == set() and await council.residency("s:latest") == "absent"

        await until(unloaded, "it is unloaded as ordered")


async def test_a_model_that_its_server_dropped_is_loaded_again(roles: Roles, pipe: AsyncPipe) -> None:
    async with ollama_server(SMALL) as server:
        council = Council(pipe, roles, server)
        await council.start("s:latest")
        await council.ended(await council.open(opening_of("s:latest", max_tokens=3)))
        server.books.expire(SMALL)

        async def is_out() -> bool:
            return server.loaded == set()

        await until(is_out, "the server dropped it")
        frames = await council.ended(await council.open(opening_of("s:latest", max_tokens=3)))
        assert frames[-1].members[0].state == "finished"


async def test_a_loader_that_died_blocks_the_others_for_seconds_only(roles: Roles, pipe: AsyncPipe) -> None:
    """Its lease ends after five seconds."""
    await until_it_loads(pipe, "dead")
    async with ollama_server(SMALL) as server:
        council = Council(pipe, roles, server)
        await council.start("s:latest")
        frames = await council.ended(await council.open(opening_of("s:latest", max_tokens=3)))
        assert frames[-1].members[0].state == "finished"
