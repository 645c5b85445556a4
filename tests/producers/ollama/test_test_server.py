"""The test server behaves as an Ollama: its answers have the types of Ollama's own client, and it schedules models."""

from __future__ import annotations

import asyncio
import contextlib
import json
import subprocess
import sys
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import httpx
import ollama
import pytest
from ollama._types import ChatResponse, GenerateResponse, ListResponse, ProcessResponse, ShowResponse
from pydantic import BaseModel

from tests.support.ollama.books import FOR_EVER_S, GB, Limits, StoredModel, keep_alive_seconds
from tests.support.ollama.lines import SAID
from tests.support.ollama.server import OllamaServer, ollama_server
from tests.support.waiting import until

QUICKLY_S = 10.0
MODELS = ("a:1b", "b:1b", "c:1b", "d:1b")


@pytest.fixture
async def server() -> AsyncIterator[OllamaServer]:
    async with ollama_server(
        *(StoredModel(name) for name in MODELS),
        StoredModel("thinker:8b", capabilities=("completion", "thinking", "tools")),
        StoredModel("embedder:latest", capabilities=("embedding",)),
        StoredModel("drafted:7b", has_draft=True),
        *(StoredModel(f"{behaviour}:latest", behaves=behaviour) for behaviour in SAID),
    ) as running:
        yield running


@contextlib.asynccontextmanager
async def asking(server: OllamaServer) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=server.url, trust_env=False, timeout=QUICKLY_S) as client:
        yield client


async def load(client: httpx.AsyncClient, model: str, **more: object) -> httpx.Response:
    return await client.post("/api/generate", json={"model": model, **more})


async def until_loaded(server: OllamaServer, *models: str) -> None:
    async def loaded() -> bool:
        return server.loaded == set(models)

    await until(loaded, f"{models} are loaded", QUICKLY_S)


# Ollama's own client


async def test_ollamas_own_client_can_use_it(server: OllamaServer) -> None:
    client = ollama.AsyncClient(server.url)
    listed = await client.list()
    assert listed.models[-1].model == "a:1b"
    assert listed.models[-1].size == 1_300_000_000
    shown = await client.show("thinker:8b")
    assert shown.capabilities == ["completion", "thinking", "tools"]
    assert shown.details
    assert shown.details.family == "llama"
    assert (await client.generate("a:1b", "")).done_reason == "load"
    (running,) = (await client.ps()).models
    assert (running.model, running.context_length) == ("a:1b", 4096)
    options = {"seed": 3, "num_predict": 6}
    texts = []
    async for part in await client.generate("a:1b", "Hello", stream=True, logprobs=True, options=options):
        texts.append(part.response or "")
        assert part.done or (part.logprobs and part.logprobs[0].token == part.response)
    assert "".join(texts) == (await client.generate("a:1b", "Hello", options=options)).response
    thoughts, words = "", ""
    messages = [{"role": "user", "content": "Hello"}]
    async for part in await client.chat("thinker:8b", messages, stream=True, logprobs=True, top_logprobs=4, think=True):
        thoughts, words = thoughts + (part.message.thinking or ""), words + (part.message.content or "")
        assert part.done or (part.logprobs and len(part.logprobs[0].top_logprobs or []) == 4)
    assert thoughts
    with pytest.raises(ollama.ResponseError, match="model 'nobody' not found"):
        await client.show("nobody")
    with pytest.raises(ollama.ResponseError, match="GGML_ASSERT"):
        async for _ in await client.chat("error_midway", messages, stream=True):
            pass


