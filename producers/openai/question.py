"""The two ways to ask a server for an answer: a chat, and a completion of tokens, which is llama-server's own.

    chat         the answer so far is the last message, as text; the server writes it into the template again
    completion   POST /apply-template, /tokenize: the chat, once; then the answer's own tokens by their ids

Only a completion continues the model's own tokens exactly.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from http import HTTPStatus
from typing import TypeVar

import httpx
import msgspec

from producers.backend import Request, Written
from producers.openai.asking import RefusedAnswer
from producers.openai.dialect import Dialect
from producers.openai.stream import ChatStream
from producers.servers.address import at_path
from producers.servers.client import send, short_body
from producers.servers.following import Following, without_white_space
from producers.servers.token_prompt import (
    Prompt,
    TokenPiece,
    chat_question,
    prompt_of,
    read_pieces,
    read_prompt,
    read_tokens,
    template_question,
    text_question,
)
from schemas.sessions import Message

# The tokens of a prompt and its history, with their texts: some 30 bytes a token.
_MOST_BYTES = 64 << 20
# A server without these addresses, or a proxy that forwards others only.
_ABSENT = (HTTPStatus.NOT_FOUND, HTTPStatus.METHOD_NOT_ALLOWED, HTTPStatus.NOT_IMPLEMENTED, HTTPStatus.FORBIDDEN)
# Where it loads its model, or a proxy is busy. A chat would be answered later, but not from the tokens.
_LATER = (HTTPStatus.SERVICE_UNAVAILABLE, HTTPStatus.TOO_MANY_REQUESTS)
_FIELDS = ("content", "tokens", "stop_type", "completion_probabilities", "tokens_evaluated")

T = TypeVar("T")


class NoCompletions(Exception):
    """The server does not answer what a completion of tokens needs. `is_lasting`: it never will. `busy` is its refusal
    where it loads the model, or has no place for the request: it may answer later."""

    def __init__(self, *, is_lasting: bool = False, busy: RefusedAnswer | None = None) -> None:
        super().__init__()
        self.is_lasting, self.busy = is_lasting, busy


def refused_answer(response: httpx.Response, body: bytes) -> RefusedAnswer:
    """The refusal in a response, whose body was read."""
    headers = {name.lower(): value for name, value in response.headers.items()}
    return RefusedAnswer(response.status_code, response.reason_phrase, headers, body, str(response.request.url))


class ChatQuestion:
    """An OpenAI-compatible chat. An answer so far is sent up to its last word; without one it is not sent at all."""

    path = "/chat/completions"
    # Below the root of the API.
    root: httpx.URL | None = None

    def __init__(self, request: Request, *, begins_thinking: bool, has_ids: bool, repeats: bool) -> None:
        begun, self._white_space = without_white_space(request.prefix_text)
        self.request = msgspec.structs.replace(request, prefix=(Written(begun),) if begun else ())
        # The template opens no thinking where the answer has begun.
        self._begins_thinking, self._has_ids = begins_thinking and not begun, has_ids
        self._begun, self._repeated = begun, begun if repeats else ""

    def body(self, model: str, dialect: Dialect) -> bytes:
        """The request's JSON."""
        return dialect.body(model, self.request, self._repeated)

    def stream(self, dialect: Dialect) -> ChatStream:
        """The reader of the answer."""
        return ChatStream(
            dialect.top_k(self.request),
            begins_thinking=self._begins_thinking,
            begun=self._begun,
            has_ids=self._has_ids,
        )

    def following(self) -> Following:
        """The filter that passes only the continuation."""
        return Following(self._white_space, self._repeated)


class CompletionQuestion:
    """llama-server's completion of tokens."""

    path = "/completion"

    def __init__(self, request: Request, prompt: Prompt, root: httpx.URL) -> None:
        self.request, self._prompt = request, prompt
        self.root: httpx.URL | None = root

    def body(self, model: str, dialect: Dialect) -> bytes:
        """The request's JSON."""
        body: dict[str, object] = {
            "model": model,
            "prompt": self._prompt.tokens,
            "n_predict": self.request.max_tokens,
            "temperature": self.request.temperature,
            "n_probs": max(dialect.top_k(self.request), 1),
            "stream": True,
            "return_tokens": True,
            "cache_prompt": True,
            "response_fields": _FIELDS,
        }
        if self.request.seed is not None:
            body["seed"] = self.request.seed
        if self.request.temperature == 0.0:
            body |= dict(dialect.no_penalties)
        return json.dumps(body).encode()

    def stream(self, dialect: Dialect) -> ChatStream:
        """The reader of the answer."""
        stream = ChatStream(0)
        stream.read_completions(dialect.top_k(self.request))
        return stream

    def following(self) -> Following:
        """The filter that passes only the continuation."""
        return Following(self._prompt.white_space)


Question = ChatQuestion | CompletionQuestion


async def completion_question(
    request: Request, client: httpx.AsyncClient, base: httpx.URL, model: str
) -> CompletionQuestion:
    """Asks the server for the tokens of the chat and of the answer so far. Raises NoCompletions, httpx.HTTPError."""
    prompt = await prompt_of(request, _ServerTokens(client, base, model))
    return CompletionQuestion(request, prompt, base)


class _ServerTokens:
    """A ModelTokens of one llama-server."""

    # Over HTTP a character of several tokens comes whole, without the ids of the first ones.
    parts: Mapping[int, bytes] = {}

    def __init__(self, client: httpx.AsyncClient, base: httpx.URL, model: str) -> None:
        self._client, self._base, self._model = client, base, model

    async def prompt(self, messages: Sequence[Message]) -> str:
        return (await self._asked("/apply-template", template_question(messages), read_prompt)).prompt

    async def tokens(self, text: str) -> list[int]:
        return (await self._asked("/tokenize", chat_question(text), read_tokens)).tokens

    async def pieces(self, text: str) -> list[TokenPiece]:
        return (await self._asked("/tokenize", text_question(text), read_pieces)).tokens

    async def _asked(self, path: str, question: dict[str, object], read: Callable[[bytes], T]) -> T:
        content = json.dumps({"model": self._model, **question}).encode()
        headers = {"Content-Type": "application/json"}
        asked = self._client.build_request("POST", at_path(self._base, path), content=content, headers=headers)
        response = await send(self._client, asked)
        try:
            body = await short_body(response, _MOST_BYTES)
        finally:
            await response.aclose()
        if response.status_code in _LATER:
            raise NoCompletions(busy=refused_answer(response, body))
        if response.status_code != HTTPStatus.OK:
            raise NoCompletions(is_lasting=response.status_code in _ABSENT)
        try:
            return read(body)
        except msgspec.MsgspecError:
            # Another kind of page, or an answer whose end is late.
            raise NoCompletions from None
