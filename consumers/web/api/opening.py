"""Opens sessions over HTTP, live ones and replays, within the limits on new and open sessions."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping, Sequence

from consumers.web.api.replies import Opened
from consumers.web.door.limits import SessionLimit
from schemas.errors import RedisAway, RedisRefuses, Refused
from schemas.processes import ProcessRecord, Role
from schemas.rules.admission import admit
from schemas.rules.served import named_councils, named_members, require_aggregator, served_models
from schemas.rules.tiers import TierPolicy, tier_named
from schemas.sessions import Limits, Opening, SessionRequest
from transport.keeping import ask_to_keep
from transport.redis.connection import AsyncPipe
from transport.register import list_processes
from transport.sessions import new_session_id, open_among, open_session
from transport.status import processes_for

_MISSING = {
    "replay": "No replay process runs: start one with python -m producers.replay.",
    "recorder": "No recorder runs: start one with python -m consumers.recorder.",
}


class Opener:
    """Opens the sessions for all handlers of this process. `tier`, one of `tiers`, and `limits` are the defaults of new
    sessions."""

    def __init__(self, pipe: AsyncPipe, tier: TierPolicy, tiers: Mapping[str, TierPolicy], limits: Limits) -> None:
        self._pipe, self._limit, self._lock = pipe, SessionLimit(), asyncio.Lock()
        self._tier, self._tiers, self._limits = tier, tiers, limits

    async def ask(
        self,
        request: SessionRequest,
        tier_name: str | None,
        *,
        record: bool,
        warnings: Sequence[str] = (),
        usual_tier: str = "",
        given: Collection[str] = (),
        records: Sequence[ProcessRecord] | None = None,
    ) -> Opened:
        """Opens a live session, and asks for its recording where `record` is set. Without a `tier_name` it has the
        `usual_tier`, if this council has that. `warnings` are those of the request itself, `given` the fields that the
        client has sent, `records` what processes_for() has just returned. Raises Refused for a request that is not
        valid, and as open() does; NoAggregator."""
        usual = self._tiers.get(usual_tier, self._tier)
        tier = usual if tier_name is None else tier_named(tier_name, self._tiers)
        session = new_session_id()
        if records is None:
            records = await processes_for(self._pipe, session)
        admission = admit(
            request, session, served_models(records), tier, self._limits, tiers=self._tiers,
            named=named_members(records), councils=named_councils(records), given=given,
        )  # fmt: skip
        require_aggregator(records)
        if record:
            await require_process(self._pipe, "recorder")
        opening = admission.opening
        await self.open(opening)
        recorded = await self._ask_to_keep(session) if record else ()
        return Opened(
            session=session, models=[member.model for member in opening.members], names=list(opening.names),
            warnings=[*warnings, *admission.warnings, *recorded], tier=tier.name,
        )  # fmt: skip

    async def open(self, opening: Opening, opened: str = "*") -> None:
        """Opens the session; `opened` is the id of a replay's opening entry. Raises TooMany, Refused where Redis is
        full, RedisAway, RedisRefuses."""
        # One at a time: two requests at once must not both take the last session that the limit allows.
        async with self._lock:
            self._limit.check(await open_among(self._pipe, self._limit.opened))
            await open_session(self._pipe, opening, opened)
            self._limit.opened.add(opening.session)

    async def _ask_to_keep(self, session: str) -> tuple[str, ...]:
        """Asks for a recording of the session, which is open already; returns a warning if that fails."""
        try:
            await ask_to_keep(self._pipe, session)
        except (RedisAway, RedisRefuses) as error:
            return (f"The session is not recorded: {error}",)
        return ()


async def require_process(pipe: AsyncPipe, role: Role) -> None:
    """Raises Refused if no process of the role is ready; RedisAway."""
    if not any(record.role == role and record.ready for record in await list_processes(pipe)):
        raise Refused(f"no_{role}", _MISSING[role], status=503)
