"""A council whose members may be struck: each role has a seat of its own, with a proxy between it and Redis."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator, Sequence

import msgspec

from schemas.sessions import Opening, Sync
from tests.chaos.witness import Witness, bare_moments
from tests.support.redis_servers import DurableRedis
from tests.support.role_processes import Role
from tests.support.sessions import opening_of
from tests.support.tcp_proxy import Proxy

# To this the small models have much to say: some hundred tokens each, where other questions get twenty.
_QUESTION = "What is a function?"
AGGREGATOR = ("aggregator",)
DECIPHER = ("consumers.decipher",)


def ngram(model: str, tokens_per_s: int) -> tuple[str, ...]:
    """A producer of a small model, at this pace."""
    return ("producers", f"ngram:{model}", "--tokens-per-s", str(tokens_per_s))


def long_opening(*models: str, max_tokens: int, sync: Sync = "step") -> Opening:
    """A session of n-gram models that use all their tokens, up to 300."""
    opening = opening_of(*(f"ngram:{model}" for model in models), max_tokens=max_tokens, prompt=_QUESTION)
    return msgspec.structs.replace(opening, sync=sync)


class Seat:
    """A role that is started again whenever it was killed."""

    def __init__(self, redis: DurableRedis, arguments: tuple[str, ...]) -> None:
        self.arguments = arguments
        self.proxy = Proxy(redis.socket)
        self.is_paused = False
        self._redis = redis
        self._roles: list[Role] = []
        self.start()

    @property
    def kind(self) -> str:
        return self.arguments[0]

    @property
    def role(self) -> Role:
        """The process that sits here now."""
        return self._roles[-1]

    def start(self) -> None:
        self._roles.append(Role(self.proxy.url, *self.arguments))

    def wait_ready(self) -> None:
        self.role.wait_ready(self._redis.url)

    def kill(self) -> None:
        """SIGKILL; nobody sits here until start()."""
        self.role.kill()
        self.is_paused = False

    def pause(self) -> None:
        self.role.process.send_signal(signal.SIGSTOP)
        self.is_paused = True

    def go_on(self) -> None:
        self.role.process.send_signal(signal.SIGCONT)
        self.is_paused = False

    def log(self) -> str:
        """The logs of every process that sat here."""
        return "".join(role.log() for role in self._roles)

    def close(self) -> None:
        for role in self._roles:
            role.close()
        self.proxy.close()


class Seats:
    """All of them, on one Redis, and the witness."""

    def __init__(self, redis: DurableRedis, arguments: Sequence[tuple[str, ...]]) -> None:
        self.redis = redis
        self.witness = Witness(redis.url)
        self.all: list[Seat] = []
        for words in arguments:
            self.add(words)

    def add(self, arguments: tuple[str, ...]) -> Seat:
        self.all.append(Seat(self.redis, arguments))
        return self.all[-1]

    def of(self, kind: str) -> list[Seat]:
        return [seat for seat in self.all if seat.kind == kind]

    def wait_ready(self) -> None:
        for seat in self.all:
            seat.wait_ready()

    def check(self) -> None:
        """No role broke, and no key was ever without a time to live."""
        for seat in self.all:
            assert "Traceback" not in seat.log(), seat.log()
            assert seat.role.process.poll() is None, seat.log()
        assert self.witness.looks
        bare = [sorted(self.witness.keys_without_life), *bare_moments(self.redis.append_only_file)[:1]]
        assert bare == [[]], f"keys without a time to live: {bare}"

    def close(self) -> None:
        for seat in self.all:
            seat.close()
        self.witness.close()


@contextlib.contextmanager
def seats_on(redis: DurableRedis, *arguments: tuple[str, ...]) -> Iterator[Seats]:
    """A council in which everybody is ready."""
    seats = Seats(redis, arguments)
    try:
        seats.wait_ready()
        yield seats
    finally:
        seats.close()
