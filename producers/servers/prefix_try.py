"""The one real try that shows whether a model server continues an answer that a request begins.

    counting from one to ten, begun with "four five six"
        "seven eight ..."            continued; a model that counts badly may go on with another number up to ten
        "four five six seven ..."    repeated: the beginning is sent again, and is left out of later answers
        "One two three ...", a new thinking     begun anew: the server ignores the beginning
        anything else                accepted: as far as is known, it continues
    a refusal                        refused, if the server answers the same request without the beginning

The try is made when the first request that continues an answer needs it: at the start it could make the server load a
model. Its outcome stays until the process ends, or until an answer contradicts it: then the next request tries again.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import AsyncGenerator, Callable
from typing import Literal

import msgspec

from producers.backend import BackendFailed, Chunk, Ending, ModelLoading, ModelWaiting, Request, Written
from schemas.models import Continues

Outcome = Literal["continued", "repeated", "accepted", "begun anew", "refused", "not tried"]
Generate = Callable[[Request], AsyncGenerator[Chunk | ModelLoading | ModelWaiting | Ending, None]]

_PROMPT = "Count from one to ten in words, without anything else."
# No model begins with it by itself.
BEGUN = "four five six"
# Enough for "seven" in any tokenizer, and for the beginning of a new answer with a polite sentence before.
_TOKENS = 16
_WHY_NOT = {
    "refused": "it refuses a request that begins one",
    "begun anew": "it begins a new one instead",
}
_AGAIN = re.compile(r"\W*(four|4)\W+(five|5)\W+(six|6)\b")
_NEXT = re.compile(r"\W*(five|six|seven|eight|nine|ten|[5-9]|10)\b")
_ONE = re.compile(r"(?<!\w)(one|1)(?!\w)")


def request_to_try(request: Request, begun: str = BEGUN) -> Request:
    """A request that begins an answer with `begun`, with the bounds of this one."""
    return msgspec.structs.replace(
        request,
        prompt=_PROMPT,
        system="",
        history=(),
        prefix=(Written(begun),) if begun else (),
        max_tokens=_TOKENS,
        temperature=0.0,
        seed=None,
        is_check=True,
    )


def outcome_of(answer: str, *, thinks: bool) -> Outcome:
    """What the server did with BEGUN; `thinks`: it sent a thinking."""
    text = answer.strip().lower()
    if thinks:
        return "begun anew"
    if _AGAIN.match(text):
        return "repeated"
    if _NEXT.match(text):
        return "continued"
    return "begun anew" if _ONE.search(text) or answer.strip()[:1].isupper() else "accepted"


class PrefixTry:
    """The try of one model. `is_known`: its server is of a kind that continues."""

    def __init__(self) -> None:
        self.outcome: Outcome = "not tried"
        self.is_known = False
        self._one_at_a_time = asyncio.Lock()

    @property
    def continues(self) -> Continues:
        if self.outcome == "not tried":
            return "yes" if self.is_known else "untried"
        return "no" if self.outcome in _WHY_NOT else "yes"

    @property
    def repeats(self) -> bool:
        """True where an answer that begins like its beginning is taken for a repetition of that. A continuation may
        begin so as well: " Iceland" continues "I"."""
        return self.outcome == "repeated"

    async def answered(
        self, generate: Generate, request: Request, name: str
    ) -> AsyncGenerator[Chunk | ModelLoading | ModelWaiting | Ending, None]:
        """The answer to a request; before it, where the request needs it and nothing is known, the signs of the try.
        Raises BackendFailed where the model does not continue an answer, and where the try fails for another reason,
        which leaves it untried."""
        if request.continues:
            async with self._one_at_a_time:
                if self.continues == "untried":
                    async with contextlib.aclosing(self.tried(generate, request)) as items:
                        async for item in items:
                            if isinstance(item, ModelLoading | ModelWaiting):
                                yield item
            self.check(name)
        async with contextlib.aclosing(generate(request)) as items:
            async for item in items:
                yield item

    def check(self, name: str) -> None:
        """Raises BackendFailed where the model does not continue an answer."""
        if self.outcome in _WHY_NOT:
            raise BackendFailed(_sentence(name, self.outcome))

    def check_item(self, request: Request, item: Chunk | Ending, name: str) -> None:
        """The same for a model that thinks where it was to continue its answer: its server has ignored that. Some
        models do so in some answers only, so the next request tries again."""
        if not request.continues or request.is_check or isinstance(item, Ending):
            return
        if any(piece.lane == "thinking" and piece.text.strip() for piece in item.pieces):
            self.outcome = "not tried"
            raise BackendFailed(_sentence(name, "begun anew"))

    async def tried(
        self, generate: Generate, request: Request
    ) -> AsyncGenerator[Chunk | ModelLoading | ModelWaiting | Ending, None]:
        """The answer to the try, as `generate` yields it: with a repeated beginning. Where the server refuses the
        request, the answer to the same one without a beginning: the reason may be another one. Raises BackendFailed
        where that fails too, and for every failure that is not a refusal; then the model stays untried."""
        texts = {"answer": "", "thinking": ""}
        try:
            async with contextlib.aclosing(generate(request_to_try(request))) as items:
                async for item in items:
                    if isinstance(item, Chunk):
                        for piece in item.pieces:
                            texts[piece.lane] += piece.text
                    yield item
        except BackendFailed as failure:
            if not failure.is_refusal:
                raise
        else:
            self.outcome = outcome_of(texts["answer"], thinks=bool(texts["thinking"].strip()))
            return
        async with contextlib.aclosing(generate(request_to_try(request, begun=""))) as items:
            async for item in items:
                yield item
        self.outcome = "refused"


def _sentence(name: str, outcome: Outcome) -> str:
    return f"{name} does not continue an answer: {_WHY_NOT[outcome]}"
