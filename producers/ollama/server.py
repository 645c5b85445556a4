"""One Ollama: its short questions and answers, what may go wrong with them, and how its models are named.

    question --> 200: an answer                           404: the model is not there, and how to get it
             --> 503: no place in its queue, ask again    anything else, or nothing: ServerFault, a predicate

Its answers are JSON and small; streams are read by whoever asked for them.
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
from producers.servers.api_key import ApiKey
from producers.servers.client import CONNECT_S, FRESH, http_client, network_fault, short_body
from producers.servers.faults import ServerFault, error_message, is_html, one_line
from producers.source import ModelSource

# What models there are Ollama reads from disk: a slow disk and a hundred models take a second or two.
ANSWER_S = 10.0
# The longest are /api/show of a model of a thousand tensors, some 200 KiB, and /api/tags, some 500 bytes a model.
MAX_ANSWER_BYTES = 8 << 20
_JSON = {"Content-Type": "application/json"}
# A model without a template of its own has this one.
NO_TEMPLATE = "{{ .Prompt }}"
# Words of Ollama, its runners and their drivers for memory that does not suffice. A runner that is killed while it
# loads was killed by the system, for memory.
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
    """An HTTP status other than 200, with the server's words."""

    def __init__(self, status: int, predicate: str, *, html: bool = False) -> None:
        super().__init__(predicate)
        self.status = status
        # A queue that is full says so in JSON; HTML is a proxy's, whose Ollama is away.
        self.is_busy = status == httpx.codes.SERVICE_UNAVAILABLE and not html


class Details(msgspec.Struct, frozen=True):
    """What kind of model it is, in Ollama's words."""

    format: str = ""
    family: str = ""
    parameter_size: str = ""
    quantization_level: str = ""


class PulledModel(msgspec.Struct, frozen=True):
    """A model that is pulled. `size` is that of its files, `digest` that of its manifest; a model with a `remote_host`
    answers from there."""

    name: str
    size: int = 0
    digest: str = ""
    remote_host: str = ""
    details: Details = Details()


class Running(msgspec.Struct, frozen=True):
    """A model in memory: `size_vram` of its `size` there is on a GPU."""

    name: str
    size: int = 0
    size_vram: int = 0
    digest: str = ""


