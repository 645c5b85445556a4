"""Connections cut between a command and its execution, and between its execution and its reply."""

from __future__ import annotations

from collections.abc import Callable

from schemas import keys
from tests.chaos.events import check_finished_with_events
from tests.chaos.proxied_roles import (
    AGGREGATOR,
    DECIPHER,
    ProxiedRole,
    ProxiedRoles,
    long_opening,
    ngram,
    proxied_roles_on,
)
from tests.support.redis_servers import DurableRedis
from tests.support.sessions import check_all_finished, until_ended
from tests.support.tcp_proxy import (
    Kind,
    Words,
    is_commit,
    is_events_write,
    is_session_read,
    is_token_read,
    is_token_write,
)
from tests.support.waiting import until, wait_until
from transport.redis.connection import AsyncPipe
from transport.sessions import SessionState, find_session, open_session

# Each role, and a command that it sends.
_COMMANDS: tuple[tuple[str, Callable[[Words], bool]], ...] = (
    ("aggregator", is_commit),
    ("aggregator", is_token_read),
    ("producers", is_token_write),
    ("consumers.decipher", is_events_write),
)


async def _goes_on(pipe: AsyncPipe, session: str) -> None:
    """Waits until the session is some windows and tokens past those that were on their way when a connection broke."""

    async def reach(window: int, seqs: list[int]) -> SessionState:
        async def is_there() -> SessionState | None:
            state = await find_session(pipe, session)
            assert state.status == "open"
            found = [member.next_seq for member in state.progress]
            is_past = state.window >= window and all(a > b for a, b in zip(found, seqs, strict=False))
            return state if found and is_past else None

        return await until(is_there, f"the session reaches window {window} and tokens {seqs}")

    now = await reach(0, [0, 0])
    await reach(now.window + 5, [member.next_seq + 4 for member in now.progress])


async def test_a_lost_reply_or_a_lost_command_costs_nothing(durable: DurableRedis, direct: AsyncPipe) -> None:
    """Of commits, reads, token writes and events, in turn: one that Redis never received, and one whose reply is lost.

    The role cannot tell which of the two it was. Every token is in one frame, every frame is composed once.
    """
    council = (AGGREGATOR, ngram("char-6", 40), ngram("char-8", 40), DECIPHER)
    with proxied_roles_on(durable, *council) as roles:
        opening = long_opening("char-6", "char-8", max_tokens=200)
        await open_session(direct, opening)
        for kind in (Kind.CUT_BEFORE, Kind.CUT_AFTER):
            for name, matches in _COMMANDS:
                await _goes_on(direct, opening.session)
                _strike(roles, name, kind, matches)
        await check_finished_with_events(direct, opening.session)
        # After each break of its connection the aggregator drops its state and takes the session again.
        assert (await find_session(direct, opening.session)).epoch == 5
        roles.check()


def _strike(roles: ProxiedRoles, name: str, kind: Kind, matches: Callable[[Words], bool]) -> None:
    faults = [role.proxy.strike(kind, matches) for role in roles.of(name)]
    wait_until(lambda: all(fault.commands for fault in faults), f"{kind} strikes every {name}")


async def test_a_lease_whose_reply_was_lost_is_taken_over(durable: DurableRedis, direct: AsyncPipe) -> None:
    """XREADGROUP ... a session is opened ... the reply is lost: Redis has a lease that no process knows of.

    The aggregator and the producer both lose the reply; both find the session when its lease is three seconds old.
    """
    with proxied_roles_on(durable, AGGREGATOR, ngram("char-6", 100)) as roles:
        struck = [(role, role.proxy.strike(Kind.HOLD, is_session_read)) for role in roles.all]
        wait_until(lambda: all(fault.commands for _, fault in struck), "both have sent XREADGROUP")
        opening = long_opening("char-6", max_tokens=50)
        await open_session(direct, opening)
        for _, fault in struck:
            fault.release(Kind.CUT_AFTER)
        wait_until(lambda: all(fault.replies for _, fault in struck), "both leases are lost")
        assert all(opening.session.encode() in fault.replies[0] for _, fault in struck)
        await until_ended(direct, opening.session)
        await check_all_finished(direct, opening.session)
        roles.check()


async def test_two_owners_never_both_commit(durable: DurableRedis, direct: AsyncPipe) -> None:
    """Two aggregators; the connection of each breaks after every third commit of its own, six times."""
    with proxied_roles_on(durable, AGGREGATOR, AGGREGATOR, ngram("char-6", 60)) as roles:
        opening = long_opening("char-6", max_tokens=120)
        for role in roles.of("aggregator"):
            _cut_every_third_commit(role)
        await open_session(direct, opening)
        await until_ended(direct, opening.session)
        await check_all_finished(direct, opening.session)
        assert (await find_session(direct, opening.session)).epoch > 3
        assert (await direct.one("XPENDING", keys.SESSIONS, keys.AGGREGATOR_GROUP))[0] == 0
        roles.check()


def _cut_every_third_commit(role: ProxiedRole) -> None:
    count = 0

    def is_third(words: Words) -> bool:
        nonlocal count
        count += is_commit(words)
        return is_commit(words) and count % 3 == 0

    role.proxy.strike(Kind.CUT_AFTER, is_third, times=6)
