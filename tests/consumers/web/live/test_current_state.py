"""What a client of `/ws` receives first: what stands, and the session's errors, each once."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

import aiohttp
import pytest

from schemas import keys
from schemas.events import (
    EnergyField,
    EnergyUpdate,
    ErrorEvent,
    Heartbeat,
    InterferenceEvent,
    ProtocolMessage,
    ResonanceEvent,
    StartupComplete,
    TokenStream,
)
from schemas.frames import MemberFrame
from schemas.grid import window_index_at
from tests.support.live_clients import messages_until
from tests.support.protocol import numbers_of
from tests.support.redis_servers import RedisServer
from tests.support.role_processes import Roles
from tests.support.scripted_sessions import FrameWriter
from tests.support.waiting import until
from tests.support.web_server import WebServer
from transport.commit import end_session
from transport.events import find_composed
from transport.redis.connection import AsyncPipe, Pipe
from transport.sessions import find_session

RESONANT: dict[str, Any] = {
    "frontier_bytes": 0, "agreement": 1.0, "interference": "constructive", "wave": 0.75, "resonance": True,
}  # fmt: skip


def members_of(*states: str) -> tuple[MemberFrame, ...]:
    """The members a, b, … in these states. Each has released one byte before the test begins."""
    return tuple(
        MemberFrame(name, state, 0.5, 1.0, None, 1, 0, "", "", "it broke" if state == "dropped" else None)  # type: ignore[arg-type]
        for name, state in zip("abc", states, strict=True)
    )


class Session:
    """A session whose frames the test writes, and DECIPHER."""

    def __init__(self, redis: RedisServer, pipe: AsyncPipe) -> None:
        self._redis, self._pipe = redis, pipe
        self._writer = FrameWriter(redis, models=("a", "b", "c"))
        self.name = self._writer.session
        self._writer.announce()

    async def write(self, count: int, *states: str, final: bool = False, **fields: Any) -> int:
        """The number of the last of these frames, which DECIPHER has composed."""
        self._writer.write(count, final=final, members=members_of(*states), mode="free", **fields)
        last = self._writer.count - 1
        status = ("status", "ended") if final else ()
        self._redis.run("HSET", keys.state(self.name), "window", str(last), *status)

        async def is_composed() -> bool:
            return (await find_composed(self._pipe, self.name)).cursor == keys.frame_id(last)

        await until(is_composed, "DECIPHER has composed the frames")
        return window_index_at((await find_session(self._pipe, self.name)).shown_origin_ns) + last


@pytest.fixture
def session(redis: RedisServer, roles: Roles, pipe: AsyncPipe) -> Session:
    roles.ready("consumers.decipher")
    return Session(redis, pipe)


async def received(client: aiohttp.ClientSession, address: str, *after: int | None) -> list[list[ProtocolMessage]]:
    """What clients receive between startup_complete and the first heartbeat, while nothing else happens: one for each
    frame number that a client has received, or None."""

    async def one(number: int | None) -> list[ProtocolMessage]:
        async with client.ws_connect(address if number is None else f"{address}&after={number}") as socket:
            first, *found, _ = await messages_until(socket, lambda found: isinstance((found or [None])[-1], Heartbeat))
        assert isinstance(first, StartupComplete)
        return found

    return await asyncio.gather(*map(one, after))


def errors_in(messages: list[ProtocolMessage]) -> list[str]:
    return [message.payload.code for message in messages if isinstance(message, ErrorEvent)]


def kinds_of(messages: list[ProtocolMessage]) -> list[type]:
    return [type(message) for message in messages]


async def test_a_client_that_connects_receives_what_stands_and_each_error_once(
    web: WebServer, client: aiohttp.ClientSession, session: Session
) -> None:
    """three resonate, and one is dropped | nothing interferes, and an entry does not decode | the end"""
    await session.write(10, *["answering"] * 3, **RESONANT)
    dropped = await session.write(1, "answering", "answering", "dropped", **RESONANT)
    address = f"{web.http}/ws?session={session.name}"
    # The second has the frame before the one that drops the member, the third has that one as well.
    found, before, after = await received(client, address, None, dropped - 1, dropped)
    states = [EnergyUpdate, EnergyField, InterferenceEvent, ResonanceEvent]
    assert kinds_of(found) == [*states, TokenStream, ErrorEvent]
    assert [m.payload.participants for m in found if isinstance(m, ResonanceEvent)] == [("a", "b")]
    # A member that was dropped is complete as one that finished is: the error distinguishes them.
    assert [(m.payload.modelId, m.payload.isComplete) for m in found if isinstance(m, TokenStream)] == [("c", True)]
    assert [m.payload.details for m in found if isinstance(m, ErrorEvent)] == [{"modelId": "c", "model": "c"}]
    assert numbers_of(found) == [dropped] * 4
    assert (before, after) == (found, [])
    async with client.ws_connect(f"{address}&after={dropped}") as socket:
        await messages_until(socket, lambda found: bool(found))
        quiet = await session.write(1, "answering", "answering", "dropped", dead_letters=2)
        live = await messages_until(socket, lambda found: ErrorEvent in kinds_of(found))
        assert [m.payload.fieldType for m in live if isinstance(m, EnergyField)] == ["stream"]
        assert errors_in(live) == ["DEAD_LETTERS"]
    found, resumed = await received(client, address, None, dropped)
    assert kinds_of(found) == [EnergyUpdate, EnergyField, TokenStream, ErrorEvent, ErrorEvent]
    assert errors_in(found) == ["MEMBER_DROPPED", "DEAD_LETTERS"]
    assert errors_in(resumed) == ["DEAD_LETTERS"]
    last = await session.write(1, "finished", "finished", "dropped", final=True)
    *ended, complete = await received(client, address, 0, quiet, last, last + 1)
    for (energy, field, *rest), errors in zip(ended, (["MEMBER_DROPPED", "DEAD_LETTERS"], [], []), strict=True):
        assert isinstance(energy, EnergyUpdate)
        assert isinstance(field, EnergyField)
        assert (energy.payload.totalEnergy, field.payload.fieldType, field.payload.intensity) == (0.0, "lightning", 0.0)
        assert numbers_of([energy, field]) == [last + 1] * 2
        assert errors_in(rest) == errors
    assert complete == []


async def test_the_error_of_a_session_that_failed_comes_once_behind_its_end(
    redis: RedisServer, web: WebServer, client: aiohttp.ClientSession, pipe: AsyncPipe, session: Session
) -> None:
    last = await session.write(3, *["answering"] * 3, **RESONANT)
    with contextlib.closing(Pipe(redis.url)) as direct:
        direct.run([end_session(session.name, 0, "The session cannot be computed.")])

    async def is_over() -> bool:
        return (await find_composed(pipe, session.name)).is_over

    await until(is_over, "DECIPHER composes the end")
    address = f"{web.http}/ws?session={session.name}"
    *ended, complete = await received(client, address, None, last, last + 1)
    for found in ended:
        assert kinds_of(found) == [EnergyUpdate, EnergyField, ErrorEvent]
        assert errors_in(found) == ["SESSION_FAILED"]
        assert [m.payload.fieldType for m in found if isinstance(m, EnergyField)] == ["lightning"]
    assert complete == []