class Shown(msgspec.Struct, frozen=True):
    """What /api/show tells of a model."""

    template: str = ""
    modelfile: str = ""
    capabilities: tuple[str, ...] | None = None
    remote_host: str = ""
    details: Details = Details()

    @property
    def weights(self) -> str:
        """The digest of the file of the weights, empty where it is not told: tags that share it share one runner."""
        found = re.search(r"^FROM .*sha256[-:]([0-9a-f]{64})\s*$", self.modelfile, re.MULTILINE)
        return f"sha256:{found[1]}" if found else ""

    @property
    def has_chat(self) -> bool:
        """False for a model that only goes on with a text: no template, and nothing built in that renders a chat."""
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
    """One Ollama behind one pooled client. Every question raises ServerFault, and Refused comes of a bad URL only."""

    def __init__(self, source: ModelSource, connect_s: float = CONNECT_S) -> None:
        """Credentials in the source's URL, or the key in its variable, are sent, never shown. Raises Refused for a URL
        that is none, and for a key that is missing or cannot be sent."""
        self._base, self._auth = server_address("Ollama", source)
        self._connect_s = connect_s
        self._client: httpx.AsyncClient | None = None
        self.shown_url = str(self._base).rstrip("/")

    def open(self, connections: int) -> None:
        """`connections` are at least as many as questions and answers at once."""
        self._client = http_client(self._base, connections, self._auth, self._connect_s)

    async def close(self) -> None:
        if self._client is not None:
            await self._client.aclose()
            self._client = None

    async def version(self) -> str:
        return one_line((await self._told("GET", "/api/version", _Version)).version, 40)

    async def listed(self) -> tuple[PulledModel, ...]:
        """The models that are pulled, the latest first; a name is fit for a terminal."""
        models = (await self._told("GET", "/api/tags", _Tags)).models or ()
        return tuple(model for model in models if model.name.isprintable())

    async def running(self, within_s: float = ANSWER_S) -> tuple[Running, ...]:
        """The models in memory. A later Ollama does not answer while it loads one."""
        return (await self._told("GET", "/api/ps", _Loaded, within_s=within_s)).models or ()

    async def show(self, model: str) -> Shown:
        return await self._told("POST", "/api/show", Shown, {"model": model})

    async def command(self, body: Mapping[str, object], within_s: float) -> None:
        """A request to /api/generate that has no prompt: it loads the model, or unloads it."""
        await self._told("POST", "/api/generate", _Done, {**body, "stream": False}, within_s=within_s)

    async def stream(self, path: str, body: Mapping[str, object]) -> httpx.Response:
        """The beginning of an answer, to be closed by the caller. Raises Refusal; ServerFault where none came."""
        try:
            response = await self._asked("POST", path, body)
            if response.status_code != httpx.codes.OK:
                raise await _refusal(response, body)
            return response
        except httpx.HTTPError as error:
            raise self.fault_of(error) from error

    async def _told(
        self,
        method: str,
        path: str,
        kind: type[T],
        body: Mapping[str, object] | None = None,
        within_s: float = ANSWER_S,
    ) -> T:
        """One whole answer, decoded."""
        try:
            async with asyncio.timeout(within_s):
                response = await self._asked(method, path, body)
                if response.status_code != httpx.codes.OK:
                    raise await _refusal(response, body)
                answer = await _body(response)
            return msgspec.json.decode(answer, type=kind)
        except TimeoutError as error:
            raise ServerFault(f"gave no answer to {path} within {within_s:g} s") from error
        except httpx.HTTPError as error:
            raise self.fault_of(error) from error
        except (msgspec.MsgspecError, ValueError, RecursionError) as error:
            raise ServerFault(f"answered {path} with something that is not Ollama's: is the URL right?") from error

    async def _asked(self, method: str, path: str, body: Mapping[str, object] | None) -> httpx.Response:
        """The head of the answer. A connection that was kept may have been closed since: then it is asked once more."""
        if self._client is None:
            raise RuntimeError("open() comes before any question")
        # ASCII: not even half a character in a prompt can break it.
        content = None if body is None else json.dumps(body).encode()
        url = self._base.copy_with(path=f"{self._base.path.rstrip('/')}{path}")
        request = self._client.build_request(method, url, content=content, headers=_JSON if content else None)
        try:
            return await self._client.send(request, stream=True)
        except (httpx.RemoteProtocolError, httpx.ReadError, httpx.WriteError):
            request.extensions[FRESH] = True
            return await self._client.send(request, stream=True)

    def fault_of(self, error: httpx.HTTPError) -> ServerFault:
        """What the network did, as a predicate."""
        return ServerFault(network_fault(error, self._connect_s).replace("the model server", "Ollama"))

    def shown(self, sentence: str) -> str:
        """The sentence without the key, if the server quoted it."""
        return self._auth.cut_from(sentence) if isinstance(self._auth, ApiKey) else sentence


def canonical_name(name: str) -> str:
    """A model's name as Ollama lists it: with its tag, without what every name of its own library begins with."""
    name = name.strip().removeprefix("registry.ollama.ai/").removeprefix("library/")
    return name if ":" in name.rpartition("/")[2] else f"{name}:latest"


def is_cloud_name(name: str) -> bool:
    """True for a name by which Ollama passes a prompt on to its cloud, whether the model is pulled or not."""
    tag = canonical_name(name).rpartition(":")[2].lower()
    return tag == "cloud" or tag.endswith("-cloud")


def is_about_memory(message: str) -> bool:
    """True where a server's words say that a model does not fit into memory."""
    lowered = message.lower()
    return any(words in lowered for words in _NO_MEMORY)


async def _refusal(response: httpx.Response, body: Mapping[str, object] | None) -> StatusFault:
    """What a status other than 200 means; of its body, what is late or too long is left."""
    status, model = response.status_code, str((body or {}).get("model", ""))
    async with contextlib.aclosing(response):
        told = await short_body(response)
    message = error_message(told)
    if status == httpx.codes.NOT_FOUND and model and message.startswith("model "):
        return StatusFault(status, f"has no model {model!r}: run `ollama pull {model}`")
    if is_html(told):
        return StatusFault(status, f"answered HTTP {status} with HTML: is the URL right?", html=True)
    return StatusFault(status, f"answered HTTP {status}: {message or response.reason_phrase}".rstrip(": "))


async def _body(response: httpx.Response) -> bytes:
    """A whole body. Raises ServerFault where it is too long."""
    body = bytearray()
    async with contextlib.aclosing(response):
        async for part in response.aiter_raw():
            body += part
            if len(body) > MAX_ANSWER_BYTES:
                raise ServerFault(f"sent an answer of more than {MAX_ANSWER_BYTES >> 20} MiB")
    return bytes(body)
