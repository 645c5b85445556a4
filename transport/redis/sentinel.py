"""The address of the present master: Sentinels are asked for it each time that a connection is made."""

from __future__ import annotations

import asyncio
from typing import Any

from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError

from transport.redis.address import SENTINEL_TIMEOUT_S, Address, Node
from transport.redis.link import AsyncLink, Link
from transport.redis.refusals import in_words


def find_master(address: Address) -> Node:
    """The master of the address's service, from the first Sentinel that knows it. Raises redis-py's ConnectionError."""
    failures = []
    for node in address.sentinels:
        link = Link(address.sentinel(node))
        try:
            (reply,) = link.open([_question(address)])
        except (RedisError, OSError) as error:
            reply = error
        finally:
            link.close()
        if master := _master(reply):
            return master
        failures.append(_failure(node, reply))
    raise _unknown(address, failures)


async def find_master_async(address: Address) -> Node:
    """As find_master."""
    failures = []
    for node in address.sentinels:
        link = AsyncLink(address.async_sentinel(node))
        try:
            async with asyncio.timeout(SENTINEL_TIMEOUT_S):
                (reply,) = await link.open([_question(address)])
        except (RedisError, OSError, TimeoutError) as error:
            reply = error
        finally:
            await link.close()
        if master := _master(reply):
            return master
        failures.append(_failure(node, reply))
    raise _unknown(address, failures)


def _question(address: Address) -> tuple[str, str, str]:
    return "SENTINEL", "GET-MASTER-ADDR-BY-NAME", address.service


def _master(reply: Any) -> Node | None:
    return None if not reply or isinstance(reply, Exception) else (reply[0].decode(), int(reply[1]))


def _failure(node: Node, reply: Any) -> str:
    trouble = in_words(reply) if isinstance(reply, Exception) else "it does not know the service"
    return f"{node[0]}:{node[1]}: {trouble}"


def _unknown(address: Address, failures: list[str]) -> RedisConnectionError:
    return RedisConnectionError(f"no Sentinel names a master of {address.service!r} ({'; '.join(failures)})")
