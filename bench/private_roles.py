"""A private Redis with the council's real processes on it, started as the supervisor starts them."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from contextlib import ExitStack
from types import TracebackType
from typing import Self

from bench.members import PROMPT
from bench.module_process import module_process
from bench.waiting import wait_until
from council.running.children import Child
from schemas import keys
from schemas.models import ModelFacts
from schemas.rules.admission import admit
from schemas.rules.tiers import tier_named
from schemas.sessions import MAX_TOKENS_LIMIT, Limits, Opening, SessionRequest
from transport.redis.connection import AsyncPipe, Pipe, info_fields
from transport.register import ready_pids
from transport.sessions import cancel_session, new_session_id, open_session

_READY_S = 30.0
_END_S = 3.0


class PrivateRoles:
    """A context: everything that it started has ended at its end. `pipe` is a connection for the caller."""

    def __enter__(self) -> Self:
        self._roles: dict[str, Child] = {}
        with ExitStack() as stack:
            keeper = stack.enter_context(module_process("council.running.keeper"))
            self.url = str(json.loads(keeper.line())["url"])
            # The keeper removes its folder when its standard input ends.
            stack.callback(keeper.end)
            self.pipe = Pipe(self.url)
            stack.callback(self.pipe.close)
            stack.callback(self.end)
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    @property
    def redis_pid(self) -> int:
        (info,) = self.pipe.run([("INFO", "server")])
        return int(info_fields(info)["process_id"])

    def start(self, name: str, *arguments: str) -> None:
        """Starts `python -m ARGUMENTS` on this Redis."""
        child = Child(name, arguments, {"REDIS_URL": self.url}, lambda sentence: print(sentence, file=sys.stderr))
        child.start()
        self._roles[name] = child

    def wait_until_ready(self) -> None:
        """Returns when every role has marked its process record as ready. Raises RuntimeError where one does not."""

        def all_are_ready() -> bool:
            self.check()
            return set(self.pids.values()) <= ready_pids(self.pipe)

        wait_until(all_are_ready, f"{', '.join(self._roles)} are ready", _READY_S)

    def check(self) -> None:
        """Raises RuntimeError where a role has died: then the measurement is not valid."""
        dead = [name for name, child in self._roles.items() if not child.is_running]
        if dead:
            raise RuntimeError(f"{', '.join(dead)} died")

    def end(self) -> None:
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
        """A session whose answers may have the most tokens: its opening and the opening's entry id."""
        return self.open_requested(SessionRequest(PROMPT, models=models, max_tokens=MAX_TOKENS_LIMIT))

    def open_requested(self, request: SessionRequest) -> tuple[Opening, str]:
        """The session that is requested: its opening and the opening's entry id."""
        models = [model if isinstance(model, str) else model.model for model in request.models]
        served = [ModelFacts(model, continues="yes") for model in dict.fromkeys(models)]
        opening = admit(request, new_session_id(), served, tier_named("high"), Limits()).opening
        return opening, asyncio.run(_open(self.url, opening))

    def cancel_session(self, session: str) -> None:
        """Asks for the session's final frame."""
        asyncio.run(_cancel(self.url, session))

    def count_entries(self, session: str) -> int:
        """The entries of the session's token stream."""
        (length,) = self.pipe.run([("XLEN", keys.tokens(session))])
        return int(length)


async def _open(url: str, opening: Opening) -> str:
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
