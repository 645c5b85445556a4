"""The Python API: an ensemble that answers a prompt, frame by frame.

async with TurboEnsemble(tier="mid") as ensemble:
    async for frame in ensemble.generate_ensemble("What is a generator?", ["ngram:word-3", "ngram:char-6"]):
        print(frame.energy, frame.measures.diversity_index, [member.text for member in frame.members])
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

import msgspec

from council.models.catalogue import (
    Catalogue,
    canonical_member,
    canonical_name,
    configured_models,
    find_models,
    require_key,
)
from council.models.membership import council_of, sources_for
from council.recording.keep import record_into
from council.running.keeper import is_ended
from council.running.meeting import private_council, require_council, running_council
from council.running.supervisor import CouncilPlan
from council.settings.schema import Settings, load_settings
from producers.source import ModelSource
from recordings.contents import RecordingSummary
from schemas.errors import CouncilError, NoAggregator, RedisAway, RedisRefuses, Refused, SessionGone, Unavailable
from schemas.frames import Frame, decode_frame
from schemas.models import ModelFacts
from schemas.processes import ProcessRecord
from schemas.rules.admission import admit
from schemas.rules.choice import members_of
from schemas.rules.served import named_members, served_models
from schemas.rules.tiers import TierPolicy, tier_named
from schemas.sessions import MemberSpec, Message, Opening, SessionRequest, Sync, Weighting, limits_with
from transport.frames import read_frames
from transport.redis.connection import AsyncPipe
from transport.register import list_processes
from transport.sessions import cancel_session, find_session, new_session_id, open_session

# Frames come sixty times a second, so this is three hundred of them missing.
NO_AGGREGATOR_S = 5.0
_BLOCK_MS = 250
_RETRY_S = 0.25
_REDIS_PATIENCE_S = 30.0
# A private Redis that died is back within this; its folder is gone when its council has ended.
_ENDED_S = 1.5


class EnsembleSession:
    """One session that is open. `warnings` says in sentences what of the request was left out."""

    def __init__(self, pipe: AsyncPipe, opening: Opening, warnings: tuple[str, ...]) -> None:
        self.opening, self.warnings = opening, warnings
        self._pipe = pipe

    @property
    def session(self) -> str:
        """The session's id."""
        return self.opening.session

    async def frames(self) -> AsyncIterator[Frame]:
        """Every frame from window 0 to the final one, as they are committed.

        Raises NoAggregator where none comes for five seconds, SessionGone where Redis lost the session, RedisAway where
        Redis stays away for half a minute, CouncilError where the session was ended without a last frame.
        """
        after, heard_at = "0", time.monotonic()
        # While Redis is away nobody can close a window: that silence is not the aggregator's.
        silent_from = heard_at
        while True:
            try:
                found = await read_frames(self._pipe, self.session, after, _BLOCK_MS)
                if not found:
                    await self._look_why(time.monotonic() - silent_from)
            except (RedisAway, RedisRefuses):
                # Refused: a Redis that loads its data, or that was made a replica.
                silent_from = time.monotonic()
                if silent_from - heard_at > _ENDED_S and is_ended(self._pipe.url):
                    raise Unavailable("The council has ended.") from None
                if silent_from - heard_at > _REDIS_PATIENCE_S:
                    raise
                await asyncio.sleep(_RETRY_S)
                continue
            for entry_id, raw in found:
                after, heard_at = entry_id, time.monotonic()
                silent_from = heard_at
                frame = decode_frame(raw)
                yield frame
                if frame.final:
                    return

    async def _look_why(self, silent_s: float) -> None:
        """No frame came: raises the reason, if there is one."""
        try:
            state = await find_session(self._pipe, self.session)
        except SessionGone:
            raise SessionGone("Redis has lost this session: it was restarted without its data.") from None
        if state.status != "open" and state.reason and silent_s > 1.0:
            raise CouncilError(state.reason)
        if silent_s > NO_AGGREGATOR_S:
            raise NoAggregator(
                "No aggregator closes this session's windows: start one with `council up` or `python -m aggregator`."
            )

    async def record(self, path: Path, *, text: bool = True, stopping: asyncio.Event | None = None) -> RecordingSummary:
        """Records the session from its beginning to its end, or until `stopping` is set, into the file `path`; its
        summary. Without `text` the file contains numbers alone. Raises Refused where the file exists or cannot be
        made, SessionGone, Unavailable where it cannot be written."""
        return await record_into(self._pipe, self.session, path, text=text, stopping=stopping)

    async def cancel(self, reason: str = "cancelled", members: tuple[int, ...] = ()) -> None:
        """Stops these members, by index, and the others go on; without any: all of them, and the final frame follows. A
        session that is over, or gone, stays as it is."""
        with contextlib.suppress(SessionGone):
            await cancel_session(self._pipe, self.session, reason, members)


