"""Processes of two versions of the council on one Redis: each leaves the sessions of another version to others."""

from __future__ import annotations

import msgspec
import pytest

from aggregator.tenure import Tenure
from runtime.log import Log, log_to_stderr
from runtime.presence import RedisPresence
from schemas import keys
from schemas.frames import FRAME_VERSION, decode_frame
from schemas.sessions import ENTRY_VERSION
from tests.support.redis_servers import RedisServer
from tests.support.role_processes import Role, Roles
from tests.support.sessions import check_all_finished, committed_frames, opening_of, until_ended
from tests.support.waiting import until, wait_until
from transport import leases
from transport.commit import end_session
from transport.leases import Leases
from transport.redis.connection import AsyncPipe, Pipe
from transport.sessions import find_session, open_session

LEFT = "is left to other"


async def _given_free(pipe: AsyncPipe, group: str) -> list[str]:
    """The sessions whose leases in the group are free for another consumer."""
    free = []
    for entry_id, _, idle_ms, _ in await pipe.one("XPENDING", keys.SESSIONS, group, "-", "+", 10):
        if idle_ms > 3_600_000:
            ((_, fields),) = await pipe.one("XRANGE", keys.SESSIONS, entry_id, entry_id)
            free.append(fields[1].decode())
    return free


async def _is_left(pipe: AsyncPipe, role: Role, group: str, session: str) -> None:
    async def is_free() -> bool:
        return session in await _given_free(pipe, group)

    await until(is_free, "the session is given free")
    wait_until(lambda: LEFT in role.log(), "the role logs that it leaves the session")


async def test_a_session_of_a_later_version_is_left_to_others_and_the_next_one_is_served(
    roles: Roles, pipe: AsyncPipe
) -> None:
    """By the aggregator, a producer and DECIPHER. The session stays open: a process of its version can serve it."""
    later = msgspec.structs.replace(opening_of("ngram:char-6"), version=ENTRY_VERSION + 1)
    await open_session(pipe, later)
    groups = {
        keys.AGGREGATOR_GROUP: roles.ready("aggregator"),
        keys.producer_group("ngram:char-6"): roles.ready("producers", "ngram:char-6", "--tokens-per-s", "200"),
        keys.DECIPHER_GROUP: roles.ready("consumers.decipher"),
    }
    for group, role in groups.items():
        await _is_left(pipe, role, group, later.session)
    opening = opening_of("ngram:char-6", max_tokens=20)
    await open_session(pipe, opening)
    await until_ended(pipe, opening.session)
    await check_all_finished(pipe, opening.session)
    state = await find_session(pipe, later.session)
    assert (state.status, state.progress) == ("open", ())
    assert await pipe.one("XLEN", keys.tokens(later.session)) == 1
    for role in groups.values():
        assert role.log().count(LEFT) == 1
        assert f"A session has version {ENTRY_VERSION + 1}, and this program reads" in role.log()
    # Its keys expire: it is not open for ever.
    (epoch,) = await pipe.one("HMGET", keys.state(later.session), "epoch")
    await pipe.run([end_session(later.session, int(epoch), "the test ends")])


class _Aggregator:
    """The sessions of an aggregator, in the process of the test. `now_s` is the clock of its leases."""

    def __init__(self, redis: RedisServer, log: Log) -> None:
        self.now_s, self.pipe = 0.0, Pipe(redis.url)
        self.leases = Leases(keys.AGGREGATOR_GROUP, "a", clock=lambda: self.now_s)
        self.tenure = Tenure(self.pipe, self.leases, RedisPresence(log), log)
        self.pipe.run(self.leases.create_group())

    def take(self) -> None:
        """Takes new sessions, and those that are free."""
        self.tenure.add_new(self.pipe.run([self.leases.read_new(10)])[0])
        self.tenure.refresh(10)
        self.tenure.own_more()


@pytest.mark.parametrize("what", ["entries", "frames"])
@pytest.mark.parametrize("change", [-1, 1])
async def test_a_session_of_an_earlier_version_is_ended_when_no_other_aggregator_takes_it(
    redis: RedisServer, pipe: AsyncPipe, roles: Roles, what: str, change: int, capsys: pytest.CaptureFixture[str]
) -> None:
    """A later one is left again, however often it comes back."""
    opening = opening_of("a")
    if what == "entries":
        opening = msgspec.structs.replace(opening, version=ENTRY_VERSION + change)
    await open_session(pipe, opening)
    if what == "frames":
        roles.ready("aggregator").end(9)

        async def is_committed() -> bool:
            return (await find_session(pipe, opening.session)).window >= 0

        writer = roles.ready("aggregator")
        await until(is_committed, "a frame is committed")
        writer.end()
        (_, raw), *_ = reversed(await committed_frames(pipe, opening.session))
        window = decode_frame(raw).window_index
        packed = [FRAME_VERSION + change, *msgspec.msgpack.decode(raw)[1:]]
        later = keys.frame_id(window + 1)
        await pipe.one("XADD", keys.frames(opening.session), later, "e", msgspec.msgpack.encode(packed))
    aggregator = _Aggregator(redis, log_to_stderr("aggregator"))
    for _ in range(3):
        aggregator.take()
        assert aggregator.tenure.owned == {}
        assert (await find_session(pipe, opening.session)).status == "open"
        aggregator.take()
        assert aggregator.leases.held == {}
        if change < 0:
            break
        aggregator.now_s += leases._LEFT_S + 1
    assert capsys.readouterr().err.count(LEFT) == 1
    aggregator.now_s += leases._LEFT_S + 1
    aggregator.take()
    state = await find_session(pipe, opening.session)
    if change < 0:
        assert (state.status, state.reason) == (
            "ended", "An earlier version of the council began this session, and none runs: ask again."
        )  # fmt: skip
        assert await pipe.one("XPENDING", keys.SESSIONS, keys.AGGREGATOR_GROUP, "-", "+", 10) == []
    else:
        assert state.status == "open"
        await pipe.run([end_session(opening.session, state.epoch, "the test ends")])
    aggregator.pipe.close()
