"""Any server that speaks OpenAI's chat completions: llama-server, vLLM, LM Studio, Ollama under /v1, services.

    start():  GET /v1/models --> what the server is, how many requests it serves at once    (openai_offers, openai_view)
    Request --> POST /v1/chat/completions --> 200 and a stream: Chunk, Chunk, ..., Ending   (chat_stream)
                   ^                      --> refused: another way to ask, or              (openai_asking)
                   |                          Loading, Waiting: a little later
                   +----------------------------'     or BackendFailed: what to do, in words

Such a server goes on generating while nobody reads; it stops when the connection is closed.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import AsyncGenerator

import httpx
import msgspec

from producers.backend import BackendFailed, Chunk, Ending, ModelLoading, ModelWaiting, OutOfMemory, Request
from producers.openai.asking import Asking, Dialect, RefusedAnswer
from producers.openai.offers import AUTO_EVICT, look_at
from producers.openai.stream import ChatStream
from producers.openai.view import View
from producers.servers.address import server_address
from producers.servers.api_key import ApiKey
from producers.servers.client import FRESH, TAIL_S, http_client, network_fault, next_bytes, short_body
from producers.servers.faults import ServerFault, unquoted
from producers.source import ModelSource
from schemas.models import ModelFacts

# Whether a model is in memory is known at once, except while another one is loaded.
GLANCE_S = 0.5
# LM Studio's words for a model that left its memory.
_EVICTED = re.compile(r"unloaded|no models? (is )?loaded", re.IGNORECASE)
# Words for memory that does not suffice, of llama.cpp, vLLM and LM Studio, as far as they say so over HTTP.
_NO_MEMORY = (
    "out of memory",
    "insufficient memory",
    "not enough memory",
    "insufficient system resources",
    "failed to allocate",
    "unable to allocate",
)


class OpenAIBackend:
    """One model behind an OpenAI-compatible server: one pooled client, whose idle connections are kept alive."""

    def __init__(self, model: str, source: ModelSource) -> None:
        """`model` is the council's name of it. The source's URL with or without /v1; credentials in it are sent, never
        shown. Raises Refused for no URL, and for a key that is missing or cannot be sent."""
        self._base, self._auth = server_address(model, source)
        self._server = str(self._base).rstrip("/")
        self._name = f"{model} at {self._server}"
        self._url = self._base.copy_with(path=f"{self._base.path.rstrip('/')}/v1/chat/completions")
        self._source = source
        self._view = View()
        self._trouble = ""
        self._dialect = Dialect()
        self._client: httpx.AsyncClient | None = None

    @property
    def pauses(self) -> bool:
        """It does not: an unread llama-server went on for 15 MB."""
        return False

    @property
    def slots(self) -> int:
        return self.facts.slots

    @property
    def facts(self) -> ModelFacts:
        return msgspec.structs.replace(self._view.facts_of(self._source, self._server), trouble=self._trouble)

    @property
    def residence(self) -> None:
        """These servers load their models by themselves."""
        return None

    async def start(self) -> None:
        """Asks the server what it is, quickly; one that is away is told in `facts.trouble`."""
        async with http_client(self._base, 2, self._auth) as client:
            try:
                self._view = await look_at(client, self._base, self._source)
                fault = self._view.lacks(self._source.name)
            except ServerFault as away:
                fault = str(away)
        self._trouble = self._shown(f"{self._name} {fault}") if fault else ""
        # A connection for each slot, and as many for those that are being closed.
        self._client = http_client(self._base, 2 * self.slots, self._auth)

    async def close(self) -> None:
        if self._client is not None:
            await self._client.aclose()
            self._client = None

    async def generate(self, request: Request) -> AsyncGenerator[Chunk | ModelLoading | ModelWaiting | Ending, None]:
        """Asks for one answer. Raises BackendFailed, and nothing else that the server or the network could cause."""
        if self._client is None:
            raise RuntimeError("start() comes before generate()")
        silence_s = request.silence_ms / 1_000
        clock = asyncio.get_running_loop().time
        stream, heard, silent_at = ChatStream(0), 0, None
        try:
            if await self._loads_for_this(self._client):
                yield ModelLoading()
            asking = Asking(self._dialect, request, self._source.key_env, self._view.lacks(self._source.name))
            while not isinstance(answer := await self._answer(self._client, asking), httpx.Response):
                yield answer
                await asyncio.sleep(asking.pause_s)
            # What it took now it takes again, and the trouble is over.
            self._dialect, self._trouble = asking.dialect, ""
            async with contextlib.aclosing(answer) as response:
                if asking.has_waited:
                    yield Chunk(())  # it waits no longer: from here the first token's time-out counts
                stream, reads = ChatStream(asking.dialect.top_k(request)), response.aiter_raw()
                while data := await next_bytes(reads, silent_at, stream.finished):
                    for chunk in stream.feed(data):
                        yield chunk
                    if stream.heard > heard:
                        heard = stream.heard
                        silent_at = clock() + (TAIL_S if stream.finished else silence_s)
            yield stream.end()
        except TimeoutError as error:
            raise self._failed(f"said nothing for {silence_s:g} s", request) from error
        except ServerFault as fault:
            raise self._failed(str(fault), request, has_begun=stream.heard > 0) from fault
        except httpx.HTTPError as error:
            raise self._failed(network_fault(error), request) from error

    async def _answer(self, client: httpx.AsyncClient, asking: Asking) -> httpx.Response | ModelLoading | ModelWaiting:
        """The beginning of a stream, which is the caller's to close; or what to say while it comes later. Raises
        ServerFault where none will come."""
        while True:
            response = await self._asked(client, asking.dialect.body(self._source.name, asking.request))
            if response.status_code == httpx.codes.OK:
                return response
            async with contextlib.aclosing(response):
                body = await short_body(response)
            headers = {name.lower(): value for name, value in response.headers.items()}
            if sign := asking.refused(RefusedAnswer(response.status_code, response.reason_phrase, headers, body)):
                return sign

    async def _asked(self, client: httpx.AsyncClient, content: bytes) -> httpx.Response:
        """What the server answers, whatever it is.

        llama-server promises to keep a connection and closes it after each stream: of 15 requests that came at once
        over the same one, 3 found it closed. Nothing was answered then, so it is asked again, once, on a new one.
        """
        headers = {"Content-Type": "application/json"}
        request = client.build_request("POST", self._url, content=content, headers=headers)
        try:
            return await client.send(request, stream=True)
        except (httpx.RemoteProtocolError, httpx.ReadError, httpx.WriteError):
            request.extensions[FRESH] = True
            return await client.send(request, stream=True)

    async def _loads_for_this(self, client: httpx.AsyncClient) -> bool:
        """True where the server has to load the model for this request, and says so: LM Studio, and a llama-server of
        many models."""
        model = self._view.model_called(self._source.name)
        if self._view.kind != "lm-studio" and (model is None or model.residency in ("unmanaged", "loaded")):
            return False
        with contextlib.suppress(ServerFault, TimeoutError):
            async with asyncio.timeout(GLANCE_S):
                self._view = await look_at(client, self._base, self._source)
                model = self._view.model_called(self._source.name)
        return model is not None and model.residency in ("absent", "loading")

    def _failed(self, predicate: str, request: Request, *, has_begun: bool = True) -> BackendFailed:
        """The sentence for a person. A server may quote what it was asked; the prompt is nobody else's business."""
        predicate = unquoted(predicate, request.messages)
        if self._view.kind == "lm-studio" and _EVICTED.search(predicate):
            predicate = f"{predicate} ({AUTO_EVICT})"
        # Once it writes its model is in memory, whatever it says.
        lacks_memory = not has_begun and any(words in predicate.lower() for words in _NO_MEMORY)
        kind = OutOfMemory if lacks_memory else BackendFailed
        return kind(self._shown(f"{self._name} {predicate}"))

    def _shown(self, sentence: str) -> str:
        return self._auth.cut_from(sentence) if isinstance(self._auth, ApiKey) else sentence
