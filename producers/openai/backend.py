"""A model on a server with OpenAI's chat completions: llama-server, vLLM, LM Studio, Ollama under /v1, cloud services.

    start():  GET /v1/models --> which server it is, how many requests it serves at once     (offers.py, view.py)
    Request --> POST /v1/chat/completions --> 200 and a stream: Chunk, Chunk, ..., Ending    (stream.py)
                   ^                      --> refused: another dialect, or                   (asking.py)
                   |                          Loading, Waiting: a little later
                   +----------------------------'     or BackendFailed: what to do

Such a server generates on when its answer is not read; it stops when the connection is closed.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import AsyncGenerator

import httpx
import msgspec

from producers.backend import BackendFailed, Chunk, Ending, ModelLoading, ModelWaiting, OutOfMemory, Request
from producers.openai.asking import Asking
from producers.openai.councils import CouncilFault, is_from_council
from producers.openai.dialect import Dialect
from producers.openai.offers import AUTO_EVICT, look_at, require_other
from producers.openai.question import ChatQuestion, NoCompletions, Question, completion_question, refused_answer
from producers.openai.stream import ChatStream
from producers.openai.view import View
from producers.servers.address import api_roots, at_path, server_address
from producers.servers.api_key import without_key
from producers.servers.client import http_client, network_fault, send, short_body
from producers.servers.faults import ServerFault, unquoted
from producers.servers.prefix_try import PrefixTry
from producers.servers.recorded import Exchange
from producers.servers.streaming import read_answer
from producers.servers.thinking import name_thinks
from producers.source import ModelSource
from schemas.models import ModelFacts

# Whether a model is in memory is known at once, except while the server loads another one.
GLANCE_S = 0.5
# LM Studio's words for a model that left its memory.
_EVICTED = re.compile(r"unloaded|no models? (is )?loaded", re.IGNORECASE)
# The words of llama.cpp, vLLM and LM Studio for a lack of memory, as far as they send them over HTTP.
_NO_MEMORY = (
    "out of memory",
    "insufficient memory",
    "not enough memory",
    "insufficient system resources",
    "failed to allocate",
    "unable to allocate",
)


class OpenAIBackend:
    """One model behind an OpenAI-compatible server: one pooled client, whose idle connections are kept open."""

    def __init__(
        self, model: str, source: ModelSource, exchanges: list[Exchange] | None = None, process: str = ""
    ) -> None:
        """`model` is the council's name of it. The source's URL has /v1 or not; credentials in it are sent, never
        shown. `exchanges` receives what is sent and what comes back. `process` is the name of this producer in the
        council's register. Raises Refused for a URL that is not valid, and for a key that is missing or cannot be
        sent."""
        self._base, self._auth = server_address(model, source)
        self._server = str(self._base).rstrip("/")
        self._name = f"{model} at {self._server}"
        # The first of them that is found stays alone.
        self._roots = api_roots(model, source)
        self._source = source
        self._exchanges = exchanges
        # None until the server has shown what it is: it may be away at the start.
        self._seen: View | None = None
        self._trouble = ""
        # True once the server has shown that it is another council than this one.
        self._process, self._is_other = process, False
        self._dialect = Dialect()
        # True where its chat template opens the thinking, as far as its name or an answer shows it.
        self._begins_thinking = name_thinks(source.name)
        self._client: httpx.AsyncClient | None = None
        self.prefix_try = PrefixTry()
        # True until a llama-server has shown that it does not complete tokens.
        self._completes = True

    @property
    def _view(self) -> View:
        return self._seen or View()

    @property
    def pauses(self) -> bool:
        """False: an unread llama-server generated on for 15 MB."""
        return False

    @property
    def slots(self) -> int:
        return self.facts.slots

    @property
    def facts(self) -> ModelFacts:
        facts = self._view.facts_of(self._source, self._server)
        return msgspec.structs.replace(facts, trouble=self._trouble, continues=self.prefix_try.continues)

    @property
    def residence(self) -> None:
        """These servers decide themselves when they load a model."""
        return None

    def left_out(self, request: Request) -> tuple[str, ...]:
        """What the server has refused of such a request, and is no longer sent; in words."""
        return self._dialect.left_out(request)

    async def start(self) -> None:
        """Asks the server what it is, quickly. Where that fails, `facts.trouble` has the reason."""
        async with http_client(self._base, 2, self._auth, exchanges=self._exchanges) as client:
            try:
                self._see(await look_at(client, self._base, self._roots, self._source))
                fault = self._view.lacks(self._source.name)
            except ServerFault as away:
                fault = str(away)
        self._trouble = without_key(f"{self._name} {fault}", self._auth) if fault else ""
        # A connection for each slot, and as many for those that are being closed.
        self._client = http_client(self._base, 2 * self.slots, self._auth, exchanges=self._exchanges)

    async def close(self) -> None:
        if self._client is not None:
            await self._client.aclose()
            self._client = None

    def generate(self, request: Request) -> AsyncGenerator[Chunk | ModelLoading | ModelWaiting | Ending, None]:
        """Asks for one answer. Raises BackendFailed, and nothing else that the server or the network could cause."""
        return self.prefix_try.answered(self._asked, request, self._name)

    def try_prefix(self, request: Request) -> AsyncGenerator[Chunk | ModelLoading | ModelWaiting | Ending, None]:
        """The answer to the request that tries whether the server continues one, which `prefix_try` then knows.
        `request` has its bounds. Raises as generate()."""
        return self.prefix_try.tried(self._asked, request)

    async def _asked(self, request: Request) -> AsyncGenerator[Chunk | ModelLoading | ModelWaiting | Ending, None]:
        if self._client is None:
            raise RuntimeError("start() comes before generate()")
        stream = ChatStream(0)
        try:
            await self._require_no_loop(self._client)
            if await self._loads_for_this(self._client):
                yield ModelLoading()
            asking = Asking(self._dialect, request, self._source.key_env, self._view.lacks(self._source.name))
            while isinstance(question := await self._question(self._client, asking), ModelLoading | ModelWaiting):
                yield question
                await asyncio.sleep(asking.pause_s)
            while True:
                while not isinstance(answer := await self._answer(self._client, asking, question), httpx.Response):
                    yield answer
                    await asyncio.sleep(asking.pause_s)
                stream, following = question.stream(asking.dialect), question.following()
                try:
                    async with contextlib.aclosing(answer):
                        if asking.has_waited:
                            yield Chunk(())  # the wait is over: from here the first-token timeout counts
                        async for item in read_answer(answer, stream, request.silence_ms / 1_000):
                            if stream.events:
                                # The server accepts this dialect, and the trouble is over.
                                self._dialect, self._trouble = asking.dialect, ""
                            for shown in following.shown(item):
                                self.prefix_try.check_item(question.request, shown, self._name)
                                yield shown
                    self._begins_thinking |= stream.ended_unopened
                    return
                except ServerFault as fault:
                    # Some servers accept a request with HTTP 200, and refuse it in the stream.
                    if stream.events or not asking.changes(str(fault)):
                        raise
        except ServerFault as fault:
            raise self._failed(str(fault), request, fault, has_begun=stream.events > 0) from fault
        except httpx.HTTPError as error:
            raise self._failed(network_fault(error), request) from error

    async def _question(self, client: httpx.AsyncClient, asking: Asking) -> Question | ModelLoading | ModelWaiting:
        """The question, or the sign to show until the next attempt. Raises ServerFault, httpx.HTTPError."""
        request, is_llama = asking.request, self._view.kind == "llama-server"
        if request.continues and is_llama and self._completes:
            try:
                return await completion_question(request, client, self._base, self._source.name)
            except NoCompletions as absence:
                if absence.busy and (sign := asking.refused(absence.busy)):
                    return sign
                if absence.is_lasting:
                    # The chat alone is left, and it depends on the chat template.
                    self._completes = self.prefix_try.is_known = False
        begins_thinking = self._begins_thinking or self._view.begins_thinking
        repeats = self.prefix_try.repeats
        return ChatQuestion(request, begins_thinking=begins_thinking, has_ids=is_llama, repeats=repeats)

    async def _answer(
        self, client: httpx.AsyncClient, asking: Asking, question: Question
    ) -> httpx.Response | ModelLoading | ModelWaiting:
        """The beginning of a stream, which the caller closes; or the sign to show until the next attempt. Raises
        ServerFault where another attempt would not help."""
        roots, first = (question.root,) if question.root else self._roots, None
        while True:
            url = at_path(roots[0], question.path)
            content = question.body(self._source.name, asking.dialect)
            headers = {"Content-Type": "application/json"}
            response = await send(client, client.build_request("POST", url, content=content, headers=headers))
            if is_from_council(response.headers) and not self._is_other:
                async with contextlib.AsyncExitStack() as closing:
                    # It has taken the place of the server that was seen. Closing its response ends the session.
                    closing.push_async_callback(response.aclose)
                    before, self._seen = self._seen, None
                    await self._require_other(client)
                    self._seen = before
                    closing.pop_all()
            if response.status_code == httpx.codes.OK:
                self._seen = self._view
                self._roots = self._roots if question.root else roots[:1]
                return response
            async with contextlib.aclosing(response):
                body = await short_body(response)
            refusal = refused_answer(response, body)
            is_unknown_path = refusal.status == httpx.codes.NOT_FOUND
            if is_unknown_path and len(roots) > 1:
                # Nothing has shown yet where the API begins.
                roots, first = roots[1:], refusal
            elif sign := asking.refused(first if first and is_unknown_path else refusal):
                return sign

    def _see(self, view: View) -> None:
        if view.kind != self._view.kind:
            self._dialect = self._dialect.for_kind(view.kind)
            self.prefix_try.is_known = view.kind == "llama-server"
        self._seen = view
        if view.root:
            self._roots = (httpx.URL(view.root),)

    async def _require_no_loop(self, client: httpx.AsyncClient) -> None:
        """Raises CouncilFault where the model is one of this council, or of another one that is not allowed. A server
        that does not show what it is answers the request with its own error."""
        if self._seen is None:
            try:
                self._see(await look_at(client, self._base, self._roots, self._source))
            except CouncilFault:
                raise
            except ServerFault:
                return
        if self._view.is_council(self._source.name) and not self._is_other:
            await self._require_other(client)

    async def _require_other(self, client: httpx.AsyncClient) -> None:
        await require_other(client, self._base, self._source, self._process)
        self._is_other = True

    async def _loads_for_this(self, client: httpx.AsyncClient) -> bool:
        """True where the server reports that it has to load the model for this request: LM Studio, and a llama-server
        of many models."""
        model = self._view.model_called(self._source.name)
        if self._view.kind != "lm-studio" and (model is None or model.residency in ("unmanaged", "loaded")):
            return False
        with contextlib.suppress(ServerFault, TimeoutError):
            async with asyncio.timeout(GLANCE_S):
                self._see(await look_at(client, self._base, self._roots, self._source))
                model = self._view.model_called(self._source.name)
        return model is not None and model.residency in ("absent", "loading")

    def _failed(
        self, predicate: str, request: Request, fault: ServerFault | None = None, *, has_begun: bool = True
    ) -> BackendFailed:
        """The sentence for a person, without the prompt, which a server may quote."""
        predicate = unquoted(predicate, request.messages)
        about = f"{predicate} {unquoted(fault.words if fault else '', request.messages)}".lower()
        if self._view.kind == "lm-studio" and _EVICTED.search(predicate):
            predicate = f"{predicate} ({AUTO_EVICT})"
        # A model that has begun to answer is in memory, whatever the message contains.
        lacks_memory = not has_begun and any(sign in about for sign in _NO_MEMORY)
        kind = OutOfMemory if lacks_memory else BackendFailed
        failure = kind(without_key(f"{self._name} {predicate}", self._auth))
        failure.is_refusal = not lacks_memory and fault is not None and fault.is_refusal
        return failure
