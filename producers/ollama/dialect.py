"""What an Ollama accepts, and the request in that form. Pure: no clock, no I/O.

Ollama itself ignores what it does not know; servers that imitate it refuse it. What the user asked for is in every
dialect; what the council adds is left out or lowered where a server refuses it.
"""

from __future__ import annotations

import msgspec

from producers.backend import Request
from producers.servers.refusals import Parameter, complaints, lower_limit

# Ollama answers HTTP 400 to a larger number.
MOST_TOP = 20
# The options of a load: a request with another value would make Ollama load the model again. Speculative decoding is
# off, because its logprobs are not real.
LOADED_WITH: dict[str, object] = {"draft_num_predict": 0}
# A model's own settings may contain penalties, which would draw another token than the likeliest one.
NO_PENALTIES: dict[str, object] = {"repeat_penalty": 1.0, "presence_penalty": 0.0, "frequency_penalty": 0.0}


class OllamaDialect(msgspec.Struct, frozen=True):
    """At most `most_top` alternatives a token; `left_out` are the parameters that the server refused."""

    most_top: int = MOST_TOP
    left_out: frozenset[Parameter] = frozenset()

    def question(
        self, model: str, request: Request, keep_alive_s: int, *, has_chat: bool, thinks: bool, repeated: str = ""
    ) -> tuple[str, dict[str, object]]:
        """The path and the body of a request. A model without a chat template continues a text; one that thinks is
        asked to, since some versions put the thinking into the answer otherwise. `repeated` is what the server writes
        before the tokens that the request wants."""
        sent = self._sent(request, thinks=thinks)
        options = {**LOADED_WITH} if "draft" in sent else {}
        if "max_tokens" in sent:
            # Each token has at least one byte. What is too long is cut where it is received.
            options["num_predict"] = request.max_tokens + len(repeated.encode())
        if "temperature" in sent:
            options["temperature"] = request.temperature
        if "seed" in sent:
            options["seed"] = request.seed
        body: dict[str, object] = {"model": model, "stream": True}
        if "penalties" in sent:
            options |= NO_PENALTIES
        if "logprobs" in sent:
            body |= {"logprobs": True, "top_logprobs": min(request.top_k, self.most_top)}
        if "keep_alive" in sent:
            body["keep_alive"] = keep_alive_s
        # A prompt that is too long is refused, not silently cut.
        body |= {"truncate": False, "options": options}
        turns = request.messages_without_system if "system" in self.left_out else request.messages
        if not has_chat:
            return "/api/generate", {**body, "prompt": "\n\n".join(turn.content for turn in turns), "raw": True}
        if "think" in sent:
            # An answer that has begun is not thought about again.
            body["think"] = not request.continues
        return "/api/chat", {**body, "messages": [{"role": turn.role, "content": turn.content} for turn in turns]}

    def without(self, refusal: bytes, request: Request, *, thinks: bool) -> OllamaDialect | None:
        """Another dialect after this refusal; None where the text names nothing that can be changed, or something that
        the user asked for."""
        changed = self
        for parameter, words in complaints(refusal, self._sent(request, thinks=thinks)).items():
            if parameter in _asked_for(request):
                return None
            top = lower_limit(words, min(request.top_k, self.most_top)) if parameter == "logprobs" else None
            left_out = changed.left_out if top is not None else changed.left_out | {parameter}
            changed = OllamaDialect(changed.most_top if top is None else top, left_out)
        return None if changed == self else changed

    def _sent(self, request: Request, *, thinks: bool) -> set[Parameter]:
        """The parameters of the request that a refusal may be about."""
        sent: set[Parameter] = {"logprobs", "keep_alive", "draft", "max_tokens", "temperature"}
        sent |= {"think"} if thinks else set()
        sent |= {"penalties"} if request.temperature == 0.0 else set()
        sent |= {"system"} if request.system else set()
        sent |= {"seed"} if request.seed is not None else set()
        return (sent - self.left_out) | _asked_for(request)

    def changes(self, request: Request) -> tuple[str, ...]:
        """What this dialect leaves out of the request or changes in it, in words."""
        names: dict[Parameter, str] = {
            "logprobs": "top_logprobs", "draft": "draft_num_predict", "penalties": "repeat_penalty",
            "system": "the system text is in the first turn",
        }  # fmt: skip
        gone = sorted(names.get(parameter, parameter) for parameter in self.left_out - _asked_for(request))
        lowered = [] if self.most_top >= request.top_k else [f"top_logprobs lowered to {self.most_top}"]
        return (*lowered, *gone)


def _asked_for(request: Request) -> set[Parameter]:
    """What the user chose."""
    chosen: dict[Parameter, bool] = {
        "temperature": not request.has_default_temperature,
        "max_tokens": not request.has_default_length,
        "seed": request.seed is not None and not request.is_check,
    }
    return {parameter for parameter, is_chosen in chosen.items() if is_chosen}