async def test_every_answer_has_the_types_of_ollamas_client(server: OllamaServer) -> None:
    """And no unknown field, except the ones that Ollama itself sends in addition."""
    beside = {"name", "capabilities", "bytes", "remote_model", "remote_host", "tensors", "type", "shape"}
    async with asking(server) as client:
        await load(client, "a:1b")
        ask = {"model": "thinker:8b", "logprobs": True, "top_logprobs": 3, "options": {"num_predict": 8}}
        answers: list[tuple[type[BaseModel], str]] = [
            (ListResponse, (await client.get("/api/tags")).text),
            (ProcessResponse, (await client.get("/api/ps")).text),
            (ShowResponse, (await client.post("/api/show", json={"model": "a:1b"})).text),
            (GenerateResponse, (await load(client, "a:1b")).text),
            (GenerateResponse, (await load(client, "a:1b", keep_alive=0)).text),
            (ChatResponse, (await client.post("/api/chat", json={"model": "a:1b"})).text),
            (ChatResponse, (await client.post("/api/chat", json={**ask, "messages": [{"role": "user"}]})).text),
            (GenerateResponse, (await client.post("/api/generate", json={**ask, "prompt": "Hello"})).text),
        ]
    for kind, text in answers:
        for line in text.splitlines():
            told = json.loads(line)
            again = kind.model_validate(told).model_dump(exclude_none=True, by_alias=True, mode="json")
            assert _fields(told) - _fields(again) <= beside


def _fields(value: object) -> set[str]:
    if isinstance(value, dict):
        return set(value).union(*(_fields(inner) for name, inner in value.items() if name != "model_info"))
    return set().union(*(_fields(inner) for inner in value)) if isinstance(value, list) else set()


async def test_a_stream_is_ndjson_in_http_chunks_with_the_fields_in_ollamas_order(server: OllamaServer) -> None:
    body = {"model": "a:1b", "messages": [{"role": "user", "content": "<b>&"}], "logprobs": True, "top_logprobs": 2}
    async with asking(server) as client:
        answer = await client.post("/api/chat", json={**body, "options": {"num_predict": 2}})
        whole = (await client.post("/api/chat", json={**body, "stream": False})).json()
    assert answer.headers["content-type"] == "application/x-ndjson"
    assert answer.headers["transfer-encoding"] == "chunked"
    first, _, last = map(json.loads, answer.text.splitlines())
    assert list(first) == ["model", "created_at", "message", "done", "logprobs"]
    assert list(first["logprobs"][0]) == ["token", "logprob", "bytes", "top_logprobs"]
    assert list(last)[:5] == ["model", "created_at", "message", "done", "done_reason"]
    assert list(last)[5:] == [
        "total_duration",
        "load_duration",
        "prompt_eval_count",
        "prompt_eval_duration",
        "eval_count",
        "eval_duration",
    ]
    assert list(whole)[:7] == ["model", "created_at", "message", "done", "done_reason", "logprobs", "total_duration"]


@pytest.mark.parametrize(("top", "status"), [(-1, 400), (0, 200), (20, 200), (21, 400)])
async def test_the_list_of_alternatives_is_bounded(server: OllamaServer, top: int, status: int) -> None:
    async with asking(server) as client:
        answer = await client.post("/api/generate", json={"model": "a:1b", "prompt": "x", "top_logprobs": top})
    assert answer.status_code == status
    if status == 400:
        assert answer.text == '{"error":"top_logprobs must be between 0 and 20"}'


async def test_an_older_version_has_no_logprobs(server: OllamaServer) -> None:
    server.version = "0.12.10"
    async with asking(server) as client:
        ask = {"model": "a:1b", "prompt": "x", "logprobs": True, "top_logprobs": 99}
        assert "logprob" not in (await client.post("/api/generate", json=ask)).text


async def test_the_seed_decides_the_text(server: OllamaServer) -> None:
    client = ollama.AsyncClient(server.url)
    first, again, other = [
        (await client.generate("a:1b", "Hello", options={"seed": seed})).response for seed in (7, 7, 8)
    ]
    assert first == again != other
    assert (await client.generate("a:1b", "Hello")).response != (await client.generate("a:1b", "Hello")).response


# Its scheduler


async def test_the_longest_idle_model_is_evicted_for_another(server: OllamaServer) -> None:
    async with asking(server) as client:
        for model, keep_alive in zip(MODELS, ("10m", "5m", "20m", "10m"), strict=True):
            await load(client, model, keep_alive=keep_alive)
    assert server.loaded == {"a:1b", "c:1b", "d:1b"}
    assert server.books.unloads == ["b:1b"]


