"""What an OpenAI-compatible server accepts, and the request in that form. Pure: no clock, no I/O.

    Dialect --body--> the request's JSON
       ^                       |
       `--without-- the server's refusal

What the user asked for is in every dialect. What the council adds (logprobs, the default temperature and length, the
usage at the end of a stream) is left out or lowered where a server refuses it.
"""

from __future__ import annotations

import json
import re
from functools import partial
from typing import Literal

import msgspec

from producers.backend import Request
from producers.servers.pieces import MAX_TOP
from producers.servers.refusals import Parameter, complaints, lower_limit
from schemas.sessions import MAX_TOKENS_LIMIT

# A limit of the length. Other numbers in such a message are the context's and the prompt's.
_AT_MOST = re.compile(r"(?:at most|<=|≤|less than or equal to|between \d+ and|maximum value of) *[`'\"]?(\d{1,5})\b")
_NEWER_NAME = re.compile(
    r"(?:not support|unsupported|instead|unknown|deprecated).*max_completion_tokens", re.IGNORECASE
)
# A number of no effect for each penalty, by the kind of server.
_NO_PENALTIES: dict[str, tuple[tuple[str, float], ...]] = {
    "llama-server": (
        ("repeat_penalty", 1.0), ("presence_penalty", 0.0), ("frequency_penalty", 0.0), ("dry_multiplier", 0.0)
    ),
    "lm-studio": (("repeat_penalty", 1.0), ("presence_penalty", 0.0), ("frequency_penalty", 0.0)),
    "vllm": (("repetition_penalty", 1.0), ("presence_penalty", 0.0), ("frequency_penalty", 0.0)),
}  # fmt: skip


