"""Random faults from a seed, one after the other, on a council with sessions under way.

What is chosen follows from the seed alone; when it strikes, and whom it finds at work, is the machine's doing. So the
same seed is the same storm, though not to the millisecond.
"""

from __future__ import annotations

import random
import signal
import time
from collections.abc import Callable

from tests.chaos.seats import Seat, Seats
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

# The bound on a takeover: three silent seconds, a look each second, and the work itself.
MOST_TAKEOVER_S = 5.0
# Past the lease, which is 3 s.
_PAUSE_S = 3.5
# Whoever has no session never commits: then it is struck wherever it is.
_PATIENCE_S = 0.5
# What may be under way when a fault strikes, and arrive after it.
_UNDER_WAY_S = 0.1
_MOST_LOST_BYTES = 60_000

# Where an aggregator is when it is killed or paused, and what becomes of the command that is on its way then.
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


class Storm:
    """Strikes a council. `takeovers_s` are the times that sessions stood still after a fault of an aggregator."""

    def __init__(self, seats: Seats, seed: int) -> None:
        self.takeovers_s: list[float] = []
        self.random = random.Random(seed)
        # Nothing before this byte of Redis's file is ever lost: openings that somebody has been told of.
        self.first_byte = 0
        self._seats = seats

    async def strike(self) -> None:
        """One fault, to its end: what was killed runs again, what was paused goes on."""
        faults = {
            self._strike_an_aggregator: 4,
            self._strike_a_producer: 2,
            self._strike_decipher: 1,
            self._cut: 3,
            self._strike_redis: 2,
        }
        # Whoever is only just starting refuses a Redis that does not answer: a supervisor would try it again.
        self._seats.wait_ready()
        (fault,) = self.random.choices(list(faults), list(faults.values()))
        await fault()

    def _say(self, what: str) -> None:
        print(f"  {time.strftime('%H:%M:%S')} {what}", flush=True)

    async def _strike_an_aggregator(self) -> None:
        seat = self.random.choice(self._seats.of("aggregator"))
        point, number = self.random.choice(list(_POINTS)), self.random.choice([signal.SIGKILL, signal.SIGSTOP])
        self._say(f"{number.name} of an aggregator {point}")
        matches, then = _POINTS[point]
        fault = seat.proxy.strike(Kind.HOLD, matches)
        waited_until = time.monotonic() + _PATIENCE_S
        await until(_is_true(lambda: fault.commands or time.monotonic() > waited_until), "a point is reached")
        struck_at = time.monotonic()
        if number is signal.SIGKILL:
            seat.kill()
        else:
            seat.pause()
        fault.left = 0
        fault.release(then)
        if number is signal.SIGKILL:
            seat.start()
        await self._see_them_move(struck_at)
        if number is signal.SIGSTOP:
            # Past the lease in any case, so that it wakes up as a former owner.
            await until(_is_true(lambda: time.monotonic() > struck_at + _PAUSE_S), "its lease has run out")
            seat.go_on()

    async def _see_them_move(self, struck_at: float) -> None:
        """Every session that is open has a new window since; that took less than a takeover may take."""
        witness = self._seats.witness

        def all_move() -> bool:
            return all(witness.seen(name).moved_at > struck_at + _UNDER_WAY_S for name in witness.open_sessions())

        await until(_is_true(all_move), "every session goes on")
        took_s = time.monotonic() - struck_at
        self.takeovers_s.append(took_s)
        assert took_s < MOST_TAKEOVER_S, f"a session stood still for {took_s:.2f} s"

    async def _strike_a_producer(self) -> None:
        seat = self.random.choice(self._seats.of("producers"))
        if self.random.random() < 0.5:
            self._say(f"SIGKILL of {seat.arguments[1]}")
            seat.kill()
            seat.start()
        else:
            self._say(f"SIGSTOP of {seat.arguments[1]}")
            await self._pause(seat)

    async def _strike_decipher(self) -> None:
        seat = self.random.choice(self._seats.of("consumers.decipher"))
        if self.random.random() < 0.7:
            self._say("SIGKILL of a DECIPHER")
            seat.kill()
            seat.start()
        else:
            self._say("SIGSTOP of a DECIPHER")
            await self._pause(seat)

    async def _pause(self, seat: Seat) -> None:
        seat.pause()
        paused_until = time.monotonic() + _PAUSE_S
        await until(_is_true(lambda: time.monotonic() > paused_until), "its leases have run out")
        seat.go_on()

    async def _cut(self) -> None:
        """Some connections of one role, one after the other, each at a command of one kind."""
        seat = self.random.choice(self._seats.all)
        matches, kind = self.random.choice(_CUTS[seat.kind]), self.random.choice([Kind.CUT_BEFORE, Kind.CUT_AFTER])
        times = self.random.randint(1, 4)
        self._say(f"{kind.name} of {seat.kind} at {matches.__name__}, {times} times")
        fault = seat.proxy.strike(kind, matches, times)
        waited_until = time.monotonic() + times * _PATIENCE_S
        await until(_is_true(lambda: not fault.left or time.monotonic() > waited_until), "connections are cut")
        fault.left = 0

    async def _strike_redis(self) -> None:
        redis = self._seats.redis
        what = self.random.choice(["restart", "roll back", "stall", "cut"])
        self._say(f"Redis: {what}")
        if what == "restart":
            redis.restart()
        elif what == "roll back":
            redis.roll_back(
                max(self.first_byte, redis.append_only_file.stat().st_size - self.random.randint(1, _MOST_LOST_BYTES))
            )
        elif what == "stall":
            redis.process.send_signal(signal.SIGSTOP)
            stalled_until = time.monotonic() + self.random.uniform(0.5, 4.0)
            wait_until(lambda: time.monotonic() > stalled_until, "Redis was away for a while")
            redis.process.send_signal(signal.SIGCONT)
        else:
            for seat in self._seats.all:
                seat.proxy.cut_all()


def _is_true(condition: Callable[[], object]) -> Callable[[], object]:
    async def holds() -> bool:
        return bool(condition())

    return holds
