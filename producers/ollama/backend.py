"""A model of an Ollama server, and the memory into which Ollama loads it.

    Request --> in memory? --no--> Loading
                    |
                    v
            POST /api/chat --> 200 and a stream: Chunk, Chunk, ..., Ending
                           --> 503: its queue is full: Waiting, and again a little later
                           --> anything else: BackendFailed or OutOfMemory, with the server's message

A model without a chat template continues a text, which /api/generate takes as it is. Ollama generates on when its
answer is not read; it stops when the connection is closed.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncGenerator, Iterator

import httpx
import msgspec

from producers.backend import (
    BackendFailed,
    Chunk,
    Ending,
    ModelLoading,
    ModelWaiting,
    OutOfMemory,
    Request,
    Resident,
    Written,
)
from producers.ollama.answers import NOT_DESCRIBED, PulledModel, Shown
from producers.ollama.dialect import LOADED_WITH, OllamaDialect
from producers.ollama.offers import is_in_cloud, known_facts, known_limits, ollama_limits
from producers.ollama.server import OllamaServer, StatusFault, UnansweredQuestion, canonical_name, is_about_memory
from producers.ollama.stream import OllamaStream
from producers.servers.faults import ServerFault, unquoted
from producers.servers.following import Following, without_white_space
from producers.servers.prefix_try import PrefixTry
from producers.servers.recorded import Exchange
from producers.servers.streaming import read_answer
from producers.servers.thinking import template_thinks
from producers.source import ModelSource
from schemas.models import ModelFacts

# Whether a model is in memory is known in a millisecond, except while Ollama loads another one.
GLANCE_S = 0.25
# Ollama's queue has 512 places, and a session sends at most six requests: the pauses are long enough to let the queue
# drain. They have no random part, because few producers ask, each with one request at a time.
BUSY_PAUSES_S = (0.25, 0.5, 1.0, 2.0)
# Only a bound: a session lives for an hour at most, and closes the iterator when it does not wait any longer.
BUSY_ASKS = 1_800
# A producer that loads a model has the council's only lease to load: two minutes of a full queue are enough.
BUSY_LOADS = 60
# Ollama ends a load that has made no progress for five minutes; before it begins, another model may have to finish.
LOAD_S = 900.0
# An unload waits for the model's answers. The council unloads idle models only, but other programs use Ollama as well.
UNLOAD_S = 30.0
UNLOAD_LOOKS_S = 0.1
# With keep_alive 0 a loaded model would leave memory before the request that it was loaded for.
LEAST_LOADED_S = 60
# Three requests in all, as with other servers.
MOST_CHANGES = 2


class _Known(msgspec.Struct, frozen=True):
    """What must be known of a model before a request. `manifest` is its digest in Ollama's lists; a model in a cloud
    needs no loading."""

    name: str
    manifest: str
    in_cloud: bool
    has_chat: bool
    thinks: bool
    # Its template opens the thinking, and Ollama does not send it apart.
    begins_thinking: bool = False


class OllamaBackend:
    """One model of one Ollama, and its residence: one pooled client, whose idle connections are kept open."""

    def __init__(self, model: str, source: ModelSource, exchanges: list[Exchange] | None = None) -> None:
        """`model` is the council's name of it. `exchanges` receives what is sent and what comes back. Raises Refused
        for a URL or a key that is not valid."""
        self._server = OllamaServer(source, exchanges=exchanges)
        self._title = f"{model} at {self._server.shown_url}"
        self._source = source
        self._known: _Known | None = None
        self._dialect = OllamaDialect()
        self.prefix_try = PrefixTry()
        self._facts = ModelFacts(canonical_name(source.name), self._server.shown_url, remote=source.remote)

    @property
    def pauses(self) -> bool:
        return False

    @property
    def slots(self) -> int:
        return self._facts.slots

    @property
    def facts(self) -> ModelFacts:
        return msgspec.structs.replace(self._facts, continues=self.prefix_try.continues)

    @property
    def residence(self) -> OllamaBackend | None:
        return None if self._facts.remote else self

    def left_out(self, request: Request) -> tuple[str, ...]:
        """What the server has refused of such a request, and is no longer sent; in words."""
        return self._dialect.changes(request)

    async def start(self) -> None:
        limits = ollama_limits(self._source.url, os.environ)
        self._facts = known_limits(self._facts, self._source, limits)
        # One for each answer, as many for those that are being closed, and some for short requests.
        self._server.open(2 * self._facts.slots + 4)
        with contextlib.suppress(ServerFault):
            await self._learn()

    async def close(self) -> None:
        await self._server.close()

    def generate(self, request: Request) -> AsyncGenerator[Chunk | ModelLoading | ModelWaiting | Ending, None]:
        """Asks for one answer. Raises BackendFailed, and nothing else that the server or the network could cause."""
        return self.prefix_try.answered(self._asked_for, request, self._title)

    def try_prefix(self, request: Request) -> AsyncGenerator[Chunk | ModelLoading | ModelWaiting | Ending, None]:
        """The answer to the request that tries whether the server continues one, which `prefix_try` then knows.
        `request` has its bounds. Raises as generate()."""
        return self.prefix_try.tried(self._asked_for, request)

    async def _asked_for(self, request: Request) -> AsyncGenerator[Chunk | ModelLoading | ModelWaiting | Ending, None]:
        begun, white_space = without_white_space(request.prefix_text)
        request = msgspec.structs.replace(request, prefix=(Written(begun),) if begun else ())
        changes = 0
        try:
            model = await self._usable()
            for pause_s in _pauses(BUSY_ASKS):
                if not await self._is_loaded(model):
                    yield ModelLoading()
                while True:
                    stream = _stream_of(request, model)
                    repeated = begun if self.prefix_try.repeats else ""
                    following = Following(white_space, repeated)
                    try:
                        async with contextlib.aclosing(await self._asked(model, request, repeated)) as answer:
                            async for item in read_answer(answer, stream, request.silence_ms / 1_000):
                                for shown in following.shown(item):
                                    self.prefix_try.check_item(request, shown, self._title)
                                    yield shown
                        if stream.ended_unopened:
                            self._known = msgspec.structs.replace(model, begins_thinking=True)
                        return
                    except ServerFault as refusal:
                        if isinstance(refusal, StatusFault) and refusal.is_busy:
                            break
                        words = refusal.body if isinstance(refusal, StatusFault) else str(refusal).encode()
                        changed = self._dialect.without(words, request, thinks=model.thinks)
                        if stream.events or changed is None or changes == MOST_CHANGES:
                            raise
                        self._dialect, changes = changed, changes + 1
                yield ModelWaiting()
                await asyncio.sleep(pause_s)
            raise ServerFault("did not accept the request: its queue of requests is full")
        except ServerFault as fault:
            raise self._failed(fault, request) from fault
        except httpx.HTTPError as error:
            raise self._failed(self._server.fault_of(error), request) from error

    async def residents(self) -> tuple[Resident, ...]:
        """What is in Ollama's memory. This model has its name of the source, even if it was loaded by another name."""
        try:
            return await self._residents()
        except UnansweredQuestion:
            # Such a server loads a model when it is asked: as far as the council knows, it is in memory.
            return (Resident(self._facts.model, 0, 0),)
        except ServerFault as fault:
            raise self._failed(fault) from fault

    async def _residents(self) -> tuple[Resident, ...]:
        # Newer versions of Ollama answer only when a load under way has ended.
        running = await self._server.running(LOAD_S)
        if self._known is None:
            await self._learn()  # it was away before
        return tuple(
            Resident(
                self._facts.model if self._is_this(model.digest) else model.name,
                max(0, model.size - model.size_vram),
                model.size_vram,
            )
            for model in running
        )

    async def load(self) -> None:
        """Sends an empty prompt, which Ollama answers when the model is in memory."""
        keep_alive = self._source.keep_alive_s or LEAST_LOADED_S
        try:
            model = await self._usable()
            body = {"model": model.name, "keep_alive": keep_alive, "options": LOADED_WITH}
            for pause_s in _pauses(BUSY_LOADS):
                try:
                    await self._server.command(body, LOAD_S)
                    return
                except StatusFault as refusal:
                    if not refusal.is_busy:
                        raise
                await asyncio.sleep(pause_s)
            raise ServerFault("did not load the model: its queue of requests is full")
        except ServerFault as fault:
            raise self._failed(fault) from fault

    async def unload(self, model: str) -> None:
        """Sends an empty prompt with keep_alive 0, then looks until the model is gone."""
        name, clock = canonical_name(model), asyncio.get_running_loop().time
        asked_at: float | None = None
        try:
            while any(name == resident.model for resident in await self._residents()):
                if asked_at is None:
                    await self._server.command({"model": name, "keep_alive": 0}, UNLOAD_S)
                    # From here: the first look may have taken minutes, while Ollama loaded another model.
                    asked_at = clock()
                elif clock() >= asked_at + UNLOAD_S:
                    raise ServerFault(f"still has {name} in memory after {UNLOAD_S:g} s: is another program using it?")
                else:
                    await asyncio.sleep(UNLOAD_LOOKS_S)
        except UnansweredQuestion:
            return  # it has no list of what is in memory, and unloads models itself
        except ServerFault as fault:
            raise self._failed(fault) from fault

    async def _usable(self) -> _Known:
        """The model as its server describes it, read once. Raises ServerFault, and BackendFailed where the model cannot
        be used."""
        known = self._known or await self._learn()
        if self._facts.trouble:
            raise BackendFailed(self._facts.trouble)
        return known

    async def _learn(self) -> _Known:
        """Reads what there is to know into `facts`, or why that failed. Raises ServerFault."""
        source, listed = self._source, tuple[PulledModel, ...]()
        try:
            shown = await self._described()
            # One of the two is enough to know that this is the right kind of server.
            with contextlib.suppress(*([UnansweredQuestion] if shown.is_described else [])):
                listed = await self._server.listed()
        except ServerFault as fault:
            self._facts = msgspec.structs.replace(self._facts, trouble=self._server.shown(f"{self._title} {fault}"))
            raise
        name = canonical_name(source.name).lower()
        own = next((model for model in listed if model.name.lower() == name), None)
        self._facts = known_facts(self._facts, self._title, own, shown, source)
        thinks = "thinking" in shown.capabilities
        manifest, in_cloud = own.digest if own else "", is_in_cloud(self._facts.model, own, shown)
        begins_thinking = template_thinks(shown.template)
        # Without a chat template the answer so far is the end of the text that the model continues.
        self.prefix_try.is_known = not shown.has_chat
        self._known = _Known(self._facts.model, manifest, in_cloud, shown.has_chat, thinks, begins_thinking)
        return self._known

    async def _described(self) -> Shown:
        try:
            return await self._server.show(self._source.name)
        except UnansweredQuestion:
            return NOT_DESCRIBED

    async def _asked(self, model: _Known, request: Request, repeated: str) -> httpx.Response:
        """The beginning of a stream, which the caller closes; `repeated` as in OllamaDialect.question()."""
        path, body = self._dialect.question(
            model.name,
            request,
            self._source.keep_alive_s,
            has_chat=model.has_chat,
            thinks=model.thinks,
            repeated=repeated,
        )
        return await self._server.stream(path, body)

    async def _is_loaded(self, model: _Known) -> bool:
        """False where the model is not in memory, or where Ollama does not answer at once."""
        if model.in_cloud:
            return True
        try:
            running = await self._server.running(GLANCE_S)
        except UnansweredQuestion:
            return True  # whether it is in memory stays unknown
        except ServerFault:
            return False
        return any(other.name == model.name or self._is_this(other.digest) for other in running)

    def _is_this(self, digest: str) -> bool:
        return self._known is not None and digest == self._known.manifest != ""

    def _failed(self, fault: ServerFault, request: Request | None = None) -> BackendFailed:
        """The sentence for a person, without the prompt, which a server may quote."""
        predicate = self._server.shown(unquoted(str(fault), request.messages if request else ()))
        words = unquoted(fault.words, request.messages if request else ())
        if is_about_memory(predicate) or is_about_memory(words):
            return OutOfMemory(f"{self._title} has too little memory: it {predicate}")
        failure = BackendFailed(f"{self._title} {predicate}")
        failure.is_refusal = fault.is_refusal
        return failure


def _stream_of(request: Request, model: _Known) -> OllamaStream:
    """The reader of the answer. A model does not think about an answer that it continues."""
    thinks = not request.continues
    return OllamaStream(request.top_k, thinks=thinks and model.thinks, begins_thinking=thinks and model.begins_thinking)


def _pauses(asks: int) -> Iterator[float]:
    """The pause after each of so many attempts."""
    return (BUSY_PAUSES_S[min(ask, len(BUSY_PAUSES_S) - 1)] for ask in range(asks))