async def test_a_load_waits_for_a_model_in_use(server: OllamaServer) -> None:
    server.limits.max_loaded = 1
    server.books.models["a:1b"].behaves = "silent"
    async with asking(server) as client, asking(server) as other:
        async with client.stream("POST", "/api/generate", json={"model": "a:1b", "prompt": "x"}):
            waiting = asyncio.create_task(load(other, "b:1b"))
            await until(lambda: _is(server.books.leaving == "a:1b"), "a:1b is to leave", QUICKLY_S)
            assert server.loaded == {"a:1b"}
        assert (await waiting).json()["done_reason"] == "load"
    assert server.loaded == {"b:1b"}


async def test_an_idle_model_is_evicted_before_one_in_use(server: OllamaServer) -> None:
    """The model in use has the shorter keep_alive."""
    server.limits.max_loaded = 2
    server.books.models["a:1b"].behaves = "silent"
    question = {"model": "a:1b", "prompt": "x", "keep_alive": 1}
    async with asking(server) as client, asking(server) as other:
        await load(other, "b:1b", keep_alive="1h")
        async with client.stream("POST", "/api/generate", json=question):
            await load(other, "c:1b")
            assert server.loaded == {"a:1b", "c:1b"}


async def test_a_client_that_leaves_during_a_load_does_not_delay_the_others(server: OllamaServer) -> None:
    server.books.may_load.clear()
    async with asking(server) as client:
        loading = asyncio.create_task(load(client, "a:1b"))
        await until(lambda: _is(not server.books.nothing_loads.is_set()), "a load has begun", QUICKLY_S)
        loading.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await loading
    server.books.may_load.set()
    await until_loaded(server, "a:1b")
    (runner,) = server.books.loaded.values()
    await until(lambda: _is(runner.users == 0), "nobody uses it", QUICKLY_S)


async def test_models_are_evicted_for_memory_and_one_that_is_too_large_alone_is_refused(server: OllamaServer) -> None:
    server.limits.memory_bytes = 4 * GB
    async with asking(server) as client:
        for model in ("a:1b", "b:1b", "c:1b"):
            await load(client, model)
        assert len(server.loaded) == 2
        assert "c:1b" in server.loaded
        server.limits.memory_bytes = GB
        answer = await load(client, "d:1b")
    assert answer.status_code == 500
    needs, has = "1.3 GiB", "953.7 MiB"
    assert answer.text == f'{{"error":"model requires more system memory ({needs}) than is available ({has})"}}'
    assert server.loaded == set()


async def test_a_full_queue_is_refused_with_ollamas_message(server: OllamaServer) -> None:
    server.limits.max_queue = 0
    server.books.may_load.clear()
    async with asking(server) as client, asking(server) as other:
        loading = asyncio.create_task(load(client, "a:1b"))
        await until(lambda: _is(not server.books.nothing_loads.is_set()), "a load has begun", QUICKLY_S)
        answer = await load(other, "b:1b")
        assert answer.status_code == 503
        assert answer.text == '{"error":"server busy, please try again.  maximum pending requests exceeded"}'
        server.books.may_load.set()
        assert (await loading).status_code == 200


async def _is(value: bool) -> bool:
    return value


async def test_an_idle_model_is_unloaded_after_its_keep_alive(server: OllamaServer) -> None:
    async with asking(server) as client:
        await load(client, "a:1b", keep_alive="30ms")
        await load(client, "b:1b", keep_alive=-1)
        await until_loaded(server, "b:1b")
        (running,) = (await client.get("/api/ps")).json()["models"]
        assert running["expires_at"] > "2300"
        await load(client, "b:1b", keep_alive=0)
        await until_loaded(server)
        await load(client, "c:1b")
        (running,) = (await client.get("/api/ps")).json()["models"]
    left = datetime.fromisoformat(running["expires_at"][:26] + "+00:00") - datetime.now(UTC)
    assert timedelta(minutes=4) < left <= timedelta(minutes=5)


