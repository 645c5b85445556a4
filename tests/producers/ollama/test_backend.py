"""The Ollama backend and its residence, with a test server that schedules models as Ollama does."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Sequence

import httpx
import msgspec
import pytest

from producers.backend import (
    BackendFailed,
    Chunk,
    Ending,
    ModelLoading,
    ModelWaiting,
    OutOfMemory,
    Piece,
    Request,
    Resident,
)
from producers.ollama import backend as module
from producers.ollama.backend import OllamaBackend
from producers.servers import streaming
from producers.source import ModelSource
from schemas.errors import Refused
from schemas.sessions import Message
from tests.support.ollama.books import GB, StoredModel
from tests.support.ollama.lines import SAID
from tests.support.ollama.server import SPECIAL, OllamaServer, ollama_server
from tests.support.waiting import until

QUICKLY_S = 10.0
PROMPT = "Tell me about LAMBDAS"
REQUEST = Request(PROMPT, "", max_tokens=40, temperature=0.7, seed=3, top_k=20, silence_ms=5_000)
SIZE = 1_000_000_000
IN_MEMORY = 1_100_000_000
MODELS = (
    StoredModel("small:latest", SIZE),
    StoredModel("other:1b", SIZE, on_gpu=0.25),
    StoredModel("thinker:8b", SIZE, capabilities=("completion", "thinking")),
    StoredModel("base:1b", SIZE, template="{{ .Prompt }}"),
    StoredModel("rendered:30b", SIZE, template="{{ .Prompt }}", renderer="qwen3-coder"),
    StoredModel("drafted:7b", SIZE, has_draft=True),
    StoredModel("embedder:latest", SIZE, capabilities=("embedding",)),
    StoredModel("far:120b-cloud", remote_host="https://ollama.com:443"),
    *(StoredModel(f"{name}:latest", SIZE, behaves=name) for name in (*SAID, *SPECIAL)),
)
Item = Chunk | ModelLoading | ModelWaiting | Ending


@pytest.fixture
async def server(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[OllamaServer]:
    for name in ("OLLAMA_MAX_LOADED_MODELS", "OLLAMA_NUM_PARALLEL"):
        monkeypatch.delenv(name, raising=False)
    async with ollama_server(*MODELS) as running:
        yield running


def asked(**changes: object) -> Request:
    return msgspec.structs.replace(REQUEST, **changes)


@contextlib.asynccontextmanager
async def started(model: str, url: str, **source: object) -> AsyncIterator[OllamaBackend]:
    backend = OllamaBackend(model, msgspec.structs.replace(ModelSource("ollama", model, url), **source))
    async with asyncio.timeout(QUICKLY_S):
        await backend.start()
        try:
            yield backend
        finally:
            await backend.close()


async def items_of(backend: OllamaBackend, request: Request = REQUEST) -> list[Item]:
    return [item async for item in backend.generate(request)]


def pieces_in(items: Sequence[Item]) -> list[Piece]:
    return [piece for item in items if isinstance(item, Chunk) for piece in item.pieces]


def text_of(pieces: Sequence[Piece]) -> str:
    return "".join(piece.text for piece in pieces)


async def failure_of(backend: OllamaBackend, request: Request = REQUEST) -> tuple[str, str]:
    """(the text that came before the failure, the failure's sentence without the server's name)."""
    pieces: list[Piece] = []
    try:
        async for item in backend.generate(request):
            pieces += pieces_in([item])
    except BackendFailed as failed:
        return text_of(pieces), sentence(backend, failed)
    pytest.fail(f"it did not fail, but answered {text_of(pieces)!r}")


def sentence(backend: OllamaBackend, failure: Exception) -> str:
    name, at, rest = str(failure).partition(f" at {backend.facts.server} ")
    assert (name + ":latest", at != "") == (backend.facts.model, True) or name == backend.facts.model
    return rest


async def _is(value: bool) -> bool:
    return value


# An answer


@pytest.mark.parametrize("model", ["small", "base:1b"])
async def test_a_stream_adds_up_to_the_whole_answer_and_every_token_is_measured(
    server: OllamaServer, model: str
) -> None:
    async with started(model, server.url) as backend:
        items = await items_of(backend)
    question, path = server.questions[0], server.paths[-1]
    async with httpx.AsyncClient(base_url=server.url, trust_env=False) as client:
        whole = (await client.post(path, json={**question, "stream": False})).json()
    pieces = pieces_in(items)
    assert text_of(pieces) == (whole["message"]["content"] if "message" in whole else whole["response"])
    assert items[-1] == Ending(whole["done_reason"], prompt_tokens=whole["prompt_eval_count"])
    assert [piece.logprob for piece in pieces] == [entry["logprob"] for entry in whole["logprobs"]]
    for piece in pieces:
        assert piece.quality == "real"
        assert len(piece.top) == 20


async def test_the_request_contains_what_was_asked_for(server: OllamaServer) -> None:
    history = (Message("user", "Hello"), Message("assistant", "Good day"))
    async with started("small", server.url, keep_alive_s=77) as backend:
        await items_of(backend, asked(system="Be brief \ud83d", history=history, top_k=100))
        await items_of(backend, asked(seed=None, top_k=0))
    first, second = server.questions
    assert first == {
        "model": "small:latest",
        "stream": True,
        "logprobs": True,
        "top_logprobs": 20,
        "keep_alive": 77,
        "truncate": False,
        "options": {"draft_num_predict": 0, "num_predict": 40, "temperature": 0.7, "seed": 3},
        "messages": [
            {"role": "system", "content": "Be brief \ud83d"},
            {"role": "user", "content": "Hello"},
            {"role": "assistant", "content": "Good day"},
            {"role": "user", "content": PROMPT},
        ],
    }
    assert second["top_logprobs"] == 0
    assert "seed" not in second["options"]
    assert {path for path in server.paths if path in ("/api/chat", "/api/generate")} == {"/api/chat"}


async def test_a_model_without_a_template_continues_the_text(server: OllamaServer) -> None:
    """Its template would leave out the system text and the turns before."""
    async with started("base:1b", server.url) as backend:
        await items_of(backend, asked(system="A fable.", history=(Message("user", "Once"),)))
    (question,) = server.questions
    assert (question["prompt"], question["raw"]) == (f"A fable.\n\nOnce\n\n{PROMPT}", True)
    assert server.paths[-1] == "/api/generate"


async def test_a_model_with_a_built_in_chat_gets_a_chat(server: OllamaServer) -> None:
    async with started("rendered:30b", server.url) as backend:
        await items_of(backend)
    assert server.paths[-1] == "/api/chat"


async def test_a_thinking_model_is_asked_to_think_and_does_so_in_its_lane(server: OllamaServer) -> None:
    async with started("thinker:8b", server.url) as backend:
        pieces = pieces_in(await items_of(backend))
    assert server.questions[0]["think"] is True
    assert [piece.lane for piece in pieces[:6]] == ["thinking"] * 5 + ["answer"]


async def test_the_seed_decides_the_text(server: OllamaServer) -> None:
    async with started("small", server.url) as backend:
        first, again, other = [
            text_of(pieces_in(await items_of(backend, asked(seed=seed, temperature=1.0)))) for seed in (7, 7, 8)
        ]
    assert first == again != other


async def test_an_older_ollama_answers_without_logprobs(server: OllamaServer) -> None:
    """That is not a trouble: its text is as good."""
    server.version = "0.12.10"
    async with started("small", server.url) as backend:
        pieces = pieces_in(await items_of(backend))
        assert backend.facts.trouble == ""
    assert {(piece.quality, piece.top) for piece in pieces} == {("missing", ())}


async def test_simultaneous_answers_have_a_connection_each(server: OllamaServer) -> None:
    server.limits.parallel = 3
    async with started("small", server.url, parallel=3) as backend:
        assert backend.slots == 3
        seeds = (1, 2, 3)
        together = await asyncio.gather(*(items_of(backend, asked(seed=seed)) for seed in seeds))
        alone = [await items_of(backend, asked(seed=seed)) for seed in seeds]
    assert [pieces_in(items) for items in together] == [pieces_in(items) for items in alone]


async def test_connections_are_kept_and_a_stale_one_is_no_failure(server: OllamaServer) -> None:
    async with started("small", server.url) as backend:
        await items_of(backend)
        assert (server.accepted, len(server.requests)) == (1, 4)
        port = int(server.url.rpartition(":")[2])
        async with _restarted(server, port):
            assert pieces_in(await items_of(backend))


async def test_a_connection_that_closes_as_it_is_used_is_no_failure(server: OllamaServer) -> None:
    async with started("hangs_up_once", server.url) as backend:
        assert text_of(pieces_in(await items_of(backend))) == "One fine day"


@pytest.mark.parametrize(
    "tail", ["/", "/api", "/api/", "?a=b", "/api/chat", "/api/tags", "/v1", "/v1/chat/completions"]
)
async def test_a_url_may_end_in_the_usual_ways(server: OllamaServer, tail: str) -> None:
    async with started("small", server.url + tail) as backend:
        assert (backend.facts.trouble, backend.facts.server) == ("", server.url)


async def test_a_url_of_another_server_is_not_reported_as_a_missing_model(server: OllamaServer) -> None:
    """The sentence names the whole address that was asked."""
    async with started("small", f"{server.url}/v2") as backend:
        asked_at = f"{server.url}/v2/api/tags"
        assert backend.facts.trouble == f"small at {server.url}/v2 answered HTTP 404 at {asked_at}: 404 page not found"


@contextlib.asynccontextmanager
async def _restarted(server: OllamaServer, port: int) -> AsyncIterator[OllamaServer]:
    await server.stop()
    async with ollama_server(*MODELS, port=port) as again:
        yield again


# Loading and waiting


async def test_loading_is_shown_until_the_model_is_in_memory(server: OllamaServer) -> None:
    async with started("small", server.url) as backend:
        first, *others = await items_of(backend)
        assert first == ModelLoading()
        assert not any(isinstance(item, ModelLoading) for item in [*others, *await items_of(backend)])
    assert server.books.loads == ["small:latest"]


@pytest.mark.parametrize("tells", [True, False])
async def test_a_model_answers_while_another_one_is_loaded(server: OllamaServer, tells: bool) -> None:
    """Newer versions of Ollama do not list their models then; the answer comes nevertheless."""
    server.tells_while_loading = tells
    async with started("small", server.url) as backend, started("other:1b", server.url) as other:
        await items_of(backend)
        server.books.may_load.clear()
        loading = asyncio.create_task(other.load())
        await until(lambda: _is(not server.books.nothing_loads.is_set()), "a load has begun", QUICKLY_S)
        items = await items_of(backend)
        server.books.may_load.set()
        await loading
    assert pieces_in(items)
    assert (items[0] == ModelLoading()) is not tells


async def test_a_request_that_finds_the_queue_full_is_sent_again(
    server: OllamaServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "BUSY_PAUSES_S", (0.0, 0.01))
    async with started("small", server.url) as backend:
        await backend.load()
        server.busy = 3
        items = await items_of(backend)
    assert items[:3] == [ModelWaiting()] * 3
    assert pieces_in(items)
    assert server.begun["small:latest"] == 1


async def test_a_queue_that_stays_full_is_a_failure(server: OllamaServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BUSY_PAUSES_S", (0.0,))
    monkeypatch.setattr(module, "BUSY_ASKS", 7)
    monkeypatch.setattr(module, "BUSY_LOADS", 5)
    server.busy = 100
    async with started("small", server.url) as backend:
        assert await failure_of(backend) == ("", "did not accept the request: its queue of requests is full")
        assert server.busy == 93
        with pytest.raises(BackendFailed, match="did not load the model: its queue of requests is full"):
            await backend.load()
        assert server.busy == 88


def test_the_pauses_grow_and_end() -> None:
    assert list(module._pauses(6)) == [0.25, 0.5, 1.0, 2.0, 2.0, 2.0]


async def test_before_the_first_token_silence_is_not_a_failure(server: OllamaServer) -> None:
    server.limits.load_s = 0.1
    async with started("small", server.url) as backend:
        assert pieces_in(await items_of(backend, asked(silence_ms=20)))


# Failures

BEFORE_IT_BEGAN = {
    "nothing": "ended the stream without an answer",
    "only_loads": "only loaded the model: it found nothing to answer",
    "html": "answered with HTML instead of a stream: check the URL",
    "html_503": "answered HTTP 503 with HTML: check the URL",
    "quotes_the_prompt": "answered HTTP 400: cannot render: …",
    "deep": "sent a line that is not Ollama's: ",
    "endless_line": "sent a line of more than 1 MiB",
}
AFTER_IT_BEGAN = {
    "error_midway": "reported an error: an error was encountered while running the model: GGML_ASSERT",
    "error_object": "reported an error: the upstream is gone",
    "no_done": "ended the stream before the answer was complete",
    "half_a_line": "ended the stream in the middle of a line",
    "unloads": "unloaded the model",
    "garbage": "sent a line that is not Ollama's: ",
    "cut": "closed the connection unexpectedly",
    "silent": "sent nothing for 0.2 s",
}
OF_MEMORY = {
    "error_of_memory": "reported an error: CUDA error: out of memory current device: 0",
    "stopped_runner": "answered HTTP 500: llama runner process has terminated: signal: killed",
}


@pytest.mark.parametrize(("model", "expected"), BEFORE_IT_BEGAN.items())
async def test_a_refusal_is_one_clear_sentence(server: OllamaServer, model: str, expected: str) -> None:
    secret = "My darkest secret is that I count in base 7"
    async with started(model, server.url) as backend:
        for request in (asked(prompt=secret), asked(history=(Message("user", secret),))):
            text, failure = await failure_of(backend, request)
            assert text == ""
            assert failure.startswith(expected)
            assert "secret" not in failure


@pytest.mark.parametrize(("model", "expected"), AFTER_IT_BEGAN.items())
async def test_the_text_before_a_break_of_the_stream_is_kept(server: OllamaServer, model: str, expected: str) -> None:
    async with started(model, server.url) as backend:
        text, failure = await failure_of(backend, asked(silence_ms=200))
    assert text == "One fine day"
    assert failure.startswith(expected)


@pytest.mark.parametrize(("model", "expected"), OF_MEMORY.items())
async def test_a_lack_of_memory_is_a_failure_of_its_own(server: OllamaServer, model: str, expected: str) -> None:
    async with started(model, server.url) as backend:
        with pytest.raises(OutOfMemory) as failed:
            await items_of(backend)
        assert sentence(backend, failed.value) == f"has too little memory: it {expected}"


async def test_a_quoted_prompt_about_memory_is_not_a_lack_of_memory(server: OllamaServer) -> None:
    async with started("quotes_the_prompt", server.url) as backend:
        with pytest.raises(BackendFailed) as failed:
            await items_of(backend, asked(prompt="My darkest secret is that I count, out of memory"))
    assert not isinstance(failed.value, OutOfMemory)


@pytest.mark.parametrize("model", ["good", "no_reason", "length", "babbles_on", "last_line_open", "finishes_and_stays"])
async def test_a_finished_answer_ends_however_the_stream_does(
    server: OllamaServer, model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streaming, "TAIL_S", 0.05)
    async with started(model, server.url) as backend:
        *items, ending = await items_of(backend, asked(silence_ms=60_000))
    assert text_of(pieces_in(items)) == "One fine day"
    # Where the last line has a reason it has metrics too.
    counted = None if model in ("no_reason", "last_line_open") else 12
    assert ending == Ending("length" if model == "length" else "stop", prompt_tokens=counted)


async def test_closing_the_iterator_stops_the_generation(server: OllamaServer) -> None:
    server.limits.tokens_per_s = 1.0
    async with started("small", server.url) as backend:
        items = backend.generate(REQUEST)
        while not isinstance(await anext(items), Chunk):
            pass
        (runner,) = server.books.loaded.values()
        assert runner.users == 1
        await items.aclose()
        await until(lambda: _is(runner.users == 0), "the slot is free", QUICKLY_S)
    assert server.ended["small:latest"] == 0


async def test_closing_the_iterator_while_it_waits_closes_the_connection(server: OllamaServer) -> None:
    async with started("never", server.url) as backend:
        items = backend.generate(REQUEST)
        assert await anext(items) == ModelLoading()
        waiting = asyncio.create_task(anext(items))
        await until(lambda: _is(server.begun["never:latest"] == 1), "it is asked", QUICKLY_S)
        waiting.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await waiting
        await until(lambda: _is(server.connections == 0), "no connection is left", QUICKLY_S)


# What is known of a model


async def test_the_facts_are_those_of_the_server(server: OllamaServer) -> None:
    async with started("SMALL", server.url, max_loaded=5) as backend:
        facts = backend.facts
    assert (facts.model, facts.server, facts.size_bytes) == ("small:latest", server.url, SIZE)
    assert facts.digest == f"sha256:{MODELS[0].blob}"
    assert (facts.max_loaded, facts.max_loaded_setting) == (5, "OLLAMA_MAX_LOADED_MODELS")
    assert (facts.slots, facts.remote, facts.trouble, backend.pauses) == (1, False, "", False)


async def test_the_limits_are_the_sources_or_the_environments_or_ollamas(
    server: OllamaServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with started("small", server.url) as backend:
        assert (backend.facts.max_loaded, backend.slots) == (3, 1)
    monkeypatch.setenv("OLLAMA_MAX_LOADED_MODELS", "6")
    monkeypatch.setenv("OLLAMA_NUM_PARALLEL", "4")
    async with started("small", server.url) as backend:
        assert (backend.facts.max_loaded, backend.slots) == (6, 4)
    async with started("small", server.url, parallel=2, max_loaded=1) as backend:
        assert (backend.facts.max_loaded, backend.slots) == (1, 2)


async def test_a_model_that_is_not_pulled_fails_with_the_command_that_pulls_it(server: OllamaServer) -> None:
    async with started("phi3:mini", server.url) as backend:
        expected = f"phi3:mini at {server.url} has no model 'phi3:mini': run `ollama pull phi3:mini`"
        assert backend.facts.trouble == expected
        with pytest.raises(BackendFailed) as failed:
            await items_of(backend)
        assert str(failed.value) == expected
        with pytest.raises(BackendFailed, match="ollama pull phi3:mini"):
            await backend.load()
        server.books.models["phi3:mini"] = StoredModel("phi3:mini")
        assert pieces_in(await items_of(backend))
        assert backend.facts.trouble == ""


async def test_an_absent_ollama_is_a_trouble_until_it_answers() -> None:
    async with ollama_server(*MODELS) as server:
        port = int(server.url.rpartition(":")[2])
    async with started("small", server.url) as backend:
        expected = f"small at {server.url} cannot be reached: check that Ollama is running"
        assert backend.facts.trouble == expected
        assert backend.facts.model == "small:latest"
        for asking in (items_of(backend), backend.load(), backend.residents(), backend.unload("small")):
            with pytest.raises(BackendFailed) as failed:
                await asking
            assert str(failed.value) == expected
        async with ollama_server(*MODELS, port=port):
            assert pieces_in(await items_of(backend))


async def test_a_model_that_only_embeds_is_refused(server: OllamaServer) -> None:
    async with started("embedder", server.url) as backend:
        assert backend.facts.trouble.endswith(" generates no text: it is for embedding")
        assert (await failure_of(backend))[1] == "generates no text: it is for embedding"
    assert not server.questions


async def test_a_prompt_is_sent_to_a_cloud_only_where_the_source_is_remote(server: OllamaServer) -> None:
    """Ollama lists such models beside its own, and silently sends the prompt on."""
    async with started("far:120b-cloud", server.url) as backend:
        assert backend.facts.remote
        expected = "runs at ollama.com:443, so the prompt would leave this machine"
        assert (await failure_of(backend))[1] == expected
        assert backend.residence is None
    assert not server.questions
    async with started("far:120b-cloud", server.url, remote=True) as backend:
        assert (backend.facts.trouble, backend.facts.size_bytes, backend.residence) == ("", 0, None)
        items = await items_of(backend)
    assert isinstance(items[0], Chunk)
    assert server.books.loads == []


async def test_the_council_does_not_manage_the_memory_of_a_remote_ollama(server: OllamaServer) -> None:
    """Its loading is shown nevertheless, as the reason of the wait."""
    async with started("small", server.url, remote=True) as backend:
        assert (backend.residence, backend.facts.remote, backend.facts.trouble) == (None, True, "")
        assert (await items_of(backend))[0] == ModelLoading()


async def test_a_name_of_the_cloud_is_enough_to_refuse_it(server: OllamaServer) -> None:
    server.books.models["quiet:cloud"] = StoredModel("quiet:cloud")
    async with started("quiet:cloud", server.url) as backend:
        assert (await failure_of(backend))[1].startswith("runs at Ollama's cloud, ")


async def test_credentials_and_keys_are_sent_and_never_shown(
    server: OllamaServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = server.url.replace("http://", "http://ada:love@")
    async with started("error_midway", f"{url}/?key=hidden") as backend:
        _, failure = await failure_of(backend)
        assert backend.facts.server == server.url
    assert {_header(asked.head, "authorization") for asked in server.requests} == {"Basic YWRhOmxvdmU="}
    monkeypatch.setenv("MY_KEY", "s3cret")
    server.requests.clear()
    async with started("error_midway", server.url, key_env="MY_KEY") as backend:
        failure += (await failure_of(backend))[1] + repr(backend.facts)
    assert {_header(asked.head, "authorization") for asked in server.requests} == {"Bearer s3cret"}
    assert not any(secret in failure for secret in ("love", "hidden", "s3cret"))


def _header(head: str, name: str) -> str:
    rows = dict(row.split(": ", 1) for row in head.split("\r\n")[1:] if row)
    return next((value for key, value in rows.items() if key.lower() == name), "")


@pytest.mark.parametrize("url", ["", "ollama", "ftp://127.0.0.1", "http://:0", "http://127.0.0.1:99999"])
def test_a_source_without_a_url_is_refused(url: str) -> None:
    with pytest.raises(Refused, match="is not valid: give one like http://"):
        OllamaBackend("small", ModelSource("ollama", "small", url))


# Its residence


async def test_residents_have_their_sizes_in_ram_and_vram(server: OllamaServer) -> None:
    async with started("small", server.url) as small, started("other:1b", server.url) as other:
        assert await small.residents() == ()
        await small.load()
        await other.load()
        residents = await small.residents()
    assert set(residents) == {
        Resident("small:latest", 0, IN_MEMORY),
        Resident("other:1b", IN_MEMORY - IN_MEMORY // 4, IN_MEMORY // 4),
    }


async def test_a_model_is_loaded_once_and_kept_for_the_configured_time(server: OllamaServer) -> None:
    """A model with a draft would be loaded again if the request had other options than the load."""
    async with started("drafted:7b", server.url, keep_alive_s=1_234) as backend:
        await backend.load()
        await backend.load()
        assert not any(isinstance(item, ModelLoading) for item in await items_of(backend))
    assert server.books.loads == ["drafted:7b"]
    assert [asked.body["keep_alive"] for asked in server.requests if "keep_alive" in asked.body] == [1_234] * 3


async def test_a_model_with_keep_alive_0_is_loaded_nevertheless(server: OllamaServer) -> None:
    """An empty prompt with keep_alive 0 would unload it."""
    async with started("small", server.url, keep_alive_s=0) as backend:
        await backend.load()
        assert server.loaded == {"small:latest"}
        await items_of(backend)
        await until(lambda: _is(server.loaded == set()), "it has left memory", QUICKLY_S)


async def test_a_model_that_does_not_fit_fails_with_numbers(server: OllamaServer) -> None:
    server.limits.memory_bytes = GB
    async with started("small", server.url) as backend:
        with pytest.raises(OutOfMemory) as failed:
            await backend.load()
        assert sentence(backend, failed.value) == (
            "has too little memory: it answered HTTP 500: "
            "model requires more system memory (1.0 GiB) than is available (953.7 MiB)"
        )
        with pytest.raises(OutOfMemory):
            await items_of(backend)


async def test_unloading_returns_when_the_model_is_gone(server: OllamaServer) -> None:
    async with started("small", server.url) as small, started("other:1b", server.url) as other:
        await small.load()
        await other.load()
        await small.unload("other:1b")
        assert server.loaded == {"small:latest"}
        await small.unload("small")
        assert await small.residents() == ()


async def test_unloading_an_absent_model_sends_no_request(server: OllamaServer) -> None:
    async with started("small", server.url) as backend:
        await backend.unload("small")
        await backend.unload("nobody:7b")
    assert "/api/generate" not in server.paths


async def test_unloading_waits_for_an_answer_with_a_time_limit(
    server: OllamaServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "UNLOAD_S", 0.1)
    monkeypatch.setattr(module, "UNLOAD_LOOKS_S", 0.01)
    async with started("silent", server.url) as backend:
        items = backend.generate(asked(silence_ms=60_000))
        while not isinstance(await anext(items), Chunk):
            pass
        with pytest.raises(BackendFailed, match=r"still has silent:latest in memory after 0\.1 s"):
            await backend.unload("silent")
        monkeypatch.setattr(module, "UNLOAD_S", QUICKLY_S)
        unloading = asyncio.create_task(backend.unload("silent"))
        await items.aclose()
        await unloading
    assert server.loaded == set()


async def test_the_time_to_unload_begins_with_the_request_to_unload(
    server: OllamaServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ollama lists nothing while it loads another model; then it unloads this one after its answer."""
    monkeypatch.setattr(module, "UNLOAD_S", 1.0)
    monkeypatch.setattr(module, "UNLOAD_LOOKS_S", 0.01)
    async with started("silent", server.url) as backend, started("other:1b", server.url) as other:
        items = backend.generate(asked(silence_ms=60_000))
        while not isinstance(await anext(items), Chunk):
            pass
        server.books.may_load.clear()
        loading = asyncio.create_task(other.load())
        await until(lambda: _is(not server.books.nothing_loads.is_set()), "a load has begun", QUICKLY_S)
        unloading = asyncio.create_task(backend.unload("silent"))
        listed_at = time.monotonic() + 1.2
        await until(lambda: _is(time.monotonic() > listed_at), "the first look takes longer than an unload may")
        requests = server.paths.count("/api/generate")
        server.books.may_load.set()
        await loading
        await until(lambda: _is(server.paths.count("/api/generate") > requests), "it is asked to unload", QUICKLY_S)
        await items.aclose()
        await unloading
    assert server.loaded == {"other:1b"}


