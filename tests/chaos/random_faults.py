"""Random faults from a seed, one after the other, on a council with open sessions.

The seed alone chooses the faults. Their time, and what the struck process does at that time, depend on the machine, so
the same seed repeats the same faults, though not to the millisecond.
"""

from __future__ import annotations

import random
import signal
import time
from collections.abc import Callable

from tests.chaos.proxied_roles import ProxiedRole, ProxiedRoles
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

# The bound on a takeover: three seconds of silence, a check each second, and the work itself.
MOST_TAKEOVER_S = 5.0
# Longer than a lease lasts, which is 3 s.
_PAUSE_S = 3.5
# An aggregator without a session never commits: after this time it is struck wherever it is.
_MOST_WAIT_S = 0.5
# A commit that is on its way when a fault strikes may still arrive for this long.
_ON_ITS_WAY_S = 0.1
_MOST_LOST_BYTES = 60_000

# Where an aggregator is when it is killed or paused, and what happens to its command that is on its way then.
_POINTS: dict[str, tuple[Callable[[Words], bool], Kind]] = {
    "before its read": (is_token_read, Kind.CUT_BEFORE),
    "between read and step": (is_token_read, Kind.CUT_AFTER),
    "between step and commit": (is_commit, Kind.CUT_BEFORE),
    "with a commit that arrives later": (is_commit, Kind.HOLD),
    "between commit and reply": (is_commit, Kind.CUT_AFTER),
}
_CUTS: dict[str, tuple[Callable[[Words], bool], ...]] = {
    "aggregator": (is_commit, is_token_read, is_session_read),
    "producers": (is_token_write, is_session_read),
    "consumers.decipher": (is_events_write,),
}


class RandomFaults:
    """Strikes a council. `takeovers_s`: for how long sessions stood still after each fault of an aggregator."""

    def __init__(self, roles: ProxiedRoles, seed: int) -> None:
        self.takeovers_s: list[float] = []
        self.random = random.Random(seed)
        # Redis never loses what its file contains before this byte: the openings of sessions that a client knows.
        self.first_byte = 0
        self._roles = roles

    async def strike(self) -> None:
        """One fault, to its end: a killed process is restarted, a paused one resumes."""
        faults = {
            self._strike_an_aggregator: 4,
            self._strike_a_producer: 2,
            self._strike_decipher: 1,
            self._cut: 3,
            self._strike_redis: 2,
        }
        # A role that starts while Redis does not answer ends; a supervisor would start it again.
        self._roles.wait_ready()
        (fault,) = self.random.choices(list(faults), list(faults.values()))
        await fault()

    def _print(self, what: str) -> None:
        print(f"  {time.strftime('%H:%M:%S')} {what}", flush=True)

    async def _strike_an_aggregator(self) -> None:
        role = self.random.choice(self._roles.of("aggregator"))
        point, number = self.random.choice(list(_POINTS)), self.random.choice([signal.SIGKILL, signal.SIGSTOP])
        self._print(f"{number.name} of an aggregator {point}")
        matches, then = _POINTS[point]
        fault = role.proxy.strike(Kind.HOLD, matches)
        waited_until = time.monotonic() + _MOST_WAIT_S
        await until(_is_true(lambda: fault.commands or time.monotonic() > waited_until), "a point is reached")
        struck_at = time.monotonic()
        if number is signal.SIGKILL:
            role.kill()
        else:
            role.pause()
        fault.left = 0
        fault.release(then)
        if number is signal.SIGKILL:
            role.start()
        await self._wait_for_progress(struck_at)
        if number is signal.SIGSTOP:
            # In any case until its lease has expired, so that it resumes as a former owner.
            await until(_is_true(lambda: time.monotonic() > struck_at + _PAUSE_S), "its lease has expired")
            role.resume()

    async def _wait_for_progress(self, struck_at: float) -> None:
        """Every open session has a new window since then; fails where that took longer than a takeover may take."""
        observer = self._roles.observer

        def all_advance() -> bool:
            moved = [observer.progress(name).moved_at for name in observer.open_sessions()]
            return all(moved_at > struck_at + _ON_ITS_WAY_S for moved_at in moved)

        await until(_is_true(all_advance), "every session has a new window")
        took_s = time.monotonic() - struck_at
        self.takeovers_s.append(took_s)
        assert took_s < MOST_TAKEOVER_S, f"a session stood still for {took_s:.2f} s"

    async def _strike_a_producer(self) -> None:
        role = self.random.choice(self._roles.of("producers"))
        if self.random.random() < 0.5:
            self._print(f"SIGKILL of {role.arguments[1]}")
            role.kill()
            role.start()
        else:
            self._print(f"SIGSTOP of {role.arguments[1]}")
            await self._pause(role)

    async def _strike_decipher(self) -> None:
        role = self.random.choice(self._roles.of("consumers.decipher"))
        if self.random.random() < 0.7:
            self._print("SIGKILL of a DECIPHER")
            role.kill()
            role.start()
        else:
            self._print("SIGSTOP of a DECIPHER")
            await self._pause(role)

    async def _pause(self, role: ProxiedRole) -> None:
        role.pause()
        paused_until = time.monotonic() + _PAUSE_S
        await until(_is_true(lambda: time.monotonic() > paused_until), "its leases have expired")
        role.resume()

    async def _cut(self) -> None:
        """Cuts some connections of one role, one after the other, each at a command of one kind."""
        role = self.random.choice(self._roles.all)
        matches, kind = self.random.choice(_CUTS[role.kind]), self.random.choice([Kind.CUT_BEFORE, Kind.CUT_AFTER])
        times = self.random.randint(1, 4)
        self._print(f"{kind.name} of {role.kind} at {matches.__name__}, {times} times")
        fault = role.proxy.strike(kind, matches, times)
        waited_until = time.monotonic() + times * _MOST_WAIT_S
        await until(_is_true(lambda: not fault.left or time.monotonic() > waited_until), "connections are cut")
        fault.left = 0

    async def _strike_redis(self) -> None:
        redis = self._roles.redis
        what = self.random.choice(["restart", "roll back", "stall", "cut"])
        self._print(f"Redis: {what}")
        if what == "restart":
            redis.restart()
        elif what == "roll back":
            size = redis.append_only_file.stat().st_size
            redis.roll_back(max(self.first_byte, size - self.random.randint(1, _MOST_LOST_BYTES)))
        elif what == "stall":
            redis.process.send_signal(signal.SIGSTOP)
            stalled_until = time.monotonic() + self.random.uniform(0.5, 4.0)
            wait_until(lambda: time.monotonic() > stalled_until, "Redis was stopped for some time")
            redis.process.send_signal(signal.SIGCONT)
        else:
            for role in self._roles.all:
                role.proxy.cut_all()


def _is_true(condition: Callable[[], object]) -> Callable[[], object]:
    async def holds() -> bool:
        return bool(condition())

    return holds
