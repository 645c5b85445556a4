"""A council on a Redis Cluster of three masters: each session is on one of them, and the law holds on all."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator

import msgspec
import pytest
from redis.exceptions import AskError, MovedError

from schemas import keys
from schemas.errors import RedisAway, Refused
from schemas.sessions import Opening, Parent
from tests.support.clusters import Cluster, Server, free_port
from tests.support.council_command import council
from tests.support.redis_servers import redis_binaries
from tests.support.role_processes import roles_on
from tests.support.sessions import check_the_law, opening_of, until_ended
from tests.support.waiting import until
from transport.branches import find_branches
from transport.leases import Leases
from transport.redis import link
from transport.redis.address import Address
from transport.redis.cluster import Dispatch, KeyedCommand, SessionNode, SlotMap, is_moved, key_of, slot_of
from transport.redis.connection import AsyncPipe, Command, Pipe, ReplyError, atomically
from transport.redis.endpoints import Endpoints
from transport.redis.link import LOAD_SCRIPTS
from transport.redis.server_check import check_server
from transport.sessions import find_session, new_session_id, open_session

# One process starts the servers for all of them.
pytestmark = pytest.mark.xdist_group("cluster")


@pytest.fixture(scope="module", params=redis_binaries())
def _cluster(request: pytest.FixtureRequest) -> Iterator[Cluster]:
    found = Cluster(redis_binaries()[request.param])
    yield found
    found.close()


@pytest.fixture
def cluster(_cluster: Cluster) -> Iterator[Cluster]:
    _cluster.empty()
    yield _cluster
    assert [name for name, life in _cluster.keys().items() if life == -1] == []


@pytest.fixture
async def pipe(cluster: Cluster) -> AsyncIterator[AsyncPipe]:
    found = AsyncPipe(cluster.url)
    yield found
    await found.close()


def session_at(cluster: Cluster, node: Server) -> str:
    """A session id whose keys this node serves."""
    while cluster.owner(keys.state(session := new_session_id())) is not node:
        pass
    return session


def opening_at(cluster: Cluster, node: Server, *models: str, max_tokens: int) -> Opening:
    opening = opening_of(*models, max_tokens=max_tokens)
    return msgspec.structs.replace(opening, session=session_at(cluster, node))


async def test_roles_share_the_sessions_of_all_nodes_and_the_law_holds(cluster: Cluster) -> None:
    """Two aggregators, two producers and DECIPHER; a session on each master, and one of `council ask`. All with a
    prefix, so that its keys are sent to their nodes as well."""
    pipe = AsyncPipe(f"{cluster.url}?prefix=team-a")
    models = ("ngram:word-3", "ngram:char-6")
    with roles_on(pipe.url) as roles:
        aggregators = [roles.start("aggregator"), roles.start("aggregator")]
        producers = [roles.start("producers", model, "--tokens-per-s", "60") for model in models]
        for role in (*aggregators, *producers, roles.start("consumers.decipher")):
            role.wait_ready()
        openings = [opening_at(cluster, node, *models, max_tokens=60) for node in cluster.nodes]
        for opening in openings:
            await open_session(pipe, opening)
        asked = council(
            "ask", "What is a list?", "--json", "--max-tokens", "20", url=f"{cluster.nodes[1].url}?prefix=team-a"
        )
        assert asked.code == 0, asked.said
        for opening in openings:
            state = await until_ended(pipe, opening.session)
            assert (state.epoch, state.reason) == (1, "")
            frames = await check_the_law(pipe, opening.session)
            assert {member.state for member in frames[-1].members} == {"finished"}
            await until_composed(pipe, opening.session)
        listed = council("sessions", "--json", url=f"{cluster.nodes[2].url}?prefix=team-a")
        assert {opening.session for opening in openings} < {found["session"] for found in listed.lines[0]}
        assert all(role.end() == 0 for role in aggregators)
        assert not any("Traceback" in role.log() for role in (*aggregators, *producers))
    assert [node.run("KEYS", "council:*") for node in cluster.nodes] == [[], [], []]
    await pipe.close()


async def test_a_branch_may_be_on_another_node_than_its_parent(cluster: Cluster, pipe: AsyncPipe) -> None:
    parent = opening_at(cluster, cluster.nodes[0], "m", max_tokens=8)
    await open_session(pipe, parent)
    branches = [
        msgspec.structs.replace(
            opening_at(cluster, node, "m", max_tokens=8), prefix="So", parent=Parent(parent.session, 0, "So")
        )
        for node in cluster.nodes
    ]
    for branch in branches:
        await open_session(pipe, branch)
    assert await find_branches(pipe, parent.session) == [branch.session for branch in branches]


async def until_composed(pipe: AsyncPipe, session: str) -> None:
    async def is_composed() -> bool:
        state = await find_session(pipe, session)
        return keys.entry_order(state.decipher)[0] == state.window + 1

    await until(is_composed, "DECIPHER composed every frame")


async def test_replies_come_in_the_order_of_their_commands(cluster: Cluster, pipe: AsyncPipe) -> None:
    names = [session_at(cluster, node) for node in (*cluster.nodes, *reversed(cluster.nodes))]
    first = keys.state(names[0])
    asked = [("PING",), *(("GET", keys.state(name)) for name in names)]
    asked += atomically(("GET", first), ("STRLEN", first))
    wanted = [b"PONG", *(name.encode() for name in names), b"OK", b"QUEUED", b"QUEUED", [names[0].encode(), 12]]
    with contextlib.closing(Pipe(cluster.url)) as sync:
        assert sync.run([("SET", keys.state(name), name, "EX", 60) for name in names]) == [b"OK"] * 6
        assert sync.run(asked) == wanted
    assert await pipe.run(asked) == wanted


async def test_callers_that_wait_share_a_round_trip_to_all_nodes(cluster: Cluster, pipe: AsyncPipe) -> None:
    """Each gets its own replies, whole transactions and errors among them; a cancelled caller changes nothing."""
    names = [keys.state(session_at(cluster, cluster.nodes[number % 3])) for number in range(30)]
    await pipe.run([("PING",)])
    calls = [
        asyncio.create_task(
            pipe.run([("LPUSH", name, "x"), *atomically(("SET", f"{name}:k", name, "EX", 60)), ("PING",)])
        )
        for name in names
    ]
    bad = asyncio.create_task(pipe.run([("GET",), ("GET", "a", "b")]))
    await asyncio.sleep(0)
    calls.pop(7).cancel()
    replies = await asyncio.gather(*calls)
    assert replies == [[1, b"OK", b"QUEUED", [b"OK"], b"PONG"]] * 29
    assert all(isinstance(reply, ReplyError) for reply in await bad)
    await pipe.run([("DEL", name) for name in names])
    assert pipe.connections == 1


async def test_the_clock_and_the_memory_of_a_sessions_own_node_are_asked(cluster: Cluster, pipe: AsyncPipe) -> None:
    names = [keys.state(session_at(cluster, node)) for node in cluster.nodes]
    replies = await pipe.run([KeyedCommand(name, ("CONFIG", "GET", "port")) for name in names])
    assert [int(reply[1]) for reply in replies] == [node.port for node in cluster.nodes]
    with contextlib.closing(Pipe(cluster.url)) as sync:
        sync.run([("PING",)])
        assert sync.nodes_of(names) == [("127.0.0.1", node.port) for node in cluster.nodes]


async def test_a_key_that_moved_is_found_and_nothing_is_written_twice(cluster: Cluster, pipe: AsyncPipe) -> None:
    """A slot is moved to another node: during the move (ASK), after it (MOVED), and back. Each XADD adds one entry."""
    source, target = cluster.nodes[:2]
    key = keys.tokens(session_at(cluster, source))
    slot, add = slot_of(key), ("XADD", key, "*", "e", "x")
    with contextlib.closing(Pipe(cluster.url)) as sync:
        sync.run([add, ("EXPIRE", key, 60)])
        await pipe.run([add])
        cluster.move(slot, source, target, ends=False)
        for replies in (sync.run([add, *atomically(add, add)]), await pipe.run([add, *atomically(add, add)])):
            assert not any(isinstance(reply, ReplyError) for reply in replies), replies
        cluster.move(slot, source, target)
        for replies in (sync.run([add, *atomically(add, add)]), await pipe.run([add, *atomically(add, add)])):
            assert not any(isinstance(reply, ReplyError) for reply in replies), replies
        assert sync.run([("XLEN", key)]) == [14]
        cluster.move(slot, target, source)
        assert sync.run([("XLEN", key)]) == [14]


async def test_a_run_that_does_not_follow_gets_an_error_for_a_key_that_has_moved(cluster: Cluster) -> None:
    source, target = cluster.nodes[:2]
    key = keys.tokens(session_at(cluster, source))
    slot, add = slot_of(key), ("XADD", key, "*", "e", "x")
    with contextlib.closing(Pipe(cluster.url)) as sync:
        sync.run([add, ("EXPIRE", key, 60)])
        cluster.move(slot, source, target)
        refused, clock = sync.run([add, ("TIME",)], follows=False)
        assert is_moved(refused)
        assert not is_moved(clock)
        # The next one goes to the node that serves it now.
        (length,) = sync.run([("XLEN", key)], follows=False)
        assert length == 1
        cluster.move(slot, target, source)


async def test_a_key_that_is_being_moved_is_waited_for(cluster: Cluster) -> None:
    """Half of a session's keys are on the new node: a script that needs all is refused, and writes nothing."""
    source, target = cluster.nodes[:2]
    session = session_at(cluster, source)
    first, second = keys.tokens(session), keys.frames(session)
    script = "redis.call('XADD', KEYS[1], '*', 'e', 'x') return redis.call('XADD', KEYS[2], '*', 'e', 'x')"
    command = ("EVAL", script, 2, first, second)
    with contextlib.closing(Pipe(cluster.url)) as sync:
        sync.run([command, ("EXPIRE", first, 60), ("EXPIRE", second, 60)])
        cluster.begin_move(slot_of(first), source, target)
        assert source.run("MIGRATE", "127.0.0.1", target.port, first, 0, 5_000) == b"OK"
        (refused,) = sync.run([command])
        assert isinstance(refused, ReplyError)
        cluster.move(slot_of(first), source, target)
        assert sync.run([("XLEN", first), ("XLEN", second)]) == [1, 1]
        cluster.move(slot_of(first), target, source)