async def test_a_model_in_memory_under_another_name_is_found(server: OllamaServer) -> None:
    """Two tags of one model share a runner, and Ollama lists it by the name that was loaded."""

    class Copy(StoredModel):
        digest = MODELS[0].digest

    server.books.models["copy:latest"] = Copy("copy:latest", SIZE, weights="small:latest")
    async with started("copy", server.url) as copy, started("small", server.url) as small:
        assert copy.facts.digest == small.facts.digest
        await small.load()
        assert [resident.model for resident in await copy.residents()] == ["copy:latest"]
        assert not any(isinstance(item, ModelLoading) for item in await items_of(copy))
        await copy.unload("copy")
    assert server.loaded == set()
    assert server.books.loads == ["small:latest"]


async def test_the_list_of_residents_waits_for_a_load(server: OllamaServer) -> None:
    server.books.may_load.clear()
    async with started("small", server.url) as small, started("other:1b", server.url) as other:
        loading = asyncio.create_task(other.load())
        await until(lambda: _is(not server.books.nothing_loads.is_set()), "a load has begun", QUICKLY_S)
        telling = asyncio.create_task(small.residents())
        await until(lambda: _is("/api/ps" in server.paths), "it is asked", QUICKLY_S)
        server.books.may_load.set()
        assert [resident.model for resident in await telling] == ["other:1b"]
        await loading
