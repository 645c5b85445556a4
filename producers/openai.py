"""Any server that speaks OpenAI's chat completions: llama-server, vLLM, LM Studio, Ollama under /v1.

    Request --> POST /v1/chat/completions --> 503 "Loading model": Loading, and again a second later
                                          --> 200 and a stream: Chunk, Chunk, ..., Ending
                                          --> anything else: BackendFailed, in the server's own words

Such a server goes on generating while nobody reads; it stops when the connection is closed.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncGenerator, AsyncIterator

import httpx

from producers.backend import BackendFailed, Chunk, Ending, Loading, Request
from producers.chat_stream import ChatStream, ServerFault, error_message, is_html, one_line
from schemas.errors import Refused

# A server that is there accepts at once, also from another room; 5 s allow for a lost packet or two.
CONNECT_S = 5.0
# A prompt of 32 KiB fits a socket's buffer: who does not take it in 10 s is stuck.
WRITE_S = 10.0
# There are twice as many connections as slots, for those that are being closed: none is free only by a bug of ours.
POOL_S = 5.0
# After the reason why it ended a server has only its usage and [DONE] to send, which it does at once.
TAIL_S = 1.0
# A refusal is short and complete when its status is sent.
REFUSAL_S = 5.0
MAX_REFUSAL_BYTES = 64 * 1024
LOADING_PAUSE_S = 1.0
# A bound only: the longest a session lives is an hour, and whoever has less patience closes the iterator.
LOADING_ASKS = 3_600
# A refusal that quotes the prompt is cut where the quotation begins; shorter prompts could be any word.
QUOTED_CHARS = (8, 24)


class OpenAIBackend:
    """One model behind an OpenAI-compatible server: one pooled client, whose idle connection is kept alive."""

    def __init__(self, model: str, base_url: str, *, slots: int = 4) -> None:
        """`base_url` with or without /v1; credentials in it are sent, never shown. Raises Refused for no URL."""
        url = _server_url(model, base_url)
        self._auth = (url.username, url.password) if url.username or url.password else None
        root = url.path.rstrip("/").removesuffix("/v1")
        base = url.copy_with(username="", password="", path=root, query=None, fragment=None)
        self._name = f"{model} at {str(base).rstrip('/')}"
        self._url = base.copy_with(path=f"{root}/v1/chat/completions")
        self._model = model
        self._slots = slots
        self._client: httpx.AsyncClient | None = None

    @property
    def pauses(self) -> bool:
        """It does not: an unread llama-server went on for 15 MB."""
        return False

    @property
    def slots(self) -> int:
        return self._slots

    async def start(self) -> None:
        # No proxy and no .netrc of the environment: the server is the one that was named.
        self._client = httpx.AsyncClient(
            auth=self._auth,
            headers={"Accept": "text/event-stream", "Accept-Encoding": "identity"},
            # No read time-out: before the first token the council counts, after it `silence_ms` does.
            timeout=httpx.Timeout(connect=CONNECT_S, write=WRITE_S, pool=POOL_S, read=None),
            # One idle connection is kept: whoever finds it closed has a new one at the second try, for certain.
            limits=httpx.Limits(max_connections=2 * self._slots, max_keepalive_connections=1),
            trust_env=False,
        )

    async def close(self) -> None:
        if self._client is not None:
            await self._client.aclose()
            self._client = None

    async def generate(self, request: Request) -> AsyncGenerator[Chunk | Loading | Ending, None]:
        """Asks for one answer. Raises BackendFailed, and nothing else that the server or the network could cause."""
        if self._client is None:
            raise RuntimeError("start() comes before generate()")
        content = self._body(request)
        silence_s = request.silence_ms / 1_000
        clock = asyncio.get_running_loop().time
        try:
            for _ in range(LOADING_ASKS):
                stream, heard, silent_at = ChatStream(request.top_k), 0, None
                async with contextlib.aclosing(await self._asked(self._client, content)) as response:
                    loading = await _is_loading(response)
                    reads = response.aiter_raw()
                    while not loading and (data := await _next_bytes(reads, silent_at, stream.finished)):
                        for chunk in stream.feed(data):
                            yield chunk
                        if stream.heard > heard:
                            heard = stream.heard
                            silent_at = clock() + (TAIL_S if stream.finished else silence_s)
                if not loading:
                    yield stream.end()
                    return
                yield Loading()
                await asyncio.sleep(LOADING_PAUSE_S)
            raise ServerFault("did not finish loading the model")
        except TimeoutError as error:
            raise self._failed(f"said nothing for {silence_s:g} s", request) from error
        except ServerFault as fault:
            raise self._failed(str(fault), request) from fault
        except httpx.HTTPError as error:
            raise self._failed(_network_fault(error), request) from error

    async def _asked(self, client: httpx.AsyncClient, content: bytes) -> httpx.Response:
        """The beginning of the server's answer.

        llama-server promises to keep a connection and closes it after each stream: of 15 requests that came at once
        over the same one, 3 found it closed. Nothing was answered then, so it is asked again, once.
        """
        request = client.build_request("POST", self._url, content=content)
        try:
            return await client.send(request, stream=True)
        except (httpx.RemoteProtocolError, httpx.ReadError, httpx.WriteError):
            return await client.send(request, stream=True)

    def _body(self, request: Request) -> bytes:
        """The request's JSON, in ASCII: so that not even half a character in a prompt can break it."""
        system = [{"role": "system", "content": request.system}] if request.system else []
        body: dict[str, object] = {
            "model": self._model,
            "messages": [*system, {"role": "user", "content": request.prompt}],
            "max_tokens": request.max_tokens,
            "temperature": request.temperature,
            "logprobs": True,
            "top_logprobs": request.top_k,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        if request.seed is not None:
            body["seed"] = request.seed
        return json.dumps(body).encode()

    def _failed(self, predicate: str, request: Request) -> BackendFailed:
        """The sentence for a person. A server may quote what it was asked; the prompt is nobody else's business."""
        least, most = QUOTED_CHARS
        for asked in (request.prompt, request.system):
            quoted = one_line(asked, most + 1)[:most]
            if len(quoted) >= least and quoted in predicate:
                predicate = predicate.partition(quoted)[0] + "…"
        return BackendFailed(f"{self._name} {predicate}")


def _server_url(model: str, base_url: str) -> httpx.URL:
    try:
        url = httpx.URL(base_url.strip())
        if url.scheme in ("http", "https") and url.host and (url.port is None or 0 < url.port < 65_536):
            return url
    except httpx.InvalidURL:
        pass
    raise Refused("bad_backend", f"The server of {model!r} needs a URL such as http://127.0.0.1:8080.")


async def _next_bytes(reads: AsyncIterator[bytes], silent_at: float | None, finished: bool) -> bytes:
    """What the network brings next; empty at the end. Raises TimeoutError at `silent_at`, a time of the event loop.

    Once the model has finished, nothing that happens to the connection matters any more.
    """
    try:
        async with asyncio.timeout_at(silent_at):
            return await anext(reads)
    except StopAsyncIteration:
        return b""
    except (TimeoutError, httpx.TransportError):
        if finished:
            return b""
        raise


async def _is_loading(response: httpx.Response) -> bool:
    """True where the server still loads the model, False where it answers. Raises ServerFault where it refuses."""
    if response.status_code == httpx.codes.OK:
        return False
    body = await _short_body(response)
    message = error_message(body)
    if response.status_code == httpx.codes.SERVICE_UNAVAILABLE and "loading" in message.lower():
        return True
    if is_html(body):
        raise ServerFault(f"answered HTTP {response.status_code} with HTML, not with a stream: is the URL right?")
    raise ServerFault(f"answered HTTP {response.status_code}: {message or response.reason_phrase}".rstrip(": "))


async def _short_body(response: httpx.Response) -> bytes:
    """The beginning of a body that should be short; what is late or too long is left."""
    body = bytearray()
    try:
        async with asyncio.timeout(REFUSAL_S):
            async for part in response.aiter_raw():
                body += part
                if len(body) >= MAX_REFUSAL_BYTES:
                    break
    except (TimeoutError, httpx.TransportError):
        pass
    return bytes(body[:MAX_REFUSAL_BYTES])


def _network_fault(error: httpx.HTTPError) -> str:
    match error:
        case httpx.ConnectTimeout():
            return f"accepted no connection within {CONNECT_S:g} s"
        case httpx.ConnectError():
            return "cannot be reached: is the model server running?"
        case httpx.WriteTimeout():
            return f"did not take the request within {WRITE_S:g} s"
        case httpx.PoolTimeout():
            return f"had no free connection for {POOL_S:g} s"
        case httpx.RemoteProtocolError() | httpx.ReadError() | httpx.WriteError() | httpx.CloseError():
            return "broke off the connection"
        case _:
            return f"could not be asked: {one_line(str(error), 100) or type(error).__name__}"
