"""One Ollama server: requests with short answers, what may go wrong with them, and how its models are named.

    request --> 200: an answer                       404: the model is missing, and how to get it
            --> 503: the queue is full, ask again    anything else, or nothing: ServerFault

Answers are small JSON; the caller of stream() reads its stream.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Callable, Mapping
from typing import TypeVar

import httpx

from producers.ollama.answers import (
    PulledModel,
    Running,
    Shown,
    is_done,
    pulled_models,
    running_models,
    shown_model,
    version_in,
)
from producers.servers.address import at_path, server_address
from producers.servers.api_key import without_key
from producers.servers.client import CONNECT_S, http_client, network_fault, send, short_body
from producers.servers.encoding import decoded_parts
from producers.servers.faults import ServerFault, error_message, error_words, is_html, one_line, refuses_messages
from producers.servers.recorded import Exchange
from producers.source import ModelSource

# Ollama reads its list of models from disk: a slow disk and a hundred models take a second or two.
ANSWER_S = 10.0
# The longest are /api/show of a model of a thousand tensors, some 200 KiB, and /api/tags, some 500 bytes a model.
MAX_ANSWER_BYTES = 8 << 20
_UNKNOWN_PATH = (httpx.codes.NOT_FOUND, httpx.codes.METHOD_NOT_ALLOWED, httpx.codes.GONE)
_JSON = {"Content-Type": "application/json"}
# The words of Ollama, its runners and their drivers for a lack of memory. A runner that is killed while it loads was
# killed by the system, for memory.
_NO_MEMORY = (
    "more system memory",
    "out of memory",
    "out-of-memory",
    "out of device memory",
    "outofmemory",
    "out_of_device_memory",
    "cudamalloc failed",
    "hipmalloc failed",
    "failed to allocate",
    "unable to allocate",
    "allocation failed",
    "not enough memory",
    "insufficient memory",
    "memory layout cannot be allocated",
    "unable to load full model on gpu",
    "signal: killed",
)

T = TypeVar("T")


class StatusFault(ServerFault):
    """An HTTP status other than 200, with the server's message and the body in which it was."""

    def __init__(self, status: int, predicate: str, body: bytes = b"", *, html: bool = False) -> None:
        super().__init__(predicate, words=error_words(body), is_refusal=refuses_messages(status, error_words(body)))
        self.status, self.body = status, body
        # Ollama reports a full queue in JSON; HTML comes from a proxy whose Ollama is away.
        self.is_busy = status == httpx.codes.SERVICE_UNAVAILABLE and not html


class UnansweredQuestion(StatusFault):
    """The server has no answer of this kind: it imitates Ollama, or the URL is another server's."""