def test_leases_are_read_while_other_nodes_are_asked(cluster: Cluster) -> None:
    """A blocking read waits at one node, and the replies of the other nodes are in their order."""
    leases = Leases(keys.AGGREGATOR_GROUP, "one")
    name = keys.state(session_at(cluster, cluster.nodes[2]))
    with contextlib.closing(Pipe(cluster.url)) as sync:
        sync.run(leases.create_group())
        replies = sync.wait(leases.read_new(1), 20, ("EXISTS", name), leases.look_for_left())
    assert replies == [None, 0, []]


def test_the_address_of_any_node_is_accepted(cluster: Cluster) -> None:
    for node in cluster.nodes:
        check_server(node.url)
    check_server(f"redis://127.0.0.1:{free_port()},127.0.0.1:{cluster.nodes[2].port}/0")
    # Redis: SELECT is not allowed in cluster mode. Valkey 9: DB index is out of range.
    with pytest.raises(Refused, match=r"SELECT|DB index"):
        check_server(cluster.url.replace("/0", "/3"))


KEYS = [
    (("XADD", "a", "*", "e", "x"), "a"),
    (("EVALSHA", "sha", 2, "a", "b", "c"), "a"),
    (("XREADGROUP", "GROUP", "g", "c", "COUNT", 2, "BLOCK", 5, "STREAMS", "a", ">"), "a"),
    (("XREAD", "COUNT", 2, "STREAMS", "a", "0"), "a"),
    (("XGROUP", "CREATE", "a", "g", "0", "MKSTREAM"), "a"),
    (("XINFO", "CONSUMERS", "a", "g"), "a"),
    (("TIME",), None),
    (("INFO", "memory"), None),
    (("SCRIPT", "LOAD", "return 1"), None),
    (KeyedCommand("a", ("INFO", "memory")), "a"),
]


