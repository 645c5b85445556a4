"""Failovers in clusters and behind Sentinels while sessions run: COUNCIL_CHAOS=long only, because each takes seconds.

A failover loses the last writes to the old server. The new one has the state of a moment earlier: frames are computed
again, the missing tokens are written again, and the law holds.
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
# Eight seconds of text: a failover ends before the session does.
MOST_TOKENS = 400
BINARIES = redis_binaries()


def council_on(roles: Roles) -> list[Role]:
    """Two aggregators, two producers and DECIPHER, ready."""
    found = [roles.start("aggregator"), roles.start("aggregator"), roles.start("consumers.decipher")]
    found += [roles.start("producers", model, "--tokens-per-s", "50") for model in MODELS]
    return [role.wait_ready() for role in found]


async def opened_when_there(pipe: AsyncPipe) -> Opening:
    """A short session, opened as soon as Redis takes it. Where the reply is lost, another one is opened."""

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
    """Every session ends, the law holds for it, and its events are composed; every role runs and has logged no
    traceback. Members that did not finish have one of these `losses` as their reason."""
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
    """The keys that have no time to live at one of many moments."""
    found: set[bytes] = set()

    async def look() -> None:
        while True:
            with contextlib.suppress(OSError):
                found.update(name for name, life in (await asyncio.to_thread(cluster.keys)).items() if life == -1)
            await asyncio.sleep(0.05)

    looking = asyncio.create_task(look())
    try:
        yield found
    finally:
        looking.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await looking


@pytest.mark.parametrize("binary", BINARIES.values(), ids=BINARIES)
async def test_slots_move_while_their_sessions_run(binary: str) -> None:
    """The slot of each session and that of the leases move to another master, in steps: no entry is lost, and none is
    there twice."""
    cluster = Cluster(binary)
    with closing(cluster), roles_on(cluster.url) as roles:
        council = council_on(roles)
        pipe = AsyncPipe(cluster.url)
        openings = [opening_of(*MODELS, max_tokens=MOST_TOKENS, temperature=0.0) for _ in range(4)]
        async with watching(cluster) as without_ttl:
            for opening in openings:
                await open_session(pipe, opening)
            for moved in (*(keys.state(opening.session) for opening in openings), keys.SESSIONS):
                await move(pipe, cluster, moved, openings[-1].session)
            await check(pipe, openings, council)
        await pipe.close()
        assert without_ttl == set()


async def move(pipe: AsyncPipe, cluster: Cluster, key: str, session: str) -> None:
    """Moves the slot of a key to the next node while sessions run: first some of its keys, then all, then the slot.

    After each of the first two steps it waits until the source has redirected a client (ASK, or TRYAGAIN for a script
    whose keys are on both nodes).
    """
    source = cluster.owner(key)
    target = cluster.nodes[(cluster.nodes.index(source) + 1) % len(cluster.nodes)]
    slot = slot_of(key)
    await after_some_windows(pipe, session)
    redirects = source.redirects()
    cluster.begin_move(slot, source, target)
    for name in source.run("CLUSTER", "GETKEYSINSLOT", slot, 3):
        source.run("MIGRATE", "127.0.0.1", target.port, name, 0, 5_000)
    redirects = await redirected(source, redirects)
    cluster.move(slot, source, target, ends=False)
    await redirected(source, redirects)
    cluster.move(slot, source, target)


async def redirected(node: Server, before: int) -> int:
    """Waits until the node has redirected clients more often than `before`; how often it has."""

    async def has_redirected() -> int:
        return count if (count := node.redirects()) > before else 0

    return await until(has_redirected, "a client is redirected")


async def after_some_windows(pipe: AsyncPipe, session: str) -> None:
    await until_window(pipe, session, (await find_session(pipe, session)).window + 10)


@pytest.mark.parametrize("fault", ["killed", "paused"])
async def test_a_replica_of_a_cluster_takes_over_from_its_master(fault: str) -> None:
    """The master in every role's URL is killed, or is stopped until its replica has its slots. After that it replies
    MOVED, to commands that were computed from entries that only it had."""
    cluster = Cluster(next(iter(BINARIES.values())), is_doubled=True)
    with closing(cluster), roles_on(cluster.url) as roles:
        council = council_on(roles)
        pipe = AsyncPipe(cluster.url)
        openings = [opening_of(*MODELS, max_tokens=MOST_TOKENS, temperature=0.0) for _ in range(6)]
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
    """The master is killed, or stopped for a while and resumed as a second master: for the eight seconds until its
    Sentinels demote it the roles may use it. Their writes there are lost: a session that ended there has no producers
    on the new master, and ends with that reason; text that had begun is never repeated."""
    watched = Watched(binary)
    with closing(watched), roles_on(watched.url) as roles:
        council = council_on(roles)
        pipe = AsyncPipe(watched.url)
        openings = [opening_of(*MODELS, max_tokens=MOST_TOKENS, temperature=0.0) for _ in range(4)]
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
