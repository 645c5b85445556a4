"""A model that is ready to answer: its backend, the queue before it, and its residency."""

from __future__ import annotations

import contextlib
import time
from collections.abc import AsyncIterator, Callable

import msgspec

from producers.backend import Backend
from producers.member.generations import Generations
from producers.memory.keeper import ModelKeeper
from producers.memory.loading import Sign
from producers.servers.faults import one_line
from producers.source import ModelSource
from runtime.log import Log
from schemas.grid import NS_PER_MS
from schemas.models import IN_PROCESS, ModelFacts
from schemas.rules.tiers import TierPolicy
from transport.redis.connection import AsyncPipe
from transport.register import ProcessRegistration

# A server's words have 200 at most; its name and its address come before them.
MAX_FAILURE_CHARS = 600


class ServedModel:
    """`backend` has started. `keeper` is None where the council does not decide when the model is loaded."""

    def __init__(
        self,
        pipe: AsyncPipe,
        model: str,
        source: ModelSource,
        backend: Backend,
        registration: ProcessRegistration,
        tier: TierPolicy,
        log: Log,
    ) -> None:
        self.generations = Generations(backend)
        self._failure: tuple[str, int] | None = None
        self.keeper: ModelKeeper | None = None

        def known() -> ModelFacts:
            return known_facts(model, source, backend, registration.name)

        registration.detail |= known().as_detail()
        if backend.residence is not None:
            self.keeper = ModelKeeper(pipe, backend.residence, registration, known, tier, log)

    def failed(self, reason: str) -> None:
        """Keeps the reason of an answer that failed, for the process record."""
        self._failure = one_line(reason, MAX_FAILURE_CHARS), time.time_ns() // NS_PER_MS

    @property
    def last_failure(self) -> dict[str, str | int]:
        """The part of the process record about it; empty before the first failure."""
        if self._failure is None:
            return {}
        return {"failure": self._failure[0], "failed_ms": self._failure[1]}

    @property
    def is_ready(self) -> bool:
        """True where a request now would find the model loaded, as far as is known, and a free slot."""
        return self.generations.has_room and (self.keeper is None or self.keeper.is_seen)

    @contextlib.asynccontextmanager
    async def in_use(self, user: str) -> AsyncIterator[None]:
        """While it lasts, the model is not evicted."""
        if self.keeper is None:
            yield
        else:
            async with self.keeper.in_use(user):
                yield

    async def ensure_loaded(self, show: Callable[[Sign], object]) -> None:
        """Returns when the model is in memory. Raises OutOfMemory, BackendFailed."""
        if self.keeper is not None:
            await self.keeper.ensure_loaded(show)


def known_facts(model: str, source: ModelSource, backend: Backend, process: str) -> ModelFacts:
    """What the record of `process` contains of the model, with the council's name of it."""
    facts = backend.facts
    return msgspec.structs.replace(
        facts,
        model=model,
        model_there=facts.model_there or facts.model,
        remote=facts.remote or source.remote,
        slots=backend.slots,
        pauses=backend.pauses,
        residency="unmanaged" if backend.residence is None else "absent",
        held_by=process if backend.residence is not None and facts.server == IN_PROCESS else "",
    )
