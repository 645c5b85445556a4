"""A private Redis and the council's real processes on it, started as the supervisor starts them, gone at the end."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from types import TracebackType
from typing import Self

from council.running.children import Child
from schemas.models import ModelFacts
from schemas.rules.admission import admit
from schemas.rules.tiers import tier_named
from schemas.sessions import MAX_TOKENS_LIMIT, Limits, Opening, SessionRequest
from transport.redis.connection import AsyncPipe, Pipe, info_fields
from transport.register import ready_pids
from transport.sessions import cancel_session, new_session_id, open_session

_READY_S = 30.0
_END_S = 3.0


class Stage:
    """A context: Redis runs from its beginning to its end. `url` is where; `pipe` a connection of the caller's own."""

    def __enter__(self) -> Self:
        self._roles: dict[str, Child] = {}
        self._keeper = subprocess.Popen(
            [sys.executable, "-m", "council.running.keeper"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        assert self._keeper.stdin is not None
        assert self._keeper.stdout is not None
        self._lifeline = self._keeper.stdin
        line = self._keeper.stdout.readline()
        if not line:
            raise RuntimeError("the private Redis did not start")
        self.url = str(json.loads(line)["url"])
        self.pipe = Pipe(self.url)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.end_roles()
        self.pipe.close()
        self._lifeline.close()
        self._keeper.wait()

    @property
    def redis_pid(self) -> int:
        (info,) = self.pipe.run([("INFO", "server")])
        return int(info_fields(info)["process_id"])

    def start(self, name: str, *arguments: str) -> None:
        """Starts `python -m *arguments` on this Redis."""
        child = Child(name, arguments, {"REDIS_URL": self.url}, lambda sentence: print(sentence, file=sys.stderr))
        child.start()
        self._roles[name] = child

    def wait_until_ready(self) -> None:
        """Returns when every role has said that it is ready. Raises RuntimeError where one does not."""
        deadline = time.monotonic() + _READY_S
        while not set(self.pids.values()) <= ready_pids(self.pipe):
            self.check_roles()
            if time.monotonic() > deadline:
                raise RuntimeError(f"not all of {', '.join(self._roles)} got ready within {_READY_S:g} s")
            time.sleep(0.05)

    def check_roles(self) -> None:
        """Raises RuntimeError where a role has died: what was measured would be worth nothing."""
        dead = [name for name, child in self._roles.items() if not child.is_running]
        if dead:
            raise RuntimeError(f"{', '.join(dead)} died")

    def end_roles(self) -> None:
        """Ends the roles; Redis stays."""
        for child in self._roles.values():
            child.terminate()
        for child in self._roles.values():
            child.wait_or_kill(time.monotonic() + _END_S)
        self._roles.clear()

    @property
    def pids(self) -> dict[str, int]:
        """The process id of each role by its name."""
        return {name: child.pid for name, child in self._roles.items() if child.pid is not None}

    def open_session(self, models: tuple[str, ...]) -> tuple[Opening, str]:
        """A session of the longest answers: its opening and the opening's entry id."""
        request = SessionRequest("How long does it take?", models=models, max_tokens=MAX_TOKENS_LIMIT)
        opening = admit(
            request, new_session_id(), [ModelFacts(model) for model in models], tier_named("high"), Limits()
        ).opening
        return opening, asyncio.run(_with_pipe(self.url, opening))

    def cancel_session(self, session: str) -> None:
        """Asks for the session's final frame."""
        asyncio.run(_cancel(self.url, session))


async def _with_pipe(url: str, opening: Opening) -> str:
    pipe = AsyncPipe(url)
    try:
        return await open_session(pipe, opening)
    finally:
        await pipe.close()


async def _cancel(url: str, session: str) -> None:
    pipe = AsyncPipe(url)
    try:
        await cancel_session(pipe, session)
    finally:
        await pipe.close()