@pytest.mark.parametrize(("command", "key"), KEYS)
def test_the_key_of_a_command_is_found(command: tuple[str | int, ...], key: str | None) -> None:
    assert key_of(command) == key


def test_all_keys_of_a_session_are_in_one_slot_and_a_transaction_goes_to_one_node() -> None:
    assert len({slot_of(key) for key in keys.of_session("abc")}) == 1
    low, high = ("low", 1), ("high", 2)
    slots = SlotMap([[0, 8191, [b"low", 1, b"1"]], [8192, 16383, [b"", 2, b"2"]]], high)
    key = next(key for key in "abcdefgh" if slots.node_of(key) == low)
    other = next(key for key in "abcdefgh" if slots.node_of(key) == high)
    dispatch = Dispatch([*atomically(("SET", key, 1)), ("GET", other), *atomically(("SET", other, 1))])
    assert dispatch.parcels(slots) == {low: [0, 1, 2], high: [3, 4, 5, 6]}


def test_refused_commands_go_to_the_nodes_that_the_refusals_name_before_the_slot_map_has_them() -> None:
    """Two slots have just been moved away from one node; a third is being moved."""
    one, two, three = ("h", 1), ("h", 2), ("h", 3)
    slots = SlotMap([[0, 16383, [b"h", 1, b"1"]]], one)
    dispatch = Dispatch([("GET", "a"), ("GET", "b"), ("GET", "c"), ("GET", "d")])
    assert dispatch.parcels(slots) == {one: [0, 1, 2, 3]}
    moved = [MovedError(f"{slot_of('a')} h:2"), MovedError(f"{slot_of('b')} h:3"), AskError(f"{slot_of('c')} h:2")]
    dispatch.take([0, 1, 2, 3], [*moved, b"D"])
    dispatch.end_round()
    slots.add(dispatch.moves)
    assert dispatch.parcels(slots) == {two: [0, -1, 2], three: [1]}
    dispatch.take([0, -1, 2], [b"A", b"OK", b"C"])
    dispatch.take([1], [b"B"])
    dispatch.end_round()
    assert (dispatch.has_left, dispatch.replies) == (False, [b"A", b"B", b"C", b"D"])
    # A slot that is being moved is looked for at its old node the next time.
    assert slots.find("c") == one


