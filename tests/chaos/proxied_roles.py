"""Roles that faults strike: each has a proxy between it and Redis, and may be killed, paused and restarted."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator, Sequence

import msgspec

from schemas.sessions import Opening, Sync
from tests.chaos.observer import Observer, moments_without_ttl
from tests.support.redis_servers import DurableRedis
from tests.support.role_processes import Role
from tests.support.sessions import opening_of
from tests.support.tcp_proxy import Proxy

# The small models answer this with some hundred tokens each, most other questions with twenty.
_QUESTION = "What is a function?"
AGGREGATOR = ("aggregator",)
DECIPHER = ("consumers.decipher",)


def ngram(model: str, tokens_per_s: int) -> tuple[str, ...]:
    """The arguments of a producer of a small model, at this pace."""
    return ("producers", f"ngram:{model}", "--tokens-per-s", str(tokens_per_s))


def long_opening(*models: str, max_tokens: int, sync: Sync = "step") -> Opening:
    """A session of n-gram models that use all their tokens, up to 300."""
    opening = opening_of(*(f"ngram:{model}" for model in models), max_tokens=max_tokens, prompt=_QUESTION)
    return msgspec.structs.replace(opening, sync=sync)


class ProxiedRole:
    """A role behind a proxy. After kill() a new process takes its place with start()."""

    def __init__(self, redis: DurableRedis, arguments: tuple[str, ...]) -> None:
        self.arguments = arguments
        self.proxy = Proxy(redis.socket)
        self.is_paused = False
        self._redis = redis
        self._processes: list[Role] = []
        self.start()

    @property
    def kind(self) -> str:
        return self.arguments[0]

    @property
    def role(self) -> Role:
        """The present process."""
        return self._processes[-1]

    def start(self) -> None:
        self._processes.append(Role(self.proxy.url, *self.arguments))

    def wait_ready(self) -> None:
        self.role.wait_ready(self._redis.url)

    def kill(self) -> None:
        """Sends SIGKILL."""
        self.role.kill()
        self.is_paused = False

    def pause(self) -> None:
        self.role.process.send_signal(signal.SIGSTOP)
        self.is_paused = True

    def resume(self) -> None:
        self.role.process.send_signal(signal.SIGCONT)
        self.is_paused = False

    def log(self) -> str:
        """The standard error of all its processes so far."""
        return "".join(role.log() for role in self._processes)

    def close(self) -> None:
        for role in self._processes:
            role.close()
        self.proxy.close()


class ProxiedRoles:
    """All roles of a council on one Redis, and an observer of that Redis."""

    def __init__(self, redis: DurableRedis, arguments: Sequence[tuple[str, ...]]) -> None:
        self.redis = redis
        self.observer = Observer(redis.url)
        self.all: list[ProxiedRole] = []
        for words in arguments:
            self.add(words)

    def add(self, arguments: tuple[str, ...]) -> ProxiedRole:
        self.all.append(ProxiedRole(self.redis, arguments))
        return self.all[-1]

    def of(self, kind: str) -> list[ProxiedRole]:
        return [role for role in self.all if role.kind == kind]

    def wait_ready(self) -> None:
        for role in self.all:
            role.wait_ready()

    def check(self) -> None:
        """Fails where a role has ended or logged a traceback, or where a key had no time to live at any moment."""
        for role in self.all:
            assert "Traceback" not in role.log(), role.log()
            assert role.role.process.poll() is None, role.log()
        assert self.observer.looks
        found = [sorted(self.observer.keys_without_ttl), *moments_without_ttl(self.redis.append_only_file)[:1]]
        assert found == [[]], f"keys without a time to live: {found}"

    def close(self) -> None:
        for role in self.all:
            role.close()
        self.observer.close()


@contextlib.contextmanager
def proxied_roles_on(redis: DurableRedis, *arguments: tuple[str, ...]) -> Iterator[ProxiedRoles]:
    """A council of these roles, all of them ready."""
    roles = ProxiedRoles(redis, arguments)
    try:
        roles.wait_ready()
        yield roles
    finally:
        roles.close()
