"""Requests to a model: as many at once as it has slots, identical ones together, random answers for each."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import msgspec
import pytest

from producers.backend import (
    Backend,
    BackendFailed,
    Chunk,
    Ending,
    ModelLoading,
    ModelReady,
    ModelWaiting,
    Piece,
    Request,
)
from producers.member.generations import Generations, Item
from schemas.models import ModelFacts

SEEDED = Request("Why?", "", 9, 0.7, 7, 20, 1_000)


class Scripted:
    """A backend whose items a test sets one by one; every request waits for its next item."""

    residence, facts = None, ModelFacts("scripted")

    def __init__(self, slots: int, *, pauses: bool = False) -> None:
        self.slots, self.pauses = slots, pauses
        self.asked: list[Request] = []
        self.closed = 0
        self.items: list[asyncio.Queue[Chunk | ModelLoading | Ending | BackendFailed]] = []

    async def start(self) -> None: ...
    async def close(self) -> None: ...

    async def generate(self, request: Request) -> AsyncIterator[Chunk | ModelLoading | ModelWaiting | Ending]:
        self.asked.append(request)
        items: asyncio.Queue[Chunk | ModelLoading | Ending | BackendFailed] = asyncio.Queue()
        self.items.append(items)
        try:
            while True:
                word = await items.get()
                if isinstance(word, BackendFailed):
                    raise word
                yield word
        finally:
            self.closed += 1


class Follower:
    """One session that follows a generation, until it has `most` chunks."""

    def __init__(self, generations: Generations, request: Request, most: int = 99) -> None:
        self.received: list[Item] = []
        self._most = most
        self.task = asyncio.create_task(generations.follow(request, self._take))

    @property
    def text(self) -> str:
        return "".join(piece.text for item in self.received if isinstance(item, Chunk) for piece in item.pieces)

    def _take(self, item: Item) -> Ending | None:
        self.received.append(item)
        return Ending("length") if sum(isinstance(one, Chunk) for one in self.received) >= self._most else None


def chunk_of(text: str) -> Chunk:
    return Chunk((Piece(text),))


async def turns(count: int = 30) -> None:
    """Runs all tasks as far as they can go: nothing here waits for time."""
    for _ in range(count):
        await asyncio.sleep(0)


def of(backend: Backend) -> Generations:
    return Generations(backend)


async def test_identical_requests_that_wait_are_generated_once_for_all() -> None:
    backend = Scripted(1)
    generations = of(backend)
    busy = Follower(generations, Request("Else?", "", 9, 0.7, 1, 20, 1_000))
    await turns()
    first, second = Follower(generations, SEEDED), Follower(generations, SEEDED)
    await turns()
    assert (first.received, second.received) == ([ModelWaiting()], [ModelWaiting()])
    backend.items[0].put_nowait(Ending("stop"))
    assert await busy.task == Ending("stop")
    await turns()
    assert len(backend.asked) == 2
    for item in (chunk_of("one"), chunk_of(" day"), Ending("stop")):
        backend.items[1].put_nowait(item)
    assert [await first.task, await second.task] == [Ending("stop")] * 2
    assert (first.text, second.text) == ("one day", "one day")
    assert (generations.asked, generations.shared) == (2, 1)


async def test_a_request_joins_before_the_first_chunk_and_is_sent_anew_after_it() -> None:
    backend = Scripted(2)
    generations = of(backend)
    first = Follower(generations, SEEDED)
    await turns()
    backend.items[0].put_nowait(ModelLoading())
    await turns()
    second = Follower(generations, SEEDED)
    await turns()
    assert (len(backend.asked), second.received) == (1, [ModelLoading()])
    backend.items[0].put_nowait(chunk_of("one"))
    await turns()
    third = Follower(generations, SEEDED)
    await turns()
    assert len(backend.asked) == 2
    assert (first.text, second.text, third.text) == ("one", "one", "")
    for follower in (first, second, third):
        follower.task.cancel()
    await asyncio.gather(first.task, second.task, third.task, return_exceptions=True)
    assert backend.closed == 2


@pytest.mark.parametrize(
    "other",
    [
        Request("Why?", "", 9, 0.7, 8, 20, 1_000),
        Request("Why?", "", 8, 0.7, 7, 20, 1_000),
        Request("Why?", "Kindly.", 9, 0.7, 7, 20, 1_000),
        Request("Why not?", "", 9, 0.7, 7, 20, 1_000),
        Request("Why?", "", 9, 0.8, 7, 20, 1_000),
    ],
)
async def test_requests_that_differ_in_any_field_are_sent_each(other: Request) -> None:
    backend = Scripted(2)
    generations = of(backend)
    followers = [Follower(generations, request) for request in (SEEDED, other)]
    await turns()
    assert len(backend.asked) == 2
    for follower in followers:
        follower.task.cancel()


async def test_without_a_seed_each_request_is_sent_unless_the_temperature_is_0() -> None:
    backend = Scripted(4)
    generations = of(backend)
    chance, none = Request("Why?", "", 9, 0.7, None, 20, 1_000), Request("Why?", "", 9, 0.0, None, 20, 1_000)
    followers = [Follower(generations, request) for request in (chance, chance, none, none)]
    await turns()
    assert backend.asked == [chance, chance, none]
    for follower in followers:
        follower.task.cancel()


@pytest.mark.parametrize("temperature", [0.0, 0.7])
async def test_a_backend_that_pauses_generates_for_each_session(temperature: float) -> None:
    """Each session decides when its generation continues, at moments of its own; also where both wait for a slot."""
    backend = Scripted(1, pauses=True)
    generations = of(backend)
    request = msgspec.structs.replace(SEEDED, temperature=temperature)
    followers = [Follower(generations, request) for _ in range(3)]
    for number, text in enumerate(("one", "two", "three")):
        await turns(12)
        assert len(backend.asked) == number + 1
        for item in (chunk_of(text), Ending("stop")):
            backend.items[number].put_nowait(item)
    await asyncio.gather(*(follower.task for follower in followers))
    assert [follower.text for follower in followers] == ["one", "two", "three"]
    assert (generations.asked, generations.shared) == (3, 0)


async def test_a_chunk_is_taken_when_its_session_allows_it_and_leaving_ends_the_wait() -> None:
    """
    allows the next     '     1      2
    taken               ready one    day  (left: nothing more, and its slot goes to the next)
    """
    backend = Scripted(1, pauses=True)
    generations = of(backend)
    may_go_on = asyncio.Semaphore(0)
    received: list[Item] = []

    async def wait() -> None:
        await may_go_on.acquire()

    task = asyncio.create_task(generations.follow(SEEDED, received.append, wait))
    await turns()
    assert (received, backend.asked) == ([ModelReady()], [])
    may_go_on.release()
    await turns()
    for text in ("one", " day", " more"):
        backend.items[0].put_nowait(chunk_of(text))
    await turns()
    assert (received, backend.items[0].qsize()) == ([ModelReady(), chunk_of("one")], 2)
    may_go_on.release()
    await turns()
    assert (received, backend.items[0].qsize()) == ([ModelReady(), chunk_of("one"), chunk_of(" day")], 1)
    next_one = Follower(generations, SEEDED)
    await turns()
    assert (next_one.received, len(backend.asked)) == ([ModelWaiting()], 1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (backend.closed, backend.items[0].qsize()) == (1, 1)
    await turns()
    assert len(backend.asked) == 2
    next_one.task.cancel()


async def test_waiting_requests_are_sent_as_soon_as_there_are_slots_and_never_more_at_once() -> None:
    backend = Scripted(3)
    generations = of(backend)
    followers = [Follower(generations, Request(f"{i}?", "", 9, 0.7, i, 20, 1_000)) for i in range(7)]
    await turns()
    assert len(backend.asked) == 3
    for items in backend.items[:3]:
        items.put_nowait(Ending("stop"))
    await turns(12)
    assert len(backend.asked) == 6
    assert sum(follower.task.done() for follower in followers) == 3
    for follower in followers:
        follower.task.cancel()


async def test_a_session_that_leaves_takes_nothing_from_the_others_and_the_last_stops_the_generation() -> None:
    backend = Scripted(1)
    generations = of(backend)
    first, second, brief = (
        Follower(generations, SEEDED),
        Follower(generations, SEEDED),
        Follower(generations, SEEDED, 1),
    )
    await turns()
    first.task.cancel()
    await turns()
    backend.items[0].put_nowait(chunk_of("one"))
    assert await brief.task == Ending("length")
    backend.items[0].put_nowait(chunk_of(" day"))
    await turns()
    assert (second.text, backend.closed) == ("one day", 0)
    second.task.cancel()
    await asyncio.gather(first.task, second.task, return_exceptions=True)
    assert backend.closed == 1
    # The slot is free again.
    again = Follower(generations, SEEDED)
    await turns()
    assert len(backend.asked) == 2
    again.task.cancel()


async def test_a_failure_reaches_every_session() -> None:
    backend = Scripted(1)
    generations = of(backend)
    followers = [Follower(generations, SEEDED), Follower(generations, SEEDED)]
    await turns()
    backend.items[0].put_nowait(BackendFailed("the server is gone"))
    for follower in followers:
        with pytest.raises(BackendFailed, match="the server is gone"):
            await follower.task


def held_back(generations: Generations, age: int) -> tuple[asyncio.Task[Ending], list[Item], asyncio.Event]:
    """A request of a session of this age, the items it receives, and the event that lets it start."""
    received: list[Item] = []
    starts = asyncio.Event()
    follow = generations.follow(SEEDED, received.append, starts.wait, (age, 0))
    return asyncio.create_task(follow), received, starts


async def test_a_request_that_is_held_back_gives_its_slot_to_an_older_session() -> None:
    """
    age 5   Ready (held back) ----- yields: Waiting ............ Ready, starts
    age 3                     asks: Waiting, Ready, starts, ends
    """
    backend = Scripted(1, pauses=True)
    generations = of(backend)
    younger, younger_heard, younger_starts = held_back(generations, 5)
    await turns()
    assert younger_heard == [ModelReady()]
    older, older_heard, older_starts = held_back(generations, 3)
    await turns()
    assert (older_heard, younger_heard) == ([ModelWaiting(), ModelReady()], [ModelReady(), ModelWaiting()])
    younger_starts.set()
    await turns()
    assert backend.asked == []
    older_starts.set()
    await turns()
    backend.items[0].put_nowait(Ending("stop"))
    assert (await older).reason == "stop"
    await turns()
    assert younger_heard == [ModelReady(), ModelWaiting(), ModelReady()]
    backend.items[1].put_nowait(Ending("stop"))
    assert (await younger).reason == "stop"


async def test_a_request_that_has_started_keeps_its_slot_and_a_younger_one_waits() -> None:
    backend = Scripted(1, pauses=True)
    generations = of(backend)
    first, first_heard, starts = held_back(generations, 5)
    younger, younger_heard, _ = held_back(generations, 7)
    await turns()
    assert (first_heard, younger_heard) == ([ModelReady()], [ModelWaiting()])
    starts.set()
    await turns()
    older, older_heard, _ = held_back(generations, 3)
    await turns()
    assert (first_heard, older_heard) == ([ModelReady()], [ModelWaiting()])
    backend.items[0].put_nowait(Ending("stop"))
    await first
    await turns()
    assert (older_heard, younger_heard) == ([ModelWaiting(), ModelReady()], [ModelWaiting()])
    for task in (older, younger):
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert generations.has_room


async def test_two_sessions_that_need_each_others_slots_both_continue() -> None:
    """Each needs a slot of both models before it starts; they ask the models in opposite order."""
    models = [of(Scripted(1, pauses=True)), of(Scripted(1, pauses=True))]
    asked: dict[tuple[int, int], tuple[asyncio.Task[Ending], list[Item], asyncio.Event]] = {}
    for session, model in ((1, 0), (2, 1), (2, 0), (1, 1)):
        asked[session, model] = held_back(models[model], session)
        await turns()

    def is_ready(session: int) -> bool:
        return all(asked[session, model][1][-1] == ModelReady() for model in (0, 1))

    assert (is_ready(1), is_ready(2)) == (True, False)
    for model in (0, 1):
        asked[1, model][0].cancel()
    await turns()
    assert is_ready(2)
    for task, _, _ in asked.values():
        task.cancel()
    await asyncio.gather(*(task for task, _, _ in asked.values()), return_exceptions=True)
    assert all(model.has_room for model in models)