async def test_other_runner_options_load_a_model_again(server: OllamaServer) -> None:
    """Speculative decoding is on for a model with a draft, unless the request turns it off."""
    async with asking(server) as client:
        for options in ({}, {"draft_num_predict": 0}, {"draft_num_predict": 0, "seed": 1}):
            await load(client, "drafted:7b", options=options)
            await load(client, "a:1b", options=options)
    assert server.books.loads == ["drafted:7b", "a:1b", "drafted:7b"]


async def test_a_model_answers_as_many_at_once_as_it_has_slots(server: OllamaServer) -> None:
    server.limits.parallel = 2
    server.books.models["a:1b"].behaves = "silent"
    async with contextlib.AsyncExitStack() as stack:
        for _ in range(2):
            client = await stack.enter_async_context(asking(server))
            await stack.enter_async_context(
                client.stream("POST", "/api/generate", json={"model": "a:1b", "prompt": "x"})
            )
        third = asyncio.create_task(load(client, "a:1b", prompt="x"))
        (runner,) = server.books.loaded.values()
        await until(lambda: _is(runner.users == 3), "the third has come", QUICKLY_S)
        assert server.begun["a:1b"] == 2
        third.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await third


async def test_a_request_without_a_client_is_ended(server: OllamaServer) -> None:
    server.limits.tokens_per_s = 1.0
    async with asking(server) as client:
        async with client.stream("POST", "/api/generate", json={"model": "a:1b", "prompt": "x"}) as answer:
            await anext(answer.aiter_raw())
            (runner,) = server.books.loaded.values()
            assert runner.users == 1
        await until(lambda: _is(runner.users == 0), "the runner is idle", QUICKLY_S)
    assert (server.begun["a:1b"], server.ended["a:1b"]) == (1, 0)


@pytest.mark.parametrize(
    ("told", "seconds"),
    [(0, 0.0), (5, 5.0), (-1, FOR_EVER_S), ("0", 0.0), ("10m", 600.0), ("1h30m", 5400.0), ("-1s", FOR_EVER_S)],
)
def test_keep_alive_has_many_forms(told: object, seconds: float) -> None:
    assert keep_alive_seconds(told) == seconds


async def test_a_keep_alive_without_a_unit_is_refused_as_go_refuses_it(server: OllamaServer) -> None:
    async with asking(server) as client:
        assert (await load(client, "a:1b", keep_alive="-1")).json() == {"error": 'time: missing unit in duration "-1"'}


# As a process


def test_it_runs_as_a_process_prints_its_models_and_ends_with_its_input() -> None:
    command = [sys.executable, "-m", "tests.support.ollama.server", "--model", "one=2.5", "--model", "bad=1:silent"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        assert process.stdin
        url = process.stdout.readline().strip()
        client = ollama.Client(url)
        assert {(model.model, model.size) for model in client.list().models} == {
            ("one:latest", 2_500_000_000),
            ("bad:latest", 1_000_000_000),
        }
        client.generate("one", "Hello", options={"num_predict": 2})
        assert httpx.post(f"{url}/books", json={"max_loaded": 1}).json()["max_loaded"] == 1
        client.generate("bad", "")
        books = httpx.get(f"{url}/books").json()
        assert (books["loads"], books["unloads"]) == (["one:latest", "bad:latest"], ["one:latest"])
        assert books["begun"] == books["ended"] == {"one:latest": 1}
        assert [asked["path"] for asked in books["requests"]] == ["/api/tags", "/api/generate", "/api/generate"]
        process.stdin.close()
        assert process.wait(QUICKLY_S) == 0


def test_its_limits_are_ollamas_by_default() -> None:
    assert (Limits().max_loaded, Limits().parallel, Limits().max_queue, Limits().keep_alive_s) == (3, 1, 512, 300.0)
