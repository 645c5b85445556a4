"""A loaded model: what it can be asked."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

import msgspec

from producers.backend import BackendFailed
from producers.chat_stream import ServerFault, unquoted
from producers.llama.child import LlamaChild
from producers.llama.step import Place, Step, entry_of, question, question_again, step_in
from producers.pieces import LogprobEntry
from schemas.sessions import Message

# llama.cpp samples from the 40 most probable tokens, where a file does not say otherwise.
_LIKELY = 64
# Shorter quotations could be any word.


class _Templated(msgspec.Struct):
    prompt: str


class _Tokenized(msgspec.Struct):
    tokens: list[int]


class _Detokenized(msgspec.Struct):
    content: str


T = TypeVar("T")
_templated = msgspec.json.Decoder(_Templated)
_tokenized = msgspec.json.Decoder(_Tokenized)
_detokenized = msgspec.json.Decoder(_Detokenized)


class LlamaModel:
    """One model in one process. Whatever it cannot answer is a BackendFailed."""

    def __init__(self, model: str, child: LlamaChild, vocabulary: int) -> None:
        self._model, self._child, self._vocabulary = model, child, vocabulary
        # Of special tokens only, of which there are some hundred at most.
        self._names: dict[int, str] = {}
        self._plain_token: int | None = None

    @property
    def context_tokens(self) -> int:
        """How many tokens a prompt and its answer may have together."""
        return self._child.context_tokens

    async def prompt(self, messages: Sequence[Message]) -> str:
        """The chat as the model's own template writes it, with the beginning of the turn that is to come."""
        turns = [{"role": message.role, "content": message.content} for message in messages]
        try:
            return (await self._ask("/apply-template", {"messages": turns}, _templated.decode)).prompt
        except BackendFailed as failure:
            raise BackendFailed(unquoted(str(failure), messages)) from None

    async def tokens(self, text: str) -> list[int]:
        """As the server itself reads a chat: with what the model expects before it, and special tokens by name."""
        asked = {"content": text, "add_special": True, "parse_special": True}
        return (await self._ask("/tokenize", asked, _tokenized.decode)).tokens

    async def name_of(self, token: int) -> str:
        """How a special token is written."""
        if token not in self._names:
            self._names[token] = (await self._ask("/detokenize", {"tokens": [token]}, _detokenized.decode)).content
        return self._names[token]

    async def step(self, place: Place, *, temperature: float, seed: int, top_k: int) -> Step:
        """The next token, sampled and measured."""
        asked = question(place, temperature=temperature, seed=seed, top_k=top_k)
        found = await self._ask("/completion", asked, step_in)
        if found.entry is not None:
            return found
        return msgspec.structs.replace(found, entry=await self._entry(place, found.token, top_k))

    async def _entry(self, place: Place, token: int, top_k: int) -> LogprobEntry | None:
        """What was measured of a sampled token: among the most probable ones, else among all that there are."""
        for width in (max(_LIKELY, top_k), self._vocabulary):
            asked = question_again(place, width, await self._any_plain_token())
            if entry := await self._ask("/completion", asked, lambda body: entry_of(token, body, top_k)):
                return entry
        return None

    async def _any_plain_token(self) -> int:
        """A token that is a whole character."""
        if self._plain_token is None:
            tokens = (await self._ask("/tokenize", {"content": "a"}, _tokenized.decode)).tokens
            self._plain_token = tokens[-1] if tokens else 0
        return self._plain_token

    async def _ask(self, path: str, asked: object, read: Callable[[bytes], T]) -> T:
        try:
            return read(await self._child.ask(path, asked))
        except ServerFault as fault:
            raise BackendFailed(f"{self._model} {fault}") from fault
        except msgspec.MsgspecError as error:
            raise BackendFailed(f"{self._model} answers something else than what was asked: {error}") from error
