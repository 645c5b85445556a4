"""The Python API: an ensemble that answers a prompt, frame by frame.

async with TurboEnsemble(tier="mid") as ensemble:
    async for frame in ensemble.generate_ensemble("What is a generator?", ["ngram:word-3", "ngram:char-6"]):
        print(frame.energy, frame.measures.diversity_index, [member.text for member in frame.members])
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self, Unpack

import msgspec

from consumers.web.api.members import member_index
from council.ensemble_session import EnsembleSession, find_answers
from council.models.catalogue import (
    Catalogue,
    canonical_request,
    configured_models,
    find_models,
    require_key,
)
from council.models.membership import council_of, sources_for
from council.running.meeting import private_council, require_council, running_council
from council.running.supervisor import CouncilPlan
from council.settings.schema import Settings, load_settings
from producers.source import ModelSource
from recordings.answers import read_answers
from recordings.contents import SUFFIX
from schemas.errors import CouncilError, Refused
from schemas.frames import Frame
from schemas.models import ModelFacts
from schemas.processes import ProcessRecord
from schemas.rules.admission import Admission, admit
from schemas.rules.choice import members_of
from schemas.rules.councils import with_named_council
from schemas.rules.limits import limits_with
from schemas.rules.served import named_councils, named_members, require_aggregator, served_models
from schemas.rules.tiers import TierPolicy, tier_named
from schemas.rules.what_if import Change, RequestChanges, branch_of, request_of
from schemas.sessions import MemberSpec, Message, SessionRequest, Sync, Weighting
from transport.redis.connection import AsyncPipe
from transport.register import list_processes
from transport.sessions import new_session_id, open_session
from transport.status import processes_for


class TurboEnsemble:
    """A council of local models.

    `redis_url` is the council's Redis. Without it the council that runs on this machine is used; where none runs, a
    private one is started, and ended with this object. `tier` (low, mid, high, hybrid) limits the members of a session;
    without it the running council's tier is used, or the one for this machine's memory.
    """

    def __init__(
        self, tier: str | None = None, redis_url: str | None = None, *, settings: Settings | None = None
    ) -> None:
        """Raises Refused for an unknown tier, or invalid settings."""
        self._settings = settings or load_settings(None, {"redis_url": redis_url})
        self._tier = tier_named(tier, self._settings.tier_policies).name if tier else None
        self._limits = limits_with(self._settings.limits)
        # The models of the private council, with their sources; None while there is none.
        self._private: dict[str, ModelSource] | None = None
        # What it was chosen from, and a sentence for each model that was left out.
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
        """True while a private council of this object starts or runs."""
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
        """Opens a session and yields its frames; a caller that stops early cancels the session.

        `models` are the members: each a model's name, the name of a member in the settings, or a description
        such as "calm=smollm2:temperature=0" (schemas/rules/members.py); or the name of a council in the settings,
        whose values count where an argument has its default. `history` are the turns before the
        prompt, `options` each member's own temperature, seed and max_tokens, by its name. With the weighting
        `certainty` each weight is multiplied by its member's certainty. With the sync `step` text is released
        as far as the slowest member has written, with `free` as it arrives; with `consensus` the members write
        one answer, frame.consensus.agreed. Raises as open() and EnsembleSession.frames() do; after SetBack the
        session is cancelled, as after any error. A caller that wants to go on uses open() and
        EnsembleSession.frames().
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

    async def what_if(
        self,
        session: str | Path,
        say: str,
        *,
        at: int | None = None,
        word: int | None = None,
        member: str | int | None = None,
        **changes: Unpack[RequestChanges],
    ) -> EnsembleSession:
        """Opens a branch of a session: its members continue an answer of it up to a place, and then `say`.

        `session` is the id of one that the running council has, open or ended, or the path of a recording: a Path, or
        a text that ends with .mcap. The place is the byte `at` of the answer of `member` (index or name; by default the
        first member whose answer has that place), or its word number `word`, from 1. The branch has the prompt, members
        and options of its parent but for the `changes`; where these name no models, members whose model is not served
        here are left out. Raises Refused, and as open() does; SessionGone, Malformed for a damaged recording.
        """
        path = _recording(session)
        if path is None:
            answers = await find_answers(await self._at_running_council(), str(session))
        else:
            answers = await asyncio.to_thread(read_answers, path)
        index = None if member is None else member_index(str(member), answers.opening)
        branch = branch_of(answers, Change(say, at, word, index))
        request, warnings = request_of(answers.opening, branch, await self._usable_models(), changes)
        # A recording may be of a machine with more memory.
        is_own = path is None and answers.opening.replay is None
        pipe, admission = await self._opened(request, answers.opening.tier if is_own else "")
        return EnsembleSession(pipe, admission.opening, (*warnings, *admission.warnings), self, answers)

    async def open(self, request: SessionRequest, given: Collection[str] = ()) -> EnsembleSession:
        """Opens a session. Values of the fields `given` outweigh those of a named council also where they are the
        defaults. Raises Refused for an invalid request, before anything is started, and where Redis is full;
        NoAggregator, RedisAway, RedisRefuses."""
        pipe, admission = await self._opened(request, given=given)
        return EnsembleSession(pipe, admission.opening, admission.warnings, self)

    async def _opened(
        self, request: SessionRequest, usual_tier: str = "", given: Collection[str] = ()
    ) -> tuple[AsyncPipe, Admission]:
        """(the connection to the council that answers, what was admitted and opened there). `usual_tier` is used where
        the council has it and this object has none."""
        own = with_named_council(request, self._settings.named_councils, given)
        pipe = await self._connected(canonical_request(own), request.models)
        session = new_session_id()
        records = await processes_for(pipe, session)
        tiers = _tiers_of(records) or self._settings.tier_policies
        tier = self._tier_among(tiers, records, usual_tier)
        councils = named_councils(records)
        admission = admit(
            canonical_request(request if councils else own), session, served_models(records), tier, self._limits,
            known=self._known(records), tiers=tiers, named=named_members(records) or self._settings.member_specs,
            councils=councils, given=given,
        )  # fmt: skip
        require_aggregator(records)
        await open_session(pipe, admission.opening)
        return pipe, Admission(admission.opening, (*self._left_out, *admission.warnings))

    async def meet_for_replay(self) -> AsyncPipe:
        """A connection to the council that runs, or to a private one without models. Raises Refused, Unavailable."""
        if self._pipe is not None:
            return self._pipe
        url = await self._running_url()
        if url is None:
            self._private = {}
            plan = CouncilPlan({}, self._settings.tier_policy, self._settings.tier_policies, is_private=True)
            url = await self._stack.enter_async_context(private_council(plan))
        return self._connect(url)

    async def _at_running_council(self) -> AsyncPipe:
        """The connection to the council that runs. Raises Refused where none runs."""
        if self._pipe is None:
            self._connect(await require_council(self._settings.redis_url))
        assert self._pipe is not None
        return self._pipe

    async def _usable_models(self) -> list[str]:
        """The names of the models that a session may have: of the council that runs, or of a private one."""
        if self._pipe is None and (url := await self._running_url()):
            self._connect(url)
        if self._pipe is None:
            return list((await find_models(self._settings)).offers)
        records = await list_processes(self._pipe)
        return [facts.model for facts in (*served_models(records), *self._known(records))]

    def _known(self, records: Sequence[ProcessRecord]) -> list[ModelFacts]:
        """The models that a request may name although no process serves them. None where a whole council runs; where
        roles run alone, a producer for them may start later."""
        if self._found:
            return self._found.facts
        if any(record.role == "council" for record in records):
            return []
        return configured_models(self._settings).facts

    def _tier_among(self, tiers: Mapping[str, TierPolicy], records: Sequence[ProcessRecord], usual: str) -> TierPolicy:
        """This object's tier, else the usual one, else the running council's, else that of the settings."""
        running = (str(record.detail.get("tier", "")) for record in records if record.role == "council")
        # Another client may have written any record.
        name = self._tier or next((tier for tier in (usual, *running) if tier in tiers), None)
        return tier_named(name, tiers) if name else self._settings.tier_policy

    async def _connected(self, request: SessionRequest, given: Sequence[str | MemberSpec]) -> AsyncPipe:
        """The connection to the council that answers. A private one is started again where it lacks a model."""
        if self._pipe and (self._private is None or self._serves(request, self._private)):
            return self._pipe
        url = await self._running_url() if self._private is None else None
        return self._connect(url or await self._start_private(request, await find_models(self._settings, given)))

    async def _running_url(self) -> str | None:
        """The Redis of the council that the settings name or that runs here; None where there is none."""
        if self._settings.redis_url:
            return await require_council(self._settings.redis_url)
        return await running_council()

    def _connect(self, url: str) -> AsyncPipe:
        self._pipe = AsyncPipe(url)
        self._stack.push_async_callback(self._pipe.close)
        return self._pipe

    def _serves(self, request: SessionRequest, sources: Mapping[str, ModelSource]) -> bool:
        """True where the private council has each model of the request, with a slot for each member."""
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
        tier = tier_named(self._tier, settings.tier_policies) if self._tier else settings.tier_policy
        council = council_of(settings, found, tier)
        # All refusals come before anything is started.
        served = [found.offers[model].facts for model in council.models]
        named = self._named = council.members or settings.member_specs
        try:
            opening = admit(
                request, "", served, tier, self._limits, known=found.facts, tiers=settings.tier_policies, named=named
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
            self._private, tier, settings.tier_policies, settings.limits, None, settings.ngram_tokens_per_s,
            is_private=True, members=council.members, councils=council.councils,
        )  # fmt: skip
        return await self._stack.enter_async_context(private_council(plan))


def _tiers_of(records: Sequence[ProcessRecord]) -> Mapping[str, TierPolicy] | None:
    """The tiers of the running council; None where roles run alone."""
    for record in records:
        if record.role == "council":
            with contextlib.suppress(msgspec.MsgspecError):
                return msgspec.json.decode(str(record.detail.get("tiers", "")), type=dict[str, TierPolicy])
    return None


def _recording(session: str | Path) -> Path | None:
    """The path of a recording; None for the id of a session, which does not end like a recording."""
    return Path(session) if isinstance(session, Path) or session.endswith(SUFFIX) else None
