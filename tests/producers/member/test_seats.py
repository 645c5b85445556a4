"""The slot of a member that is steered: it stays with the member between its generations."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from producers.backend import Chunk, Ending, ModelLoading, ModelWaiting, Piece, Request
from producers.member.generations import Generations
from producers.member.slots import Age, Seat
from schemas.models import ModelFacts

SESSION, OLDER, YOUNGER = (5, 0), (4, 0), (6, 0)


class OneSlot:
    """A backend with one slot: it yields a chunk, and its end when the test says so. `asked` has the prompts."""

    residence, facts, slots = None, ModelFacts("one-slot"), 1

    def __init__(self, *, pauses: bool = False) -> None:
        self.pauses, self.asked = pauses, list[str]()
        self.may_end = asyncio.Event()

    async def start(self) -> None: ...
    async def close(self) -> None: ...

    async def generate(self, request: Request) -> AsyncIterator[Chunk | ModelLoading | ModelWaiting | Ending]:
        self.asked.append(request.prompt)
        yield Chunk((Piece("word"),))
        await self.may_end.wait()
        yield Ending("stop")


def following(generations: Generations, prompt: str, age: Age, seat: Seat | None = None) -> asyncio.Task[Ending]:
    request = Request(prompt, "", 9, 0.0, 7, 20, 1_000)
    return asyncio.create_task(generations.follow(request, lambda _: None, None, age, seat))


async def turns(count: int = 30) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


async def stop(*tasks: asyncio.Task[Ending]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


@pytest.mark.parametrize("pauses", [False, True])
async def test_a_steered_member_continues_in_its_slot_before_all_that_wait(*, pauses: bool) -> None:
    backend = OneSlot(pauses=pauses)
    generations = Generations(backend)
    with generations.seat(SESSION) as seat:
        first = following(generations, "first", SESSION, seat)
        await turns()
        waiting = [following(generations, "younger", YOUNGER), following(generations, "same", SESSION)]
        await turns()
        await stop(first)
        second = following(generations, "second", SESSION, seat)
        await turns()
        assert backend.asked == ["first", "second"]
        await stop(second)
    await turns()
    assert backend.asked == ["first", "second", "same"]
    await stop(*waiting)
    await turns()
    assert generations.has_room


@pytest.mark.parametrize("comes_first", [False, True])
@pytest.mark.parametrize(("age", "is_served"), [(OLDER, True), (SESSION, True), (YOUNGER, False)])
async def test_a_member_whose_draft_has_ended_gives_its_slot_to_its_own_and_to_older_sessions(
    age: Age, *, is_served: bool, comes_first: bool
) -> None:
    """`comes_first`: the other request waits already when the draft ends."""
    backend = OneSlot()
    generations = Generations(backend)
    with generations.seat(SESSION) as seat:
        ended = following(generations, "draft", SESSION, seat)
        others = []
        if comes_first:
            await turns()
            others.append(following(generations, "other", age))
            await turns()
        backend.may_end.set()
        await ended
        backend.may_end.clear()
        seat.park()
        if not comes_first:
            others.append(following(generations, "other", age))
        await turns()
        assert backend.asked == ["draft", "other"][: 1 + is_served]
        steered = following(generations, "steered", SESSION, seat)
        await turns()
        assert backend.asked == ["draft", "other" if is_served else "steered"]
        if is_served:
            backend.may_end.set()
            await turns()
            assert backend.asked == ["draft", "other", "steered"]
        await stop(steered, *others)
    await turns()
    assert generations.has_room


async def test_each_steered_member_has_a_generation_of_its_own() -> None:
    """Two members with the same request: where one of them is steered, the other one goes on."""
    backend = OneSlot()
    backend.slots = 2
    generations = Generations(backend)
    with generations.seat(SESSION) as one, generations.seat(SESSION) as other:
        tasks = [following(generations, "same", SESSION, seat) for seat in (one, other)]
        await turns()
        assert backend.asked == ["same", "same"]
        await stop(*tasks)
    assert (generations.shared, generations.has_room) == (0, True)
