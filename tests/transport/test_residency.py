"""Orders about models in memory are never lost, and values of another client in the same hash break nothing."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import pytest

from schemas import keys
from tests.support.redis_servers import RedisServer
from transport.redis.connection import AsyncPipe, Command
from transport.residency import (
    ask_to_leave,
    begin_eviction,
    hold_loader,
    is_asked_to_leave,
    keys_in_use,
    order,
    read_uses,
    sweep_uses,
    take_order,
    use,
)

_KEY = ("http://127.0.0.1:11434", "a")


class Interrupted(AsyncPipe):
    """Another client writes something between two runs of this one."""

    def __init__(self, url: str, between: Callable[[], Awaitable[Any]]) -> None:
        super().__init__(url)
        self._between: Callable[[], Awaitable[Any]] | None = between

    async def run(self, commands: Sequence[Command]) -> list[Any]:
        replies = await super().run(commands)
        if self._between is not None:
            between, self._between = self._between, None
            await between()
        return replies


async def test_an_order_that_is_placed_while_one_is_taken_is_not_lost(redis: RedisServer, pipe: AsyncPipe) -> None:
    await order(pipe, "a", "load")
    taking = Interrupted(redis.url, lambda: order(pipe, "a", "unload"))
    assert [await take_order(taking, "a") for _ in range(3)] == ["load", "unload", None]
    await taking.close()


async def test_a_request_to_leave_that_is_placed_while_one_is_taken_is_not_lost(
    redis: RedisServer, pipe: AsyncPipe
) -> None:
    """The first one has lapsed, the second one has not."""
    await pipe.run([ask_to_leave(_KEY, 1_000), ("EXPIRE", keys.RESIDENCY, 60)])
    taking = Interrupted(redis.url, lambda: pipe.run([ask_to_leave(_KEY, 3_000)]))
    assert [await is_asked_to_leave(taking, _KEY, 2_000) for _ in range(3)] == [False, True, False]
    await taking.close()


@pytest.mark.parametrize(
    "fields",
    [
        ("order\na", "dance"),
        ("order\na", b"\xff"),
        (f"leave\n{_KEY[0]}\na", "soon"),
        (b"use\n\xff", "1"),
        ("use", "1"),
        ("use\nx", "1"),
        (f"use\n{_KEY[0]}\na\nother", "for ever"),
        (f"evict\n{_KEY[0]}\na", "now"),
        ("\n\n\n", ""),
    ],
)
async def test_values_of_another_client_break_nothing(
    each_redis: RedisServer, fields: tuple[str | bytes, str | bytes]
) -> None:
    pipe = AsyncPipe(each_redis.url)
    await pipe.run([("HSET", keys.RESIDENCY, *fields), ("EXPIRE", keys.RESIDENCY, 60)])
    assert await take_order(pipe, "a") is None
    assert await is_asked_to_leave(pipe, _KEY, 0) is False
    assert keys_in_use(await pipe.run(read_uses())) == frozenset()
    sweep_uses(await pipe.run(read_uses()))
    assert await pipe.run([use(_KEY, "me"), begin_eviction(_KEY)]) == [1, 0]
    assert keys_in_use(await pipe.run(read_uses())) == {_KEY}
    await pipe.close()


@pytest.mark.parametrize("fields", [("want x", "much"), ("want me", ""), ("holder", "x", "held_to", "late")])
async def test_values_of_another_client_do_not_keep_models_from_loading(
    each_redis: RedisServer, fields: tuple[str, ...]
) -> None:
    pipe = AsyncPipe(each_redis.url)
    await pipe.run([("HSET", keys.LOADER, *fields), ("EXPIRE", keys.LOADER, 60)])
    assert await pipe.run([hold_loader("me", 1)]) == [0]
    await pipe.run([("DEL", keys.LOADER)])
    await pipe.close()