class TurboEnsemble:
    """A council of local models.

    `redis_url` names the council's Redis; without it, the council that runs on this machine is used, or else a
    private one is started and ended with this object. `tier` (low, mid, high, hybrid) caps the members of a session;
    without it, the running council's tier counts, or the one that this machine's memory calls for.
    """

    def __init__(
        self, tier: str | None = None, redis_url: str | None = None, *, settings: Settings | None = None
    ) -> None:
        """Raises Refused for a tier that does not exist, or settings that are malformed."""
        self._settings = settings or load_settings(None, {"redis_url": redis_url})
        self._tier = tier_named(tier, self._settings.tiers).name if tier else None
        self._limits = limits_with(self._settings.limits)
        # The models of the private council, with their sources; None while there is none.
        self._private: dict[str, ModelSource] | None = None
        # What there was to choose from when it was started, and what was said of the choice.
        self._found: Catalogue | None = None
        self._left_out: tuple[str, ...] = ()
        self._named: tuple[MemberSpec, ...] = self._settings.member_specs
        self._pipe: AsyncPipe | None = None
        self._stack = contextlib.AsyncExitStack()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    @property
    def is_private(self) -> bool:
        """True while a private council is being started, or runs, for this object."""
        return self._private is not None

    async def close(self) -> None:
        """Ends the private council, if there is one."""
        await self._stack.aclose()
        self._pipe = self._private = self._found = None

    async def generate_ensemble(
        self,
        prompt: str,
        models: Sequence[str | MemberSpec] | str = (),
        *,
        weights: Mapping[str, float] | None = None,
        system: str = "",
        max_tokens: int = 512,
        temperature: float = 0.7,
        seed: int | None = None,
        history: Sequence[Message] = (),
        options: Mapping[str, Mapping[str, float]] | None = None,
        allow_remote: bool = False,
        weighting: Weighting = "fixed",
        sync: Sync = "step",
    ) -> AsyncIterator[Frame]:
        """Opens a session and yields its frames; leaving early cancels it.

        `models` are the members: each a model's name, the name of a member in the settings, or a description such as
        "calm=smollm2:temperature=0" (schemas/rules/members.py). `history` are the turns before the prompt, `options` a
        member's own temperature, seed and max_tokens by its name. With the weighting `certainty` each weight counts
        times its member's certainty. With the sync `step` text comes as far as the slowest member has written, with
        `free` as each writes it. Raises as open() and EnsembleSession.frames() do.
        """
        names = (models,) if isinstance(models, str) else tuple(models)
        own = {model: dict(values) for model, values in (options or {}).items()}
        request = SessionRequest(
            prompt, names, dict(weights or {}), system, max_tokens, temperature, seed, tuple(history), own,
            allow_remote, weighting, sync,
        )  # fmt: skip
        session = await self.open(request)
        final = False
        try:
            async for frame in session.frames():
                final = frame.final
                yield frame
        finally:
            if not final:
                with contextlib.suppress(CouncilError):
                    await session.cancel()

    async def open(self, request: SessionRequest) -> EnsembleSession:
        """Opens a session. Raises Refused (bad request; nothing was started), RedisAway."""
        given = request.models
        request = msgspec.structs.replace(
            request,
            models=tuple(map(canonical_member, given)),
            weights={canonical_name(name): weight for name, weight in request.weights.items()},
            options={canonical_name(name): values for name, values in request.options.items()},
        )
        pipe = await self._meet(request, given)
        records = await list_processes(pipe)
        tiers = _tiers_of(records) or self._settings.tiers
        tier = self._tier_among(tiers, records)
        admission = admit(
            request,
            new_session_id(),
            served_models(records),
            tier,
            self._limits,
            known=self._known(records),
            tiers=tiers,
            named=named_members(records) or self._settings.member_specs,
        )
        await open_session(pipe, admission.opening)
        return EnsembleSession(pipe, admission.opening, (*self._left_out, *admission.warnings))

    async def meet_for_replay(self) -> AsyncPipe:
        """A connection to the council that runs, or to a private one without models. Raises Refused, Unavailable."""
        if self._pipe is not None:
            return self._pipe
        url = self._settings.redis_url or await running_council()
        if self._settings.redis_url:
            await require_council(self._settings.redis_url)
        if url is None:
            self._private = {}
            plan = CouncilPlan({}, self._settings.tier_policy, dict(self._settings.tiers), is_private=True)
            url = await self._stack.enter_async_context(private_council(plan))
        self._pipe = AsyncPipe(url)
        self._stack.push_async_callback(self._pipe.close)
        return self._pipe

    def _known(self, records: Sequence[ProcessRecord]) -> list[ModelFacts]:
        """The models that may be named although nobody serves them yet: none where a whole council runs, which would
        serve them if it did; where roles run alone, one that serves them may be on its way."""
        if self._found:
            return self._found.facts
        if any(record.role == "council" for record in records):
            return []
        return configured_models(self._settings).facts

    def _tier_among(self, tiers: Mapping[str, TierPolicy], records: Sequence[ProcessRecord]) -> TierPolicy:
        """The tier that was asked for, or the running council's, or the one of the settings."""
        running = next((str(record.detail["tier"]) for record in records if record.role == "council"), None)
        name = self._tier or running
        return tier_named(name, tiers) if name else self._settings.tier_policy

    async def _meet(self, request: SessionRequest, given: Sequence[str | MemberSpec]) -> AsyncPipe:
        """The connection to the council that answers; a private one is started for the models that it serves."""
        if self._pipe and (self._private is None or self._serves(request, self._private)):
            return self._pipe
        url = None
        if self._private is None:
            url = self._settings.redis_url or await running_council()
            if self._settings.redis_url:
                await require_council(self._settings.redis_url)
        if url is None:
            url = await self._start_private(request, await find_models(self._settings, given))
        self._pipe = AsyncPipe(url)
        self._stack.push_async_callback(self._pipe.close)
        return self._pipe

    def _serves(self, request: SessionRequest, sources: Mapping[str, ModelSource]) -> bool:
        """True where the private council has each model that is asked for, with a slot for each member."""
        available = {facts.model: facts for facts in self._found.facts} if self._found else {}
        try:
            members = members_of(request.models, available, self._named)
        except Refused:
            return False
        asked = Counter(member.facts.model for member in members)
        return all(
            model in sources and (sources[model].api != "gguf" or sources[model].parallel >= count)
            for model, count in asked.items()
        )

    async def _start_private(self, request: SessionRequest, found: Catalogue) -> str:
        settings = self._settings
        tier = tier_named(self._tier, settings.tiers) if self._tier else settings.tier_policy
        council = council_of(settings, found, tier)
        # What can be refused is refused before anything is started.
        served = [found.offers[model].facts for model in council.models]
        named = self._named = council.members or settings.member_specs
        try:
            opening = admit(
                request, "", served, tier, self._limits, known=found.facts, tiers=settings.tiers, named=named
            ).opening
        except Refused as refusal:
            raise found.explained(refusal) from None
        for source in (found.offers[member.model].source for member in opening.members):
            require_key(source)
        await self._stack.aclose()
        self._found = found
        self._left_out = found.troubles if request.models else council.warnings
        asked = {member.model: found.offers[member.model].source for member in opening.members}
        self._private = sources_for(
            (self._private or {}) | asked, [MemberSpec(member.model, member.name) for member in opening.members]
        )
        plan = CouncilPlan(
            self._private, tier, dict(settings.tiers), settings.limits, None, settings.ngram_tokens_per_s,
            is_private=True, members=council.members,
        )  # fmt: skip
        return await self._stack.enter_async_context(private_council(plan))


def _tiers_of(records: Sequence[ProcessRecord]) -> Mapping[str, TierPolicy] | None:
    """The tiers of the council that runs; None where its roles run alone."""
    for record in records:
        if record.role == "council":
            with contextlib.suppress(msgspec.MsgspecError):
                return msgspec.json.decode(str(record.detail.get("tiers", "")), type=dict[str, TierPolicy])
    return None