def test_a_url_names_some_nodes_of_a_cluster_and_one_that_runs_is_enough(cluster: Cluster) -> None:
    dead, live = f"127.0.0.1:{free_port()}", f"127.0.0.1:{cluster.nodes[2].port}"
    with contextlib.closing(Pipe(f"redis://{dead},{live}/0")) as sync:
        with pytest.raises(RedisAway):
            sync.run([("PING",)])
        assert sync.run([("PING",)]) == [b"PONG"]
    with contextlib.closing(Pipe(f"redis://{live},{dead}")) as sync:
        assert sync.run([("PING",)]) == [b"PONG"]


def test_a_url_that_is_not_valid_for_sentinels_or_nodes_is_refused() -> None:
    for url in (
        "redis://h:1,h:x",
        "redis://h,/0",
        "redis+sentinel://h:1/",
        "redis+sentinel://h:x/s",
        "redis+sentinel:///s",
        "redis+sentinel://h/s/x",
    ):
        with pytest.raises(Refused, match="redis\\+sentinel://HOST:PORT"):
            Address(url)
    address = Address("redis+sentinel://me:pw@one:1,[::2]:2,three/council/4?sentinel_password=x")
    assert (address.sentinels, address.service) == ((("one", 1), ("::2", 2), ("three", 26379)), "council")


def test_a_session_node_changes_when_another_node_serves_the_session_and_not_while_none_is_known() -> None:
    node, one, two = SessionNode(), ("h", 1), ("h", 2)
    assert [node.has_changed(found) for found in (None, one, one, None, one, two, two, None, one)] == [
        False, False, False, False, False, True, False, False, True,
    ]  # fmt: skip


def test_a_new_pipe_begins_with_the_node_that_worked_last() -> None:
    """Where the URL's own server is gone, a task that makes a new pipe after each failure would never reach another."""
    url, node = "redis://gone.example:1/0", ("node.example", 2)
    first = Endpoints(url)
    first.learn([[[0, 16_383, [b"node.example", 2, b"id"]]], b"id"], node)
    assert [first.next(), first.next()] == [None, node]
    assert first.is_cluster([*(b"" for _ in LOAD_SCRIPTS), [b"mode", b"cluster", b"role", b"master"]])
    assert first.next() == node
    second = Endpoints(url)
    assert [second.next(), second.next(), second.next()] == [node, None, node]


async def test_a_node_that_has_closed_its_idle_connections_costs_no_request(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each node in turn; those of the others stay open."""
    monkeypatch.setattr(link, "_CHECKED_AFTER_S", 0.0)
    pipe, thread = AsyncPipe(cluster.url), Pipe(cluster.url)
    names = [keys.state(session_at(cluster, node)) for node in cluster.nodes]
    reads: list[Command] = [("GET", name) for name in names]
    assert await pipe.run(reads) == thread.run(reads) == [None] * 3
    for node in cluster.nodes:
        node.run("CLIENT", "KILL", "TYPE", "normal")
        assert await pipe.run(reads) == thread.run(reads) == [None] * 3
    await pipe.close()
    thread.close()


async def test_a_cluster_with_one_master_away_is_logged_once() -> None:
    """The other masters go on serving their slots. Each role tries again all the time, at the master that is away too,
    and logs that once, however many of its commands succeed meanwhile."""
    found = Cluster(next(iter(redis_binaries().values())))
    with contextlib.closing(found), roles_on(found.url) as roles:
        for node in found.nodes:
            node.run("CONFIG", "SET", "cluster-require-full-coverage", "no")
        needed = [found.owner(keys.SESSIONS), found.owner(keys.PROCESSES)]
        lost = next(node for node in found.nodes if node not in needed)
        started = (("aggregator",), ("consumers.decipher",), ("producers", "ngram:char-6", "--tokens-per-s", "40"))
        council = [roles.ready(*part) for part in started]
        pipe = AsyncPipe(found.url)
        # A session on each of two nodes.
        for node in (lost, needed[0]):
            opening = opening_of("ngram:char-6", max_tokens=300)
            opening = msgspec.structs.replace(opening, session=session_at(found, node))
            await open_session(pipe, opening)

            async def has_begun(session: str = opening.session) -> bool:
                return (await find_session(pipe, session)).window > 5

            await until(has_begun, "its windows are committed")
        await pipe.close()
        lost.kill()

        async def all_have_noticed() -> bool:
            return all("Redis is away" in role.log() for role in council)

        await until(all_have_noticed, "every role has noticed")
        # Longer than the time without a loss after which a role would log that Redis is back.
        await asyncio.sleep(4.0)
        for role in council:
            assert role.log().count("Redis is") == 1, role.log()
