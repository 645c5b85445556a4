"""Finds the council that answers: the one that a user names, the one that runs here, or a private one."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Mapping, Sequence

import msgspec

from council.models.catalogue import Catalogue, configured_models, find_models, require_key
from council.models.membership import council_of, sources_for
from council.running.meeting import private_council, require_council, running_council
from council.running.supervisor import CouncilPlan
from council.settings.schema import Settings
from producers.source import ModelSource
from schemas.errors import Refused
from schemas.models import ModelFacts
from schemas.processes import ProcessRecord
from schemas.rules.admission import admit
from schemas.rules.choice import members_of
from schemas.rules.limits import limits_with
from schemas.rules.served import served_models
from schemas.rules.tiers import TierPolicy, tier_named
from schemas.sessions import MemberSpec, SessionRequest
from transport.redis.connection import AsyncPipe
from transport.register import list_processes


class CouncilConnection:
    """The connection of one TurboEnsemble to its council. It is made when it is first needed; a private council is
    started with the models that the first request needs, and ended by close()."""

    def __init__(self, settings: Settings, tier: str | None) -> None:
        self._settings, self._tier = settings, tier
        self._limits = limits_with(settings.limits)
        # The models of the private council, with their sources; None while there is none.
        self._private: dict[str, ModelSource] | None = None
        # What it was chosen from, and a sentence for each model that was left out.
        self._found: Catalogue | None = None
        self.left_out: tuple[str, ...] = ()
        self._named: tuple[MemberSpec, ...] = settings.member_specs
        self._pipe: AsyncPipe | None = None
        self._stack = contextlib.AsyncExitStack()

    @property
    def is_private(self) -> bool:
        """True while a private council starts or runs."""
        return self._private is not None

    async def close(self) -> None:
        """Ends the private council, if there is one."""
        await self._stack.aclose()
        self._pipe = self._private = self._found = None

    async def for_request(
        self, request: SessionRequest, given: Sequence[str | MemberSpec], *, may_leave_out: bool
    ) -> AsyncPipe:
        """The connection to the council that answers. A private one is started again where it lacks a model."""
        if self._pipe and (self._private is None or self._serves(request, self._private)):
            return self._pipe
        url = await self._running_url() if self._private is None else None
        if url is None:
            found = await find_models(self._settings, given)
            url = await self._start_private(request, found, may_leave_out=may_leave_out)
        return self._connect(url)

    async def for_replay(self) -> AsyncPipe:
        """A connection to the council that runs, or to a private one without models. Raises Refused, Unavailable."""
        if self._pipe is not None:
            return self._pipe
        url = await self._running_url()
        if url is None:
            self._private = {}
            plan = CouncilPlan({}, self._settings.tier_policy, self._settings.tier_policies, is_private=True)
            url = await self._stack.enter_async_context(private_council(plan))
        return self._connect(url)

    async def running(self) -> AsyncPipe:
        """The connection to the council that runs. Raises Refused where none runs."""
        if self._pipe is None:
            self._connect(await require_council(self._settings.redis_url))
        assert self._pipe is not None
        return self._pipe

    async def usable_models(self) -> list[str]:
        """The names of the models that a session may have: of the council that runs, or of a private one."""
        if self._pipe is None and (url := await self._running_url()):
            self._connect(url)
        if self._pipe is None:
            return list((await find_models(self._settings)).offers)
        records = await list_processes(self._pipe)
        return [facts.model for facts in (*served_models(records), *self.known_models(records))]

    def known_models(self, records: Sequence[ProcessRecord]) -> list[ModelFacts]:
        """The models that a request may name although no process serves them. None where a whole council runs; where
        roles run alone, a producer for them may start later."""
        if self._found:
            return self._found.facts
        if any(record.role == "council" for record in records):
            return []
        return configured_models(self._settings).facts

    def tier_among(self, tiers: Mapping[str, TierPolicy], records: Sequence[ProcessRecord], usual: str) -> TierPolicy:
        """This object's tier, else the usual one, else the running council's, else that of the settings."""
        running = (str(record.detail.get("tier", "")) for record in records if record.role == "council")
        # Another client may have written any record.
        name = self._tier or next((tier for tier in (usual, *running) if tier in tiers), None)
        return tier_named(name, tiers) if name else self._settings.tier_policy

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

    async def _start_private(self, request: SessionRequest, found: Catalogue, *, may_leave_out: bool) -> str:
        settings = self._settings
        tier = tier_named(self._tier, settings.tier_policies) if self._tier else settings.tier_policy
        council = council_of(settings, found, tier)
        # All refusals come before anything is started.
        served = [found.offers[model].facts for model in council.models]
        named = self._named = council.members or settings.member_specs
        try:
            opening = admit(
                request, "", served, tier, self._limits, known=found.facts, tiers=settings.tier_policies, named=named,
                may_leave_out=may_leave_out,
            ).opening  # fmt: skip
        except Refused as refusal:
            raise found.explained(refusal) from None
        for source in (found.offers[member.model].source for member in opening.members):
            require_key(source)
        await self._stack.aclose()
        self._found = found
        self.left_out = found.troubles if request.models else council.warnings
        asked = {member.model: found.offers[member.model].source for member in opening.members}
        self._private = sources_for(
            (self._private or {}) | asked, [MemberSpec(member.model, member.name) for member in opening.members]
        )
        plan = CouncilPlan(
            self._private, tier, settings.tier_policies, settings.limits, None, settings.ngram_tokens_per_s,
            is_private=True, members=council.members, councils=council.councils,
        )  # fmt: skip
        return await self._stack.enter_async_context(private_council(plan))


def tiers_of(records: Sequence[ProcessRecord]) -> Mapping[str, TierPolicy] | None:
    """The tiers of the running council; None where roles run alone."""
    for record in records:
        if record.role == "council":
            with contextlib.suppress(msgspec.MsgspecError):
                return msgspec.json.decode(str(record.detail.get("tiers", "")), type=dict[str, TierPolicy])
    return None
