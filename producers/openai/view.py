"""What an OpenAI-compatible server reports: its models, how many requests it serves at once, what is loaded.

    GET /v1/models          all of them: names; llama-server and vLLM report more
    GET /props              llama-server: slots
    GET /api/v1/models      LM Studio since 0.4: sizes, what is loaded, slots
    GET /api/v0/models      LM Studio before: what is loaded

Bodies in, a View out. Pure: no clock, no I/O.
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from producers.openai.councils import OWNER
from producers.servers.faults import one_line
from producers.servers.reading import at, decoded, entries, number, text, texts
from producers.servers.thinking import template_thinks
from producers.source import ModelSource
from schemas.models import ModelFacts, Residency

# vLLM batches hundreds of requests and a service thousands, LM Studio four; a council has a few sessions at once. More
# requests would wait inside the server, where their wait cannot be seen.
DEFAULT_SLOTS = 4
# As many names as a reader can take in at a glance.
_NAMED = 5

Kind = Literal["llama-server", "lm-studio", "vllm", "ollama", "council", "other"]


class DescribedModel(msgspec.Struct, frozen=True):
    """A model as its server describes it; what it does not report has its default. `slots` 0: not reported. A proxy may
    list models of a council (`is_council`) among others."""

    name: str
    other_names: tuple[str, ...] = ()
    size_bytes: int = 0
    residency: Residency = "unmanaged"
    slots: int = 0
    capabilities: tuple[str, ...] = ()
    details: tuple[str, ...] = ()
    is_council: bool = False

    def is_called(self, name: str) -> bool:
        """True for each of its names; Ollama's may go without their usual tag."""
        return name in (self.name, *self.other_names) or f"{name}:latest" == self.name


class View(msgspec.Struct, frozen=True):
    """What a server reports. `models` is None where it has no list."""

    kind: Kind = "other"
    models: tuple[DescribedModel, ...] | None = None
    slots: int = DEFAULT_SLOTS
    # Of a model that it does not list.
    residency: Residency = "unmanaged"
    # Its chat template opens the thinking.
    begins_thinking: bool = False
    # The address of its API; empty where its list does not show that.
    root: str = ""
    # Why there is no list, as a predicate.
    no_list: str = ""

    @property
    def max_loaded(self) -> int:
        """How many models it keeps at once, 0 where it does not report it. LM Studio keeps the models that its user
        loaded, and one that it loaded for a request."""
        if self.kind != "lm-studio":
            return 0
        return max(1, sum(model.residency == "loaded" for model in self._writers()))

    def model_called(self, name: str) -> DescribedModel | None:
        """The model with this name. A llama-server of one model accepts any name."""
        models = self.models or ()
        found = next((model for model in models if model.is_called(name)), None)
        if found is None and self.kind == "llama-server" and len(models) == 1:
            return models[0]
        return found

    def is_council(self, name: str) -> bool:
        """True where a council answers for this model."""
        model = self.model_called(name)
        return self.kind == "council" or (model is not None and model.is_council)

    def lacks(self, name: str) -> str:
        """That the server does not list this name, as a predicate; empty where it does."""
        if self.models is None or self.model_called(name):
            return ""
        names = [one_line(model.name, 60) for model in self._writers()]
        more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
        listed = f"it lists {', '.join(names[:_NAMED])}{more}" if names else "its list is empty"
        return f"does not list the model {name!r}: {listed}"

    def facts_of(self, source: ModelSource, server: str) -> ModelFacts:
        """What is known of the model that the source names."""
        model = self.model_called(source.name) or DescribedModel(source.name)
        return ModelFacts(
            source.name,
            server,
            size_bytes=model.size_bytes,
            remote=source.remote,
            max_loaded=source.max_loaded or self.max_loaded,
            slots=source.parallel or model.slots or self.slots,
            # Its documentation has it, and it can be asked without a chat; others show it by a try.
            continues="yes" if self.kind == "llama-server" else "untried",
            slots_setting="start that server with more slots, or raise its setting `parallel` if it has more",
        )

    def _writers(self) -> list[DescribedModel]:
        return [model for model in self.models or () if "embedding" not in model.capabilities]


