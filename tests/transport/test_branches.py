"""The branches of a session: those that exist, for as long as their parent does."""

from __future__ import annotations

import msgspec

from schemas import keys
from schemas.sessions import Opening, Parent, Replay
from tests.support.redis_servers import RedisServer
from tests.support.sessions import opening_of
from transport.branches import MOST_BRANCHES, add_branch, find_branches
from transport.redis.connection import AsyncPipe
from transport.sessions import cancel_session, delete_session, find_session, open_session, read_opening


def branch_opening(parent: Opening) -> Opening:
    return msgspec.structs.replace(opening_of("m"), prefix="The", parent=Parent(parent.session, 0, "The"))


async def test_a_session_has_the_branches_that_exist(redis: RedisServer, pipe: AsyncPipe) -> None:
    parent = opening_of("m")
    await open_session(pipe, parent)
    assert await find_branches(pipe, parent.session) == []
    branches = [branch_opening(parent) for _ in range(3)]
    for branch in branches:
        await open_session(pipe, branch)
    # One whose process ended before it was opened.
    await add_branch(pipe, parent.session, "neverwas")
    # A branch of a branch is not one of its parent.
    await open_session(pipe, branch_opening(branches[0]))
    # A replay of a recorded branch is not one either.
    replayed = msgspec.structs.replace(branch_opening(parent), replay=Replay("recorded"))
    await open_session(pipe, replayed, "1700000000000-0")
    assert await find_branches(pipe, parent.session) == [branch.session for branch in branches]
    assert len(await find_branches(pipe, branches[0].session)) == 1
    state = await find_session(pipe, branches[2].session)
    assert (await read_opening(pipe, state)).parent == Parent(parent.session, 0, "The")
    redis.run("DEL", *keys.of_session(branches[1].session))
    assert await find_branches(pipe, parent.session) == [branches[0].session, branches[2].session]


async def test_the_list_lives_and_goes_with_its_parent(redis: RedisServer, pipe: AsyncPipe) -> None:
    parent = opening_of("m")
    await open_session(pipe, parent)
    life = redis.run("PTTL", keys.state(parent.session))
    await cancel_session(pipe, parent.session)
    redis.run("HSET", keys.state(parent.session), "status", "ended")
    branch = branch_opening(parent)
    await open_session(pipe, branch)
    assert isinstance(life, int)
    assert 0 < int(redis.run("PTTL", keys.state(parent.session))) <= life  # type: ignore[call-overload]
    await delete_session(pipe, parent.session)
    assert await find_branches(pipe, parent.session) == []
    # A branch of a session that is gone can be opened; nothing of the parent comes back.
    await open_session(pipe, branch_opening(parent))
    assert redis.run("EXISTS", keys.state(parent.session)) == 0
    assert (await find_session(pipe, branch.session)).status == "open"


async def test_openings_that_fail_push_no_branch_out_of_the_list(pipe: AsyncPipe) -> None:
    parent = opening_of("m")
    await open_session(pipe, parent)
    branches = [branch_opening(parent) for _ in range(3)]
    for branch in branches[:2]:
        await open_session(pipe, branch)
    for number in range(MOST_BRANCHES + 9):
        await add_branch(pipe, parent.session, f"failed{number}")
    await open_session(pipe, branches[2])
    assert await find_branches(pipe, parent.session) == [branch.session for branch in branches]


async def test_the_list_has_a_bound_and_each_id_once(pipe: AsyncPipe) -> None:
    """With more branches that exist, the oldest ones are not listed."""
    parent = opening_of("m")
    await open_session(pipe, parent)
    names = [opening_of("m").session for _ in range(MOST_BRANCHES + 1)]
    for name in names:
        await pipe.one("SET", keys.state(name), "open", "EX", 60)
        await add_branch(pipe, parent.session, name)
    await add_branch(pipe, parent.session, names[-1])
    assert await find_branches(pipe, parent.session) == names[1:]
    written = await pipe.one("HGET", keys.state(parent.session), "branches")
    assert len(written.split()) == MOST_BRANCHES
