"""One Ollama server: requests with short answers, what may go wrong with them, and how its models are named.

    request --> 200: an answer                       404: the model is missing, and how to get it
            --> 503: the queue is full, ask again    anything else, or nothing: ServerFault

Answers are small JSON; the caller of stream() reads its stream.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
from collections.abc import Mapping
from typing import TypeVar

import httpx
import msgspec

from producers.servers.address import server_address
from producers.servers.api_key import without_key
from producers.servers.client import CONNECT_S, http_client, network_fault, send, short_body
from producers.servers.encoding import decoded_parts
from producers.servers.faults import NOT_JSON, ServerFault, error_message, error_words, is_html, one_line
from producers.source import ModelSource

# Ollama reads its list of models from disk: a slow disk and a hundred models take a second or two.
ANSWER_S = 10.0
# The longest are /api/show of a model of a thousand tensors, some 200 KiB, and /api/tags, some 500 bytes a model.
MAX_ANSWER_BYTES = 8 << 20
_JSON = {"Content-Type": "application/json"}
# The template of a model that has none of its own.
NO_TEMPLATE = "{{ .Prompt }}"
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
        super().__init__(predicate, words=error_words(body))
        self.status, self.body = status, body
        # Ollama reports a full queue in JSON; HTML comes from a proxy whose Ollama is away.
        self.is_busy = status == httpx.codes.SERVICE_UNAVAILABLE and not html


class Details(msgspec.Struct, frozen=True):
    """What kind of model it is, in Ollama's terms."""

    format: str = ""
    family: str = ""
    parameter_size: str = ""
    quantization_level: str = ""


class PulledModel(msgspec.Struct, frozen=True):
    """A pulled model. `size` is that of its files, `digest` that of its manifest; a model with a `remote_host` runs
    there."""

    name: str
    size: int = 0
    digest: str = ""
    remote_host: str = ""
    details: Details = Details()


class Running(msgspec.Struct, frozen=True):
    """A model in memory: `size_vram` of its `size` is on a GPU."""

    name: str
    size: int = 0
    size_vram: int = 0
    digest: str = ""


class Shown(msgspec.Struct, frozen=True):
    """What /api/show reports of a model."""

    template: str = ""
    modelfile: str = ""
    capabilities: tuple[str, ...] | None = None
    remote_host: str = ""
    details: Details = Details()

    @property
    def weights(self) -> str:
        """The digest of the file of the weights, empty where it is unknown: tags with the same one share a runner."""
        found = re.search(r"^FROM .*sha256[-:]([0-9a-f]{64})\s*$", self.modelfile, re.MULTILINE)
        return f"sha256:{found[1]}" if found else ""

    @property
    def has_chat(self) -> bool:
        """False for a model that only continues a text: it has no template and no built-in chat renderer."""
        rendered = re.search(r"^(RENDERER|PARSER) ", self.modelfile, re.MULTILINE)
        return bool(rendered) or self.template.strip() not in ("", NO_TEMPLATE)


class _Tags(msgspec.Struct):
    models: tuple[PulledModel, ...] | None = None


class _Loaded(msgspec.Struct):
    models: tuple[Running, ...] | None = None


class _Version(msgspec.Struct):
    version: str = ""


class _Done(msgspec.Struct):
    done: bool = False


class OllamaServer:
    """One Ollama behind one pooled client. Every request raises ServerFault."""

    def __init__(self, source: ModelSource, connect_s: float = CONNECT_S) -> None:
        """Credentials in the source's URL, or the key in its variable, are sent, never shown. Raises Refused for a URL
        that is not valid, and for a key that is missing or cannot be sent."""
        self._base, self._auth = server_address("Ollama", source)
        self._connect_s = connect_s
        self._client: httpx.AsyncClient | None = None
        self.shown_url = str(self._base).rstrip("/")

    def open(self, connections: int) -> None:
        """`connections` is at least the number of requests at the same time."""
        self._client = http_client(self._base, connections, self._auth, self._connect_s)

    async def close(self) -> None:
        if self._client is not None:
            await self._client.aclose()
            self._client = None

    async def version(self) -> str:
        return one_line((await self._decoded("GET", "/api/version", _Version)).version, 40)

    async def listed(self) -> tuple[PulledModel, ...]:
        """The pulled models, the latest first; only names that a terminal can show."""
        models = (await self._decoded("GET", "/api/tags", _Tags)).models or ()
        return tuple(model for model in models if model.name.isprintable())

    async def running(self, within_s: float = ANSWER_S) -> tuple[Running, ...]:
        """The models in memory. Newer versions of Ollama do not answer while they load one."""
        return (await self._decoded("GET", "/api/ps", _Loaded, within_s=within_s)).models or ()

    async def show(self, model: str) -> Shown:
        return await self._decoded("POST", "/api/show", Shown, {"model": model})

    async def command(self, body: Mapping[str, object], within_s: float) -> None:
        """A request to /api/generate without a prompt: it loads the model, or unloads it."""
        await self._decoded("POST", "/api/generate", _Done, {**body, "stream": False}, within_s=within_s)

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
        kind: type[T],
        body: Mapping[str, object] | None = None,
        within_s: float = ANSWER_S,
    ) -> T:
        """A whole answer, decoded."""
        try:
            async with asyncio.timeout(within_s):
                response = await self._sent(method, path, body)
                if response.status_code != httpx.codes.OK:
                    raise await _refusal(response, body)
                answer = await _body(response)
            return msgspec.json.decode(answer, type=kind)
        except TimeoutError as error:
            raise ServerFault(f"did not answer {path} within {within_s:g} s") from error
        except httpx.HTTPError as error:
            raise self.fault_of(error) from error
        except NOT_JSON as error:
            raise ServerFault(f"answered {path} with something that is not Ollama's: check the URL") from error

    async def _sent(self, method: str, path: str, body: Mapping[str, object] | None) -> httpx.Response:
        """The head of the answer."""
        if self._client is None:
            raise RuntimeError("open() comes before any request")
        # ASCII, so that half a character in a prompt is no problem.
        content = None if body is None else json.dumps(body).encode()
        url = self._base.copy_with(path=f"{self._base.path.rstrip('/')}{path}")
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
    if is_html(answer):
        return StatusFault(status, f"answered HTTP {status} with HTML: check the URL", html=True)
    return StatusFault(status, f"answered HTTP {status}: {message or response.reason_phrase}".rstrip(": "), answer)


async def _body(response: httpx.Response) -> bytes:
    """A whole body. Raises ServerFault where it is too long."""
    body = bytearray()
    async with contextlib.aclosing(response):
        async for part in decoded_parts(response):
            body += part
            if len(body) > MAX_ANSWER_BYTES:
                raise ServerFault(f"sent an answer of more than {MAX_ANSWER_BYTES >> 20} MiB")
    return bytes(body)
