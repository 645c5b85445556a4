"""A loaded model: the requests that its server answers."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from typing import TypeVar

import msgspec

from producers.backend import BackendFailed
from producers.llama.child import LlamaChild
from producers.llama.step import Continuation, Draw, Step, cached, entry_of, question, question_again, step_in
from producers.llama.stretch import StretchReader
from producers.servers.faults import ServerFault, unquoted
from producers.servers.pieces import LogprobEntry
from producers.servers.token_prompt import (
    TokenPiece,
    chat_question,
    read_pieces,
    read_prompt,
    read_tokens,
    template_question,
    text_question,
)
from schemas.sessions import Message

# llama.cpp samples from the 40 likeliest tokens, unless a file contains another number.
_LIKELY = 64


class _Detokenized(msgspec.Struct):
    content: str


# Sessions that continue their answers at the same time, mostly two; a chat has 100 KB at most.
_KEPT_CHATS = 8

K = TypeVar("K")
T = TypeVar("T")
_detokenized = msgspec.json.Decoder(_Detokenized)


class LlamaModel:
    """One model in one process. Every method raises BackendFailed."""

    def __init__(self, model: str, child: LlamaChild, vocabulary: int, parts: dict[int, bytes] | None = None) -> None:
        """`parts` are those that it has noted before it was loaded again."""
        self._model, self._child, self._vocabulary = model, child, vocabulary
        # Of special tokens only: some hundred at most.
        self._names: dict[int, str] = {}
        # The bytes of each token that it has written and that is not valid UTF-8 alone: a part of a character. They
        # are among the few hundred such tokens of a vocabulary.
        self.parts = {} if parts is None else parts
        self._plain_token: int | None = None
        # The chats that were asked for last: an answer is continued many times.
        self._chats: dict[tuple[Message, ...], str] = {}
        self._chat_tokens: dict[str, list[int]] = {}

    @property
    def context_tokens(self) -> int:
        """The most tokens of a prompt and its answer together."""
        return self._child.context_tokens

    async def prompt(self, messages: Sequence[Message]) -> str:
        """The chat as the model's own template writes it, with the beginning of the next turn."""
        chat = tuple(messages)
        if chat not in self._chats:
            try:
                found = await self._ask("/apply-template", template_question(messages), read_prompt)
            except BackendFailed as failure:
                raise BackendFailed(unquoted(str(failure), messages)) from None
            _keep(self._chats, chat, found.prompt)
        return self._chats[chat]

    async def tokens(self, text: str) -> list[int]:
        """The tokens of a chat, as the server itself reads it: with the model's first token, and special tokens by
        name."""
        if text not in self._chat_tokens:
            _keep(self._chat_tokens, text, (await self._ask("/tokenize", chat_question(text), read_tokens)).tokens)
        return [*self._chat_tokens[text]]

    async def pieces(self, text: str) -> list[TokenPiece]:
        """The tokens of a text outside the chat: without the model's first token, and without special tokens."""
        return (await self._ask("/tokenize", text_question(text), read_pieces)).tokens

    async def name_of(self, token: int) -> str:
        """The name of a special token."""
        if token not in self._names:
            self._names[token] = (await self._ask("/detokenize", {"tokens": [token]}, _detokenized.decode)).content
        return self._names[token]

    def note(self, step: Step) -> None:
        """Remembers the bytes of a token that is a part of a character."""
        if step.entry is not None and step.entry.bytes and max(step.entry.bytes) > 0x7F:
            raw = bytes(step.entry.bytes)
            if raw.decode("utf-8", "replace").encode() != raw:
                self.parts[step.token] = raw

    async def stretch(self, behind: Continuation, draw: Draw, count: int) -> AsyncGenerator[Step, None]:
        """The next `count` tokens, each as soon as it is drawn; fewer where one is missing, or ends the answer."""
        reader = StretchReader()
        asked = question(behind, draw, count, is_streamed=True)
        with self._failures():
            async with contextlib.aclosing(self._child.stream("/completion", asked)) as events:
                async for event in events:
                    for step in reader.read(event):
                        yield step
                    if reader.is_over:
                        return

    async def step(self, behind: Continuation, draw: Draw) -> Step:
        """The next token."""
        found = await self._completed(behind, draw, ())
        if found is None:
            raise BackendFailed(f"{self._model} sent more than one token")
        return await self._measured(found, behind, draw.top_k)

    async def step_behind(self, streamed: Sequence[int], behind: Continuation, draw: Draw) -> Step | None:
        """The token after those of a stretch. None where the same draw has another result now: other answers are
        computed beside it, and floats differ in their last digits."""
        found = await self._completed(cached(behind), draw, streamed)
        if found is None:
            return None
        behind = msgspec.structs.replace(behind, tokens=[*behind.tokens, *streamed])
        return await self._measured(found, behind, draw.top_k)

    async def _completed(self, behind: Continuation, draw: Draw, before: Sequence[int]) -> Step | None:
        asked = question(behind, draw, len(before) + 1, is_streamed=False)
        return await self._ask("/completion", asked, lambda body: step_in(body, before))

    async def _measured(self, found: Step, behind: Continuation, top_k: int) -> Step:
        if found.entry is not None:
            return found
        entry = await self._entry(behind, found.token, top_k)
        return msgspec.structs.replace(found, entry=entry, begins_character=True)

    async def _entry(self, behind: Continuation, token: int, top_k: int) -> LogprobEntry | None:
        """The measurement of a sampled token: among the likeliest tokens, else among all."""
        for width in (max(_LIKELY, top_k), self._vocabulary):
            asked = question_again(behind, width, await self._any_plain_token())
            if entry := await self._ask("/completion", asked, lambda body: entry_of(token, body, top_k)):
                return entry
        return None

    async def _any_plain_token(self) -> int:
        """A token that is a whole character."""
        if self._plain_token is None:
            tokens = (await self._ask("/tokenize", {"content": "a"}, read_tokens)).tokens
            self._plain_token = tokens[-1] if tokens else 0
        return self._plain_token

    async def _ask(self, path: str, asked: object, read: Callable[[bytes], T]) -> T:
        with self._failures():
            return read(await self._child.ask(path, asked))

    @contextlib.contextmanager
    def _failures(self) -> Iterator[None]:
        try:
            yield
        except ServerFault as fault:
            raise BackendFailed(f"{self._model} {fault}") from fault
        except msgspec.MsgspecError as error:
            raise BackendFailed(f"{self._model} sent an answer that is not valid: {error}") from error


def _keep(kept: dict[K, T], key: K, value: T) -> None:
    """Adds it, instead of the oldest one where there are too many."""
    if len(kept) >= _KEPT_CHATS:
        del kept[next(iter(kept))]
    kept[key] = value