class OllamaServer:
    """One Ollama behind one pooled client. Every request raises ServerFault."""

    def __init__(
        self, source: ModelSource, connect_s: float = CONNECT_S, exchanges: list[Exchange] | None = None
    ) -> None:
        """Credentials in the source's URL, or the key in its variable, are sent, never shown. Raises Refused for a URL
        that is not valid, and for a key that is missing or cannot be sent."""
        self._base, self._auth = server_address("Ollama", source)
        self._connect_s, self._exchanges = connect_s, exchanges
        self._client: httpx.AsyncClient | None = None
        self.shown_url = str(self._base).rstrip("/")

    def open(self, connections: int) -> None:
        """`connections` is at least the number of requests at the same time."""
        self._client = http_client(self._base, connections, self._auth, self._connect_s, self._exchanges)

    async def close(self) -> None:
        if self._client is not None:
            await self._client.aclose()
            self._client = None

    async def version(self) -> str:
        return one_line(await self._decoded("GET", "/api/version", version_in), 40)

    async def listed(self) -> tuple[PulledModel, ...]:
        """The pulled models, the latest first; only names that a terminal can show."""
        return await self._decoded("GET", "/api/tags", pulled_models)

    async def running(self, within_s: float = ANSWER_S) -> tuple[Running, ...]:
        """The models in memory. Newer versions of Ollama do not answer while they load one."""
        return await self._decoded("GET", "/api/ps", running_models, within_s=within_s)

    async def show(self, model: str) -> Shown:
        """What is known of the model. Raises UnansweredQuestion where the server describes none."""
        return await self._decoded("POST", "/api/show", shown_model, {"model": model})

    async def command(self, body: Mapping[str, object], within_s: float) -> None:
        """A request to /api/generate without a prompt: it loads the model, or unloads it."""
        await self._decoded("POST", "/api/generate", is_done, {**body, "stream": False}, within_s=within_s)

    async def stream(self, path: str, body: Mapping[str, object]) -> httpx.Response:
        """The beginning of an answer; the caller closes it. Raises StatusFault; ServerFault without an answer."""
        try:
            response = await self._sent("POST", path, body)
            if response.status_code != httpx.codes.OK:
                raise await _refusal(response, body)
            return response
        except httpx.HTTPError as error:
            raise self.fault_of(error) from error

    async def _decoded(
        self,
        method: str,
        path: str,
        read: Callable[[bytes], T | None],
        body: Mapping[str, object] | None = None,
        within_s: float = ANSWER_S,
    ) -> T:
        """A whole answer, read by `read`, which returns None for another kind of answer."""
        try:
            async with asyncio.timeout(within_s):
                response = await self._sent(method, path, body)
                if response.status_code != httpx.codes.OK:
                    raise await _refusal(response, body)
                answer = await _body(response)
        except TimeoutError as error:
            raise ServerFault(f"did not answer {path} within {within_s:g} s") from error
        except httpx.HTTPError as error:
            raise self.fault_of(error) from error
        if (found := read(answer)) is None:
            fault = f"answered {path} with something that is not Ollama's: check the URL"
            raise UnansweredQuestion(response.status_code, fault)
        return found

    async def _sent(self, method: str, path: str, body: Mapping[str, object] | None) -> httpx.Response:
        """The head of the answer."""
        if self._client is None:
            raise RuntimeError("open() comes before any request")
        # ASCII, so that half a character in a prompt is no problem.
        content = None if body is None else json.dumps(body).encode()
        url = at_path(self._base, path)
        headers = _JSON if content else None
        return await send(self._client, self._client.build_request(method, url, content=content, headers=headers))

    def fault_of(self, error: httpx.HTTPError) -> ServerFault:
        """What the network did, as a predicate."""
        predicate = network_fault(error, self._connect_s, "Ollama")
        return ServerFault(predicate, is_away=isinstance(error, httpx.ConnectError))

    def shown(self, sentence: str) -> str:
        """The sentence without the key, in case the server quoted it."""
        return without_key(sentence, self._auth)


def canonical_name(name: str) -> str:
    """A model's name as Ollama lists it: with its tag, without the prefix of its own library."""
    name = name.strip().removeprefix("registry.ollama.ai/").removeprefix("library/")
    return name if ":" in name.rpartition("/")[2] else f"{name}:latest"


def is_cloud_name(name: str) -> bool:
    """True for a name for which Ollama sends the prompt on to its cloud, whether the model is pulled or not."""
    tag = canonical_name(name).rpartition(":")[2].lower()
    return tag == "cloud" or tag.endswith("-cloud")


def is_about_memory(message: str) -> bool:
    """True where a server's message is about a model that does not fit into memory."""
    lowered = message.lower()
    return any(words in lowered for words in _NO_MEMORY)


async def _refusal(response: httpx.Response, body: Mapping[str, object] | None) -> StatusFault:
    """What a status other than 200 means."""
    status, model = response.status_code, str((body or {}).get("model", ""))
    async with contextlib.aclosing(response):
        answer = await short_body(response)
    message = error_message(answer)
    if status == httpx.codes.NOT_FOUND and model and message.startswith("model "):
        return StatusFault(status, f"has no model {model!r}: run `ollama pull {model}`")
    # A person has to compare the address that was asked with the server's. It has no credentials.
    where = f"HTTP {status} at {response.request.url}" if status in _UNKNOWN_PATH else f"HTTP {status}"
    kind = UnansweredQuestion if status in (*_UNKNOWN_PATH, httpx.codes.NOT_IMPLEMENTED) else StatusFault
    if is_html(answer):
        return kind(status, f"answered {where} with HTML: check the URL", html=True)
    return kind(status, f"answered {where}: {message or response.reason_phrase}".rstrip(": "), answer)


async def _body(response: httpx.Response) -> bytes:
    """A whole body. Raises ServerFault where it is too long."""
    body = bytearray()
    async with contextlib.aclosing(response):
        async for part in decoded_parts(response):
            body += part
            if len(body) > MAX_ANSWER_BYTES:
                raise ServerFault(f"sent an answer of more than {MAX_ANSWER_BYTES >> 20} MiB")
    return bytes(body)