class Dialect(msgspec.Struct, frozen=True):
    """What a server accepts: at most `most_top` alternatives a token, None for no logprobs at all; at most
    `most_tokens` where the length is the council's default, None for no length then. What the user asked for is always
    in the request."""

    most_top: int | None = MAX_TOP
    length: Literal["max_tokens", "max_completion_tokens"] = "max_tokens"
    reports_usage: bool = True
    takes_temperature: bool = True
    takes_seed: bool = True
    takes_system: bool = True
    most_tokens: int | None = MAX_TOKENS_LIMIT
    # vLLM continues an answer that the request begins only where it is asked to; llama-server does without.
    has_continue_flag: bool = False
    # A server's own settings may contain penalties, which would draw another token than the likeliest one.
    no_penalties: tuple[tuple[str, float], ...] = ()
    keeps_prompt_cached: bool = False

    def for_kind(self, kind: str) -> Dialect:
        """The dialect of a server that is known to be of this kind (View.kind)."""
        has_flag = kind in ("vllm", "llama-server")
        return msgspec.structs.replace(
            self,
            has_continue_flag=has_flag,
            no_penalties=_NO_PENALTIES.get(kind, ()),
            keeps_prompt_cached=kind == "llama-server",
        )

    def top_k(self, request: Request) -> int:
        """How many alternatives a token are requested."""
        return min(request.top_k, self.most_top or 0)

    def body(self, model: str, request: Request, repeated: str = "") -> bytes:
        """The request's JSON, in ASCII, so that half a character in a prompt causes no error. `repeated` is what the
        server writes before the tokens that the request wants."""
        turns = request.messages if self.takes_system else request.messages_without_system
        body: dict[str, object] = {
            "model": model,
            "messages": [{"role": turn.role, "content": turn.content} for turn in turns],
        }
        sent = self._sent(request)
        if "max_tokens" in sent:
            most = self.most_tokens if request.has_default_length else None
            # Each token has at least one byte. What is too long is cut where it is received.
            length = request.max_tokens + len(repeated.encode())
            body[self.length] = min(length, most or length)
        if "temperature" in sent:
            body["temperature"] = request.temperature
        body["stream"] = True
        if "logprobs" in sent:
            body |= {"logprobs": True, "top_logprobs": self.top_k(request)}
        if "usage" in sent:
            body["stream_options"] = {"include_usage": True}
        if "seed" in sent:
            body["seed"] = request.seed
        if "continue" in sent:
            body |= {"continue_final_message": True, "add_generation_prompt": False}
        if "penalties" in sent:
            body |= dict(self.no_penalties)
        if request.prefix_text and self.keeps_prompt_cached:
            body["cache_prompt"] = True
        return json.dumps(body).encode()

    def without(self, refusal: str, request: Request) -> Dialect | None:
        """Another dialect after this refusal; None where the text names nothing that can be changed, or something that
        the user asked for."""
        changed = self
        for parameter, words in complaints(refusal.encode("utf-8", "replace"), self._sent(request)).items():
            following = changed._without(parameter, words or refusal, request)
            if following is None:
                return None
            changed = following
        return None if changed == self else changed

    def _without(self, parameter: Parameter, words: str, request: Request) -> Dialect | None:
        """The dialect without one parameter; None where the user asked for it."""
        change = partial(msgspec.structs.replace, self)
        match parameter:
            case "logprobs":
                return change(most_top=lower_limit(words, self.top_k(request)) if self.most_top else None)
            case "usage":
                return change(reports_usage=False)
            case "max_tokens" if self.length == "max_tokens" and _NEWER_NAME.search(words):
                return change(length="max_completion_tokens")
            case "max_tokens" if request.has_default_length:
                most = _AT_MOST.search(words)
                lower = int(most[1]) if most else 0
                return change(most_tokens=lower if 0 < lower < request.max_tokens else None)
            case "temperature" if request.has_default_temperature:
                return change(takes_temperature=False)
            case "seed" if request.is_check:
                return change(takes_seed=False)
            case "continue":
                return change(has_continue_flag=False)
            case "penalties":
                return change(no_penalties=())
            case "system":
                return change(takes_system=False)
            case _:
                return None

    def _sent(self, request: Request) -> set[Parameter]:
        """The parameters of the request that a refusal may be about."""
        sent: dict[Parameter, bool] = {
            "logprobs": self.most_top is not None,
            "usage": self.reports_usage,
            "max_tokens": not request.has_default_length or self.most_tokens is not None,
            "temperature": not request.has_default_temperature or self.takes_temperature,
            "seed": request.seed is not None and (self.takes_seed or not request.is_check),
            "system": bool(request.system) and self.takes_system,
            "continue": bool(request.prefix_text) and self.has_continue_flag,
            "penalties": request.temperature == 0.0 and bool(self.no_penalties),
        }
        return {parameter for parameter, is_sent in sent.items() if is_sent}

    def least(self) -> Dialect:
        """The dialect with nothing that the user has not asked for. A server that names a limit of its logprobs keeps
        them."""
        keeps = self.most_top if self.most_top != MAX_TOP else None
        return msgspec.structs.replace(
            self, most_top=keeps, reports_usage=False, takes_temperature=False, takes_seed=False, no_penalties=()
        )

    def left_out(self, request: Request) -> tuple[str, ...]:
        """What this dialect leaves out of the request or changes in it, in words."""
        top = f"top_logprobs lowered to {self.most_top}" if self.most_top else "top_logprobs"
        tokens = f"max_tokens lowered to {self.most_tokens}" if self.most_tokens else "max_tokens"
        changes = {
            "logprobs": self.most_top is None,
            top: self.most_top is not None and self.top_k(request) < request.top_k,
            "max_tokens is called max_completion_tokens": self.length != "max_tokens",
            tokens: request.has_default_length and (self.most_tokens is None or self.most_tokens < request.max_tokens),
            "stream_options": not self.reports_usage,
            "temperature": request.has_default_temperature and not self.takes_temperature,
            "seed": request.is_check and not self.takes_seed,
            "the system text is in the first turn": bool(request.system) and not self.takes_system,
        }
        return tuple(words for words, applies in changes.items() if applies)
