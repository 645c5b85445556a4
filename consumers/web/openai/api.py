"""POST /v1/chat/completions and /v1/completions, GET /v1/models: the council in the form of OpenAI's API.

    body ──parameters──▶ Asked ──model_ids──▶ a SessionRequest for each choice ──Opener──▶ sessions
    following ──frames; tokens of one member──▶ composing, tally, logprobs ──▶ parts of each choice
    parts ──replies──▶ events of a stream, or one response

A client that disconnects cancels its sessions.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Iterator, Sequence

from aiohttp import hdrs, web

from consumers.web.api.opening import Opener
from consumers.web.api.operations import Operation, Tag
from consumers.web.door.errors import error_of, json_response
from consumers.web.door.guard import WARNING
from consumers.web.door.request import read_body
from consumers.web.live.sockets import Clients
from consumers.web.openai.choice import CLIENT_GONE, AskedChoice
from consumers.web.openai.composing import NewText
from consumers.web.openai.model_ids import OWNER, model_ids, requests_for, unknown_id
from consumers.web.openai.parameters import (
    Asked,
    ChatBody,
    CompletionBody,
    asked_chat,
    asked_completion,
)
from consumers.web.openai.replies import (
    ChatCompletion,
    ChoiceReply,
    ListedModel,
    ListedModels,
    OpenAIErrorReply,
    OpenAIReply,
    TextCompletion,
)
from consumers.web.openai.tally import total_usage
from schemas.errors import CouncilError, Refused
from transport.redis.connection import AsyncPipe
from transport.register import list_processes
from transport.sessions import new_session_id
from transport.status import processes_for

_PREFIXES = {"chat": "chatcmpl-", "completion": "cmpl-"}
# Proxies close a connection after a minute without a byte.
_PING_S = 10.0
_PING = b": the council has no text yet\n\n"
# A client that receives nothing for so long is disconnected, and its sessions are cancelled.
_STALL_S = 60.0
# Less than the buffer of a connection: such a write does not wait for the client.
_MOST_AT_ONCE = 16 * 1024
_STREAM_HEADERS: dict[str, str] = {
    hdrs.CONTENT_TYPE: "text/event-stream; charset=utf-8",
    hdrs.CACHE_CONTROL: "no-store",
}
_STREAM = "text/event-stream"
_TAG: Tag = "OpenAI-compatible"
_MOST_WARNING_CHARS = 1_024


class OpenAIApi:
    """The handlers."""

    def __init__(self, pipe: AsyncPipe, opener: Opener, clients: Clients) -> None:
        self._pipe, self._opener, self._clients = pipe, opener, clients
        self._started = int(time.time())
        self._is_stopping = False

    def operations(self) -> list[Operation]:
        return [
            Operation(
                "GET", "/v1/models", self._list_models, "list_model_ids", _TAG, "List the model ids",
                "The whole council, the councils of the settings, and each member.", ListedModels,
                error=OpenAIErrorReply,
            ),
            Operation(
                "GET", "/v1/models/{model:.+}", self._show_model, "show_model_id", _TAG, "Show a model id",
                "One of the ids that the list has.", ListedModel, (404,), error=OpenAIErrorReply,
            ),
            Operation(
                "POST", "/v1/chat/completions", self._chat, "create_chat_completion", _TAG, "Answer a chat",
                "The council, or one member, answers the last message; with stream true as Server-Sent Events.",
                ChatCompletion, (404, 408, 415, 502), body=ChatBody, stream=_STREAM, error=OpenAIErrorReply,
            ),
            Operation(
                "POST", "/v1/completions", self._complete, "create_completion", _TAG, "Answer a prompt, or several",
                "Each prompt is answered as a question; with stream true as Server-Sent Events.",
                TextCompletion, (404, 408, 415, 502), body=CompletionBody, stream=_STREAM,
                error=OpenAIErrorReply,
            ),
        ]  # fmt: skip

    def stop(self) -> None:
        """Ends all responses: the server stops."""
        self._is_stopping = True

    async def _list_models(self, _request: web.Request) -> web.Response:
        ids = model_ids(await list_processes(self._pipe))
        return json_response(ListedModels(tuple([self._listed(one) for one in ids])))

    async def _show_model(self, request: web.Request) -> web.Response:
        records = await list_processes(self._pipe)
        model = request.match_info["model"]
        if model not in model_ids(records):
            raise unknown_id(model, records)
        return json_response(self._listed(model))

    def _listed(self, model: str) -> ListedModel:
        return ListedModel(model, self._started, OWNER)

    async def _chat(self, request: web.Request) -> web.StreamResponse:
        return await self._answer(request, asked_chat(await _json_body(request)))

    async def _complete(self, request: web.Request) -> web.StreamResponse:
        return await self._answer(request, asked_completion(await _json_body(request)))

    async def _answer(self, request: web.Request, asked: Asked) -> web.StreamResponse:
        """Raises CouncilError before the first byte."""
        with self._clients.admitted():
            choices: list[AskedChoice] = []
            try:
                await self._open(asked, choices)
                response = _Response(request, asked, choices)
                is_wanted = self._is_wanted(request)
                await (response.stream(is_wanted) if asked.is_stream else response.collect(is_wanted))
                return response.sent
            finally:
                # Also where this handler is cancelled: the sessions must not go on for nobody.
                await asyncio.shield(_cancel_all(choices))

    def _is_wanted(self, request: web.Request) -> Callable[[], bool]:
        def is_wanted() -> bool:
            transport = request.transport
            return not self._is_stopping and transport is not None and not transport.is_closing()

        return is_wanted

    async def _open(self, asked: Asked, choices: list[AskedChoice]) -> None:
        """Opens a session for each choice, and adds it to `choices`. Raises Refused, NoAggregator, RedisAway,
        RedisRefuses."""
        warnings = list(asked.warnings)
        records = await processes_for(self._pipe, new_session_id())
        for wanted in requests_for(asked, records):
            opened = await self._opener.ask(wanted, None, record=False, records=records)
            is_agreed, logprobs = wanted.sync == "consensus", asked.logprobs
            if logprobs is not None and not is_agreed and len(opened.names) > 1:
                logprobs, own = None, "logprobs are those of one text: ask one member, or council:consensus"
                warnings += [] if own in warnings else [own]
            choices.append(
                AskedChoice(
                    self._pipe,
                    opened,
                    is_agreed=is_agreed,
                    stops=asked.stops,
                    logprobs=logprobs,
                    warnings=warnings,
                )
            )


class _Response:
    """The response to one request, whose sessions are open."""

    def __init__(self, request: web.Request, asked: Asked, choices: Sequence[AskedChoice]) -> None:
        self._request, self._choices, self._asked = request, choices, asked
        self._reply = OpenAIReply(
            _PREFIXES[asked.kind] + choices[0].session, int(time.time()), asked.model, asked.kind == "chat"
        )
        self._headers = _warning_header([warning for choice in choices for warning in choice.warnings])
        self._echoes = [wanted.prompt if asked.echoes else "" for wanted in asked.requests]
        self._streaming: web.StreamResponse | None = None
        # Choices are sent at the same time: one of them begins the response.
        self._writing = asyncio.Lock()
        self._sent_at_s = time.monotonic()
        self.sent: web.StreamResponse = web.Response()

    async def collect(self, is_wanted: Callable[[], bool]) -> None:
        """Waits for all choices, and makes one response of them. Raises as AskedChoice.parts() does."""
        with _first_error():
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(self._whole(index, is_wanted)) for index in range(len(self._choices))]
        replies = [task.result() for task in tasks]
        self.sent = json_response(self._reply.whole(replies, total_usage([one.usage for one in replies])))
        self.sent.headers.update(self._headers)

    async def _whole(self, index: int, is_wanted: Callable[[], bool]) -> ChoiceReply:
        choice = self._choices[index]
        parts = [part async for part in choice.parts(is_wanted) if part is not None]
        last = parts[-1]
        assert last.finish is not None, "the last part has the reason"
        text = NewText("".join(one.text.content for one in parts), "".join(one.text.thinking for one in parts))
        logprobs = None if last.logprobs is None else [token for one in parts for token in one.logprobs or ()]
        return ChoiceReply(index, text, logprobs, last.finish, choice.usage, last.council, self._echoes[index])

    async def stream(self, is_wanted: Callable[[], bool]) -> None:
        """Sends the parts of all choices as they come. An error before the first byte is raised, as by
        AskedChoice.parts(); a later one is the last event."""
        try:
            await self._send_all(is_wanted)
            if self._streaming is not None:
                async with asyncio.timeout(_STALL_S):
                    await self._streaming.write_eof()
        except Exception as error:
            if self._streaming is None:
                raise
            # Neither an end that looks complete nor a second response must follow.
            if self._request.transport is not None:
                self._request.transport.abort()
            # The client has disconnected, or receives nothing.
            if not isinstance(error, ConnectionError | TimeoutError):
                raise

    async def _send_all(self, is_wanted: Callable[[], bool]) -> None:
        try:
            with _first_error():
                async with asyncio.TaskGroup() as group:
                    for index in range(len(self._choices)):
                        group.create_task(self._send(index, is_wanted))
        except CouncilError as error:
            if self._streaming is None:
                raise
            await self._write(b"data: %b\n\n" % _body_of(error_of(self._request.path, error)))
            return
        if self._asked.has_usage:
            await self._write(self._reply.usage(total_usage([choice.usage for choice in self._choices])))
        await self._write(b"data: [DONE]\n\n")

    async def _send(self, index: int, is_wanted: Callable[[], bool]) -> None:
        choice, has_begun = self._choices[index], False
        async for part in choice.parts(is_wanted):
            if part is None:
                if time.monotonic() - self._sent_at_s > _PING_S:
                    await self._write(_PING)
                continue
            data = b"" if has_begun else self._reply.begin(index, self._echoes[index], choice.council)
            has_begun = True
            offset = len(self._echoes[index]) + part.offset
            data += self._reply.part(index, part.text, part.logprobs, offset, part.finish, part.council)
            await self._write(data)

    async def _write(self, data: bytes) -> None:
        """Raises ConnectionError, TimeoutError for a client that is gone or receives nothing."""
        async with self._writing:
            if self._streaming is None:
                self._streaming = self.sent = web.StreamResponse(headers={**_STREAM_HEADERS, **self._headers})
                await self._streaming.prepare(self._request)
            self._sent_at_s = time.monotonic()
            transport = self._request.transport
            if transport is not None and transport.get_write_buffer_size() + len(data) < _MOST_AT_ONCE:
                # It cannot wait: a time-out would cost as much as the rest.
                await self._streaming.write(data)
                return
            async with asyncio.timeout(_STALL_S):
                await self._streaming.write(data)


@contextlib.contextmanager
def _first_error() -> Iterator[None]:
    """Raises the first error of a group of tasks instead of the group."""
    try:
        yield
    except BaseExceptionGroup as group:
        raise group.exceptions[0] from None


def _body_of(response: web.Response) -> bytes:
    """The body of a response of this process, which is bytes."""
    body = response.body
    assert isinstance(body, bytes), "errors are JSON"
    return body


async def _cancel_all(choices: Sequence[AskedChoice]) -> None:
    for choice in choices:
        await choice.cancel(CLIENT_GONE)


def _warning_header(warnings: Sequence[str]) -> dict[str, str]:
    """The header with the warnings, each once, in ASCII; empty without warnings."""
    text = "; ".join(dict.fromkeys(warnings))
    shown = "".join(char if char.isprintable() else "?" for char in text).encode("ascii", "backslashreplace").decode()
    return {WARNING: shown[:_MOST_WARNING_CHARS]} if shown else {}


async def _json_body(request: web.Request) -> bytes:
    """The body. Raises Refused where it is not JSON by its content type."""
    if request.content_type != "application/json":
        raise Refused("unsupported_media_type", "Send the body as application/json.", status=415)
    return await read_body(request)
