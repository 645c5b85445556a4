"""The models over HTTP: which are served, which are in memory, and orders to load or unload one."""

from __future__ import annotations

from collections.abc import Sequence

from aiohttp import web

from consumers.web.api.operations import Operation
from consumers.web.api.replies import LastFailure, LoadOrder, ModelList, OwnMember, ShownCouncil, ShownModel
from consumers.web.door.errors import model_response
from schemas.errors import Refused
from schemas.events import protocol_model_ids
from schemas.models import ModelFacts
from schemas.processes import ProcessRecord
from schemas.rules.councils import names_of
from schemas.rules.served import Failure, last_failures, named_councils, named_members, served_models
from schemas.rules.tiers import TierPolicy
from transport.redis.connection import AsyncPipe
from transport.register import list_processes
from transport.residency import Action, keys_in_use, order, read_uses


class ModelsApi:
    """The handlers. A model is addressed by its name, percent-encoded, or by its `id`."""

    def __init__(self, pipe: AsyncPipe, tier: TierPolicy) -> None:
        self._pipe, self._tier = pipe, tier

    def operations(self) -> list[Operation]:
        return [
            Operation(
                "GET", "/api/models", self._list, "list_models", "Models", "List the models",
                "The models that are served, in order of preference, the members of the council's settings, and the "
                "limits of its tier.", ModelList,
            ),
            Operation(
                "POST", "/api/models/{model:.+}/load", self._load, "load_model", "Models", "Load a model into memory",
                "The model's producer follows the order within two seconds; the list of models shows the result.",
                LoadOrder, (404, 409), status=202,
            ),
            Operation(
                "POST", "/api/models/{model:.+}/unload", self._unload, "unload_model", "Models",
                "Unload a model from memory",
                "The model's producer follows the order within two seconds. A model that is answering is refused.",
                LoadOrder, (404, 409), status=202,
            ),
        ]  # fmt: skip

    async def _list(self, request: web.Request) -> web.Response:
        records = await list_processes(self._pipe)
        served, failures = _by_id(records), last_failures(records)
        in_use = keys_in_use(await self._pipe.run(read_uses()))
        return model_response(
            ModelList(
                members=[
                    OwnMember(
                        name=spec.display_name,
                        model=spec.model,
                        temperature=spec.temperature,
                        seed=spec.seed,
                        max_tokens=spec.max_tokens,
                        system=spec.system,
                    )
                    for spec in named_members(records)
                ],
                councils=[
                    ShownCouncil(name=council.name, members=names_of(council), weights=council.weights)
                    for council in named_councils(records)
                ],
                models=[
                    _shown(model_id, facts, failures.get(facts.model), in_use=facts.memory_key in in_use)
                    for model_id, facts in served.items()
                ],
                tier=self._tier.name,
                max_parallel_models=self._tier.max_parallel_models,
                max_loaded_models=self._tier.max_loaded_models,
                target_fps=self._tier.target_fps,
            )
        )

    async def _load(self, request: web.Request) -> web.Response:
        return await self._order(request, "load")

    async def _unload(self, request: web.Request) -> web.Response:
        return await self._order(request, "unload")

    async def _order(self, request: web.Request, action: Action) -> web.Response:
        """Sends the order to the model's producer, which follows it within two seconds; GET /api/models shows it."""
        named = request.match_info["model"]
        served = await self._served()
        facts = next((facts for model_id, facts in served.items() if named in (facts.model, model_id)), None)
        if facts is None:
            offered = ", ".join(facts.model for facts in served.values()) or "none"
            raise Refused("unknown_model", f"{named!r} is not a model of this council; models: {offered}.", status=404)
        if facts.residency == "unmanaged":
            raise Refused(
                "not_loadable", f"The council cannot load or unload {facts.model!r}: its server decides.",
                status=409,
            )  # fmt: skip
        if action == "unload" and facts.memory_key in keys_in_use(await self._pipe.run(read_uses())):
            raise Refused("model_in_use", f"{facts.model!r} is answering: unload it when it is idle.", status=409)
        await order(self._pipe, facts.model, action)
        return model_response(LoadOrder(model=facts.model, residency=facts.residency, ordered=action), status=202)

    async def _served(self) -> dict[str, ModelFacts]:
        """The served models by their ids."""
        return _by_id(await list_processes(self._pipe))


def _by_id(records: Sequence[ProcessRecord]) -> dict[str, ModelFacts]:
    served = served_models(records)
    return dict(zip(protocol_model_ids(tuple(facts.model for facts in served)), served, strict=True))


def _shown(model_id: str, facts: ModelFacts, failure: Failure | None, *, in_use: bool) -> ShownModel:
    """A model for the response; unknown values are null."""
    return ShownModel(
        model=facts.model,
        id=model_id,
        server=facts.server,
        size_bytes=facts.size_bytes or None,
        remote=facts.remote,
        max_loaded=facts.max_loaded,
        slots=facts.slots,
        pauses=facts.pauses,
        residency=facts.residency,
        trouble=facts.trouble or None,
        model_there=facts.model_there,
        held_by=facts.held_by,
        in_use=in_use,
        continues=facts.continues,
        last_failure=LastFailure(reason=failure.reason, failed_ms=failure.failed_ms) if failure else None,
    )
