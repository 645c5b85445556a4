"""Servers that take over from each other while sessions run: COUNCIL_CHAOS=long, for each takes seconds to be noticed.

What a failover loses is the end of what the old server had taken. What the new one has is a council that was stopped a
moment earlier: frames are computed again, tokens are written again from where they are missing, and the law holds.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncIterator, Iterator

import pytest

from schemas import keys
from schemas.errors import RedisAway, RedisRefuses
from schemas.sessions import Opening
from tests.support.clusters import Cluster, Server, Watched
from tests.support.redis_servers import redis_binaries
from tests.support.role_processes import Role, Roles, roles_on
from tests.support.sessions import check_the_law, opening_of, until_ended
from tests.support.waiting import until
from transport.redis.cluster import slot_of
from transport.redis.connection import AsyncPipe
from transport.sessions import find_session, open_session

__test__ = os.environ.get("COUNCIL_CHAOS") == "long"

MODELS = ("ngram:word-3", "ngram:char-6")
# Five to eight seconds of text: a failover is over before its end.
MOST_TOKENS = 400
BINARIES = redis_binaries()


def council_on(roles: Roles) -> list[Role]:
    """Two aggregators, two producers and DECIPHER, ready."""
    found = [roles.start("aggregator"), roles.start("aggregator"), roles.start("consumers.decipher")]
    found += [roles.start("producers", model, "--tokens-per-s", "50") for model in MODELS]
    return [role.wait_ready() for role in found]


async def opened_when_there(pipe: AsyncPipe) -> Opening:
    """A short session, opened when Redis is there to take it. One whose announcement was lost is never heard of."""

    async def opened() -> Opening | None:
        opening = opening_of(*MODELS, max_tokens=50)
        with contextlib.suppress(RedisAway, RedisRefuses):
            await open_session(pipe, opening)
            return opening
        return None

    found = await until(opened, "a session is opened")
    assert found
    return found


async def until_window(pipe: AsyncPipe, session: str, window: int) -> None:
    async def is_there() -> bool:
        with contextlib.suppress(RedisAway):
            return (await find_session(pipe, session)).window >= window
        return False

    await until(is_there, f"window {window} of {session} is committed")


async def check(pipe: AsyncPipe, openings: list[Opening], council: list[Role], *losses: str) -> None:
    """Every session ends, by the law, with its events; every role lives and broke nowhere. Its members have finished,
    unless they say one of these `losses`."""
    for opening in openings:
        await until_ended_over_breaks(pipe, opening.session)
        frames = await check_the_law(pipe, opening.session)
        assert {member.reason for member in frames[-1].members if member.state != "finished"} <= set(losses)
        await until_composed(pipe, opening.session)
    for role in council:
        assert role.process.poll() is None, role.log()
        assert "Traceback" not in role.log(), role.log()


async def until_ended_over_breaks(pipe: AsyncPipe, session: str) -> None:
    while True:
        with contextlib.suppress(RedisAway):
            await until_ended(pipe, session)
            return


async def until_composed(pipe: AsyncPipe, session: str) -> None:
    async def is_composed() -> bool:
        state = await find_session(pipe, session)
        return keys.entry_order(state.decipher)[0] == state.window + 1

    await until(is_composed, "DECIPHER composed every frame")


@contextlib.contextmanager
def closing(*servers: Cluster | Watched) -> Iterator[None]:
    try:
        yield
    finally:
        for server in servers:
            server.close()


@contextlib.asynccontextmanager
async def watching(cluster: Cluster) -> AsyncIterator[set[bytes]]:
    """The keys that were seen without a time to live, at many moments."""
    bare: set[bytes] = set()

    async def look() -> None:
        while True:
            with contextlib.suppress(OSError):
                bare.update(name for name, life in (await asyncio.to_thread(cluster.keys)).items() if life == -1)
            await asyncio.sleep(0.05)

    looking = asyncio.create_task(look())
    try:
        yield bare
    finally:
        looking.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await looking


@pytest.mark.parametrize("binary", BINARIES.values(), ids=BINARIES)
async def test_slots_move_while_their_sessions_run(binary: str) -> None:
    """Each session's slot goes to another master, with its keys on the way for a while, and so does the one of the
    leases: nothing is lost, nothing is twice."""
    cluster = Cluster(binary)
    with closing(cluster), roles_on(cluster.url) as roles:
        council = council_on(roles)
        pipe = AsyncPipe(cluster.url)
        openings = [opening_of(*MODELS, max_tokens=MOST_TOKENS) for _ in range(4)]
        async with watching(cluster) as bare:
            for opening in openings:
                await open_session(pipe, opening)
            for moved in (*(keys.state(opening.session) for opening in openings), keys.SESSIONS):
                await move(pipe, cluster, moved, openings[-1].session)
            await check(pipe, openings, council)
        await pipe.close()
        assert bare == set()


async def move(pipe: AsyncPipe, cluster: Cluster, key: str, session: str) -> None:
    """The slot of a key goes to the next node, first half of its keys, then the rest; sessions run meanwhile."""
    source = cluster.owner(key)
    target = cluster.nodes[(cluster.nodes.index(source) + 1) % len(cluster.nodes)]
    slot = slot_of(key)
    await after_some_windows(pipe, session)
    cluster.set_out(slot, source, target)
    for name in source.run("CLUSTER", "GETKEYSINSLOT", slot, 3):
        source.run("MIGRATE", "127.0.0.1", target.port, name, 0, 5_000)
    await asyncio.sleep(0.1)
    cluster.move(slot, source, target, ends=False)
    await asyncio.sleep(0.1)
    cluster.move(slot, source, target)


async def after_some_windows(pipe: AsyncPipe, session: str) -> None:
    await until_window(pipe, session, (await find_session(pipe, session)).window + 10)


@pytest.mark.parametrize("fault", ["killed", "paused"])
async def test_a_replica_of_a_cluster_takes_over_from_its_master(fault: str) -> None:
    """The master that every role was told of is killed, or stops until its replica has its slots and wakes up: what it
    then says MOVED to was computed from what it alone had."""
    cluster = Cluster(next(iter(BINARIES.values())), is_doubled=True)
    with closing(cluster), roles_on(cluster.url) as roles:
        council = council_on(roles)
        pipe = AsyncPipe(cluster.url)
        openings = [opening_of(*MODELS, max_tokens=MOST_TOKENS) for _ in range(6)]
        for opening in openings:
            await open_session(pipe, opening)
        await until_window(pipe, openings[-1].session, 60)
        former = cluster.nodes[0]
        if fault == "killed":
            former.kill()
        else:
            former.process.send_signal(signal.SIGSTOP)
        await until_is_master(cluster.replicas[0])
        if fault == "paused":
            former.process.send_signal(signal.SIGCONT)
            await until_is_replica(former)
        last = await opened_when_there(pipe)
        await check(pipe, openings, council, *(["producer died after it began"] if fault == "paused" else []))
        await check(pipe, [last], council)
        assert [name for name, life in cluster.keys().items() if life == -1] == []
        await pipe.close()


async def until_is_master(server: Server) -> None:
    async def is_master() -> bool:
        return server.is_master()

    await until(is_master, "the replica is master")


@pytest.mark.parametrize("binary", BINARIES.values(), ids=BINARIES)
@pytest.mark.parametrize("fault", ["killed", "paused"])
async def test_sentinels_make_the_replica_master(binary: str, fault: str) -> None:
    """The master is killed, or stops for a while and wakes up as a second master: for the eight seconds until its
    Sentinels demote it the roles may go on with it. What they did there never was: a session that ended there has lost
    its producers where it goes on, and says so; text that was begun is never repeated."""
    watched = Watched(binary)
    with closing(watched), roles_on(watched.url) as roles:
        council = council_on(roles)
        pipe = AsyncPipe(watched.url)
        openings = [opening_of(*MODELS, max_tokens=MOST_TOKENS) for _ in range(4)]
        for opening in openings:
            await open_session(pipe, opening)
        await until_window(pipe, openings[-1].session, 60)
        if fault == "killed":
            watched.master.kill()
        else:
            watched.master.process.send_signal(signal.SIGSTOP)
        watched.wait_for_the_replica()
        if fault == "paused":
            watched.master.process.send_signal(signal.SIGCONT)
            await until_is_replica(watched.master)
        last = await opened_when_there(pipe)
        await check(pipe, openings, council, *(["producer died after it began"] if fault == "paused" else []))
        await check(pipe, [last], council)
        names = watched.replica.run("KEYS", "council:*")
        assert [name for name in names if watched.replica.run("TTL", name) == -1] == []
        await pipe.close()


async def until_is_replica(server: Server) -> None:
    async def is_replica() -> bool:
        return not server.is_master()

    await until(is_replica, "the former master is a replica")