def view_of(
    models: bytes, props: bytes = b"", keys: bytes = b"", cards: bytes = b"", *, is_loading: bool = False
) -> View:
    """The bodies of /v1/models, /props, /api/v1/models and /api/v0/models as one view. A body of another kind counts as
    empty: there are servers that answer every path.

    `is_loading`: a llama-server that is still loading its model.
    """
    by_key = entries(keys, "models", "key")
    if by_key is not None:
        return View("lm-studio", tuple(_of_key(entry) for entry in by_key))
    studio = entries(cards, "data", "id")
    if studio and any(text(card, "state") for card in studio):
        return View("lm-studio", tuple(_of_card(card, _kind_of(card)) for card in studio))
    listed = entries(models, "data", "id", "name", "model")
    if listed is None:
        listed = entries(models, "models", "id", "name", "model")
    owners = {text(card, "owned_by") for card in listed or ()}
    if "llamacpp" in owners:
        able = {text(entry, "name"): texts(entry, "capabilities") for entry in entries(models, "models", "name") or ()}
        residency: Residency = "loading" if is_loading else "loaded"
        found = tuple(_of_card(card, able.get(card["id"], ()), residency) for card in listed or ())
        known = decoded(props)
        return View(
            "llama-server",
            found,
            number(known, "total_slots") or DEFAULT_SLOTS,
            begins_thinking=template_thinks(text(known, "chat_template")),
        )
    if "vllm" in owners:
        return View("vllm", tuple(_of_card(card, residency="loaded") for card in listed or ()))
    found = tuple(_of_card(card) for card in listed or ())
    if owners == {OWNER}:
        return View("council", found)
    if "library" in owners:
        # Ollama answers one request of a model at a time, or OLLAMA_NUM_PARALLEL, which it does not report.
        return View("ollama", found, 1)
    return View("other", None if listed is None else found)


def _of_card(card: Any, capabilities: tuple[str, ...] = (), residency: Residency = "unmanaged") -> DescribedModel:
    """One entry of /v1/models, or of LM Studio's /api/v0/models. `state` is LM Studio's field, `status` that of a
    llama-server of many models."""
    if state := text(card, "state") or text(card, "status", "value"):
        residency = "loaded" if state in ("loaded", "sleeping") else "loading" if state == "loading" else "absent"
    parameters = number(card, "meta", "n_params")
    context = number(card, "max_model_len") or number(card, "max_context_length") or number(card, "meta", "n_ctx_train")
    return DescribedModel(
        text(card, "id"),
        texts(card, "aliases"),
        number(card, "meta", "size"),
        residency,
        capabilities=capabilities,
        details=_details(
            f"{parameters / 1e9:.1f} B parameters" if parameters >= 10**8 else "", text(card, "quantization"), context
        ),
        is_council=text(card, "owned_by") == OWNER,
    )


def _of_key(entry: Any) -> DescribedModel:
    """One entry of LM Studio's /api/v1/models."""
    instances = at(entry, "loaded_instances")
    loaded = [one for one in instances if isinstance(one, dict)] if isinstance(instances, list) else []
    return DescribedModel(
        text(entry, "key"),
        tuple(text(instance, "id") for instance in loaded),
        number(entry, "size_bytes"),
        "loaded" if loaded else "absent",
        max((number(instance, "config", "parallel") for instance in loaded), default=0),
        _kind_of(entry),
        _details(
            text(entry, "params_string"), text(entry, "quantization", "name"), number(entry, "max_context_length")
        ),
    )


def _kind_of(entry: Any) -> tuple[str, ...]:
    """What a model of LM Studio can do; its types are llm, vlm, and embedding or embeddings."""
    return ("embedding",) if text(entry, "type").startswith("embedding") else ("completion",)


def _details(parameters: str, quantization: str, context: int) -> tuple[str, ...]:
    parts = (parameters, quantization, f"context {context:,}" if context else "")
    return tuple(one_line(part, 60) for part in parts if part)
