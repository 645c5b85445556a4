"""What an Ollama offers, its limits, and its address."""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from producers.backend import BackendFailed, ServerAway
from producers.ollama import offers as module
from producers.ollama.offers import (
    OllamaLimits,
    has_logprobs,
    ollama_limits,
    ollama_offers,
    ollama_url,
    ollama_version,
)
from producers.ollama.server import canonical_name, is_about_memory, is_cloud_name
from producers.source import ModelSource, Offer
from schemas.errors import Refused
from tests.support.ollama.books import StoredModel
from tests.support.ollama.server import OllamaServer, ollama_server
from tests.support.waiting import until, wait_until

URL = "http://127.0.0.1:11434"


@pytest.fixture
async def server() -> AsyncIterator[OllamaServer]:
    async with ollama_server(
        StoredModel("first:1b", 10, family="qwen2", parameter_size="494M", quantization="Q8_0"),
        StoredModel("second:8b", 20, capabilities=("completion", "tools", "thinking")),
        StoredModel("embedder:latest", 30, capabilities=("embedding",)),
        StoredModel("twin:8b", 20, weights="second:8b"),
        StoredModel("far:120b-cloud", remote_host="https://ollama.com:443"),
    ) as running:
        yield running


async def offers_of(server: OllamaServer, **more: str) -> dict[str, Offer]:
    offers = await ollama_offers(server.url, environ=more)
    return {offer.facts.model: offer for offer in offers}


# Its address


@pytest.mark.parametrize(
    ("given", "url"),
    [
        (None, URL),
        ("", URL),
        (' "127.0.0.1:11434" ', URL),
        (":56789", "http://127.0.0.1:56789"),
        ("1.2.3.4", "http://1.2.3.4:11434"),
        ("1.2.3.4:56789", "http://1.2.3.4:56789"),
        ("0.0.0.0", URL),
        ("0.0.0.0:80", "http://127.0.0.1:80"),
        ("http://0.0.0.0", "http://127.0.0.1:80"),
        ("[::]:5", "http://[::1]:5"),
        ("::", "http://[::1]:11434"),
        ("fe80::1", "http://[fe80::1]:11434"),
        ("[2001:db8::1]", "http://[2001:db8::1]:11434"),
        ("https://[2001:db8::1]:7/", "https://[2001:db8::1]:7"),
        ("gpu-box", "http://gpu-box:11434"),
        ("gpu-box:99999", "http://gpu-box:11434"),
        ("gpu-box:x", "http://gpu-box:11434"),
        ("http://gpu-box", "http://gpu-box:80"),
        ("https://gpu-box", "https://gpu-box:443"),
        ("https://gpu-box/ollama/", "https://gpu-box:443/ollama"),
        ("gpu-box/ollama", "http://gpu-box:11434/ollama"),
        ("ollama.com", "https://ollama.com:443"),
    ],
)
def test_ollama_host_is_read_as_ollama_reads_it(given: str | None, url: str) -> None:
    assert ollama_url({} if given is None else {"OLLAMA_HOST": given}) == url


@pytest.mark.parametrize("login", ["ada:love", ":12/love", "ada:12?love", "ada:12#love", "ada:12@love"])
def test_a_password_in_ollama_host_is_refused_and_not_shown(login: str) -> None:
    with pytest.raises(Refused, match="key_env") as caught:
        ollama_url({"OLLAMA_HOST": f"https://{login}@gpu-box"})
    assert "love" not in str(caught.value)


@pytest.mark.parametrize("given", ["ftp://gpu-box", "unix:///run/ollama", "gpu box"])
def test_an_invalid_ollama_host_is_refused_and_not_repeated(given: str) -> None:
    with pytest.raises(Refused, match="OLLAMA_HOST is not a valid address") as refused:
        ollama_url({"OLLAMA_HOST": given})
    assert given not in str(refused.value)


# What it offers


async def test_every_model_is_offered_with_its_facts(server: OllamaServer) -> None:
    offers = await offers_of(server)
    assert list(offers) == ["far:120b-cloud", "twin:8b", "embedder:latest", "second:8b", "first:1b"]
    first = offers["first:1b"]
    assert (first.facts.size_bytes, first.details, first.capabilities) == (10, "qwen2 494M Q8_0", ("completion",))
    assert (first.facts.server, first.facts.residency, first.facts.trouble) == (server.url, "absent", "")
    assert first.source == ModelSource("ollama", "first:1b", server.url)
    assert offers["second:8b"].capabilities == ("completion", "tools", "thinking")


async def test_an_embedding_model_is_offered_with_its_trouble(server: OllamaServer) -> None:
    offer = (await offers_of(server))["embedder:latest"]
    assert offer.capabilities == ("embedding",)
    assert offer.facts.trouble == f"embedder:latest at {server.url} generates no text: it is for embedding"


async def test_two_names_of_one_file_have_one_digest(server: OllamaServer) -> None:
    """Their entries in Ollama's list differ, as their templates may; they share a runner nevertheless."""
    offers = await offers_of(server)
    assert offers["twin:8b"].facts.digest == offers["second:8b"].facts.digest != offers["first:1b"].facts.digest


async def test_a_model_of_a_cloud_is_offered_as_remote(server: OllamaServer) -> None:
    offer = (await offers_of(server))["far:120b-cloud"]
    assert (offer.facts.remote, offer.source.remote, offer.facts.residency) == (True, True, "unmanaged")
    assert (offer.facts.size_bytes, offer.facts.max_loaded) == (0, 0)


async def test_loaded_models_are_offered_as_loaded(server: OllamaServer) -> None:
    runner = await server.books.acquire(server.books.models["first:1b"], {}, None)
    server.books.release(runner)
    residencies = {name: offer.facts.residency for name, offer in (await offers_of(server)).items()}
    assert residencies["first:1b"] == "loaded"
    assert residencies["second:8b"] == "absent"


async def test_offers_do_not_wait_for_a_load(server: OllamaServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PROBE_RUNNING_S", 0.05)
    server.books.may_load.clear()
    loading = asyncio.create_task(server.books.acquire(server.books.models["first:1b"], {}, None))

    async def loads() -> bool:
        return not server.books.nothing_loads.is_set()

    await until(loads, "a load has begun")
    assert len(await offers_of(server)) == 5
    loading.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await loading


async def test_a_model_that_cannot_be_shown_does_not_hide_the_others(server: OllamaServer) -> None:
    """It was removed after it was listed."""
    shown = server.books.stored
    server.books.stored = lambda name: None if name == "first:1b" else shown(name)  # type: ignore[method-assign]
    offers = await offers_of(server)
    assert offers["first:1b"].facts.trouble.endswith("has no model 'first:1b': run `ollama pull first:1b`")
    assert offers["second:8b"].facts.trouble == ""


async def test_the_sources_limits_have_priority_over_the_environments(server: OllamaServer) -> None:
    environ = {"OLLAMA_MAX_LOADED_MODELS": "5", "OLLAMA_NUM_PARALLEL": "2"}
    offer = (await offers_of(server, **environ))["first:1b"]
    assert (offer.facts.max_loaded, offer.facts.slots) == (5, 2)
    assert offer.facts.max_loaded_setting == "OLLAMA_MAX_LOADED_MODELS"
    defaults = ModelSource("ollama", "", parallel=7, max_loaded=8, keep_alive_s=9)
    offer = (await ollama_offers(server.url, defaults, environ))[-1]
    assert (offer.facts.max_loaded, offer.facts.slots, offer.source.keep_alive_s) == (8, 7, 9)
    assert (offer.source.name, offer.source.parallel) == ("first:1b", 7)


async def test_a_name_with_control_characters_is_not_offered(server: OllamaServer) -> None:
    server.books.models["x"] = StoredModel("\x1b[2Jx:1b")
    server.books.models["y"] = StoredModel("y:1b", family="\x1b[2J" + "y" * 99)
    offers = await offers_of(server)
    assert "y:1b" in offers
    assert len(offers["y:1b"].details) == 80
    assert all(text.isprintable() for offer in offers.values() for text in (offer.facts.model, offer.details))


async def test_the_number_of_offers_is_bounded(server: OllamaServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_OFFERS", 2)
    assert list(await offers_of(server)) == ["far:120b-cloud", "twin:8b"]
    assert server.paths.count("/api/show") == 2


async def test_an_ollama_without_models_offers_none() -> None:
    async with ollama_server() as server:
        assert await ollama_offers(server.url) == ()


async def test_an_absent_ollama_is_a_failure_of_its_own() -> None:
    async with ollama_server() as server:
        pass
    for asking in (ollama_offers(server.url), ollama_version(server.url.replace("//", "//ada:love@"))):
        with pytest.raises(ServerAway) as failed:
            await asking
        assert str(failed.value) == f"Ollama at {server.url} cannot be reached: check that Ollama is running"


async def test_another_kind_of_server_is_noticed(server: OllamaServer) -> None:
    with pytest.raises(BackendFailed, match=r"answered HTTP 404 at http://.*/v2/api/version: 404 page not found"):
        await ollama_version(f"{server.url}/v2")


# Its version


async def test_an_old_version_is_in_the_details_of_each_offer(server: OllamaServer) -> None:
    server.version = "0.12.10"
    assert await ollama_version(server.url) == "0.12.10"
    offer = (await offers_of(server))["first:1b"]
    assert offer.details == "qwen2 494M Q8_0, no logprobs: Ollama 0.12.10 is older than 0.12.11"
    assert offer.facts.trouble == ""


@pytest.mark.parametrize(
    ("version", "has"),
    [
        ("0.12.11", True),
        ("0.12.11-rc1", True),
        ("v0.13.0", True),
        ("1.0.0", True),
        ("0.0.0", True),
        ("", True),
        ("0.12.10", False),
        ("0.9.6-rc0", False),
    ],
)
def test_versions_are_compared_by_number(version: str, has: bool) -> None:
    assert has_logprobs(version) is has


# Its limits


@contextlib.contextmanager
def serving_process(folder: Path, **environ: str) -> Iterator[None]:
    """A process with the command line `ollama serve` and this environment."""
    (folder / "serve").write_text("import sys; sys.stdin.read()")
    with subprocess.Popen(
        ["ollama", "serve"], executable=sys.executable, cwd=folder, stdin=subprocess.PIPE, env=environ
    ) as process:
        assert process.stdin
        wait_until(lambda: b"serve" in Path(f"/proc/{process.pid}/cmdline").read_bytes(), "it has its name")
        yield
        process.stdin.close()


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="this system has no /proc")
def test_the_limits_are_those_of_the_process_that_serves_the_port(tmp_path: Path) -> None:
    with serving_process(tmp_path, OLLAMA_HOST="0.0.0.0:51434", OLLAMA_MAX_LOADED_MODELS="6", OLLAMA_NUM_PARALLEL="x"):
        ours = {"OLLAMA_MAX_LOADED_MODELS": "2", "OLLAMA_NUM_PARALLEL": "2"}
        process = OllamaLimits(6, 1, "the Ollama process")
        assert ollama_limits("http://127.0.0.1:51434", ours) == process
        assert ollama_limits("http://localhost:51434/", ours) == process
        assert ollama_limits("http://127.0.0.1:51435", ours) == OllamaLimits(2, 2, "this environment")
        assert ollama_limits("http://10.0.0.7:51434", ours) == OllamaLimits(2, 2, "this environment")


@pytest.mark.parametrize(
    ("environ", "limits"),
    [
        ({}, OllamaLimits(3, 1, "Ollama's defaults")),
        ({"OLLAMA_NUM_PARALLEL": "4"}, OllamaLimits(3, 4, "this environment")),
        ({"OLLAMA_MAX_LOADED_MODELS": "0"}, OllamaLimits(3, 1, "this environment")),
        ({"OLLAMA_MAX_LOADED_MODELS": "-5", "OLLAMA_NUM_PARALLEL": "'2'"}, OllamaLimits(3, 2, "this environment")),
    ],
)
def test_a_limit_that_is_not_set_is_ollamas(environ: dict[str, str], limits: OllamaLimits, tmp_path: Path) -> None:
    assert ollama_limits(URL, environ, tmp_path) == limits


def test_three_models_fit_each_gpu(tmp_path: Path) -> None:
    for number in range(2):
        os.makedirs(tmp_path / f"driver/nvidia/gpus/0000:0{number}:00.0")
    assert ollama_limits(URL, {}, tmp_path).max_loaded == 6
    assert ollama_limits("http://10.0.0.7:11434", {}, tmp_path).max_loaded == 3


# Its names and messages


@pytest.mark.parametrize(
    ("given", "name"),
    [
        ("llama3.2", "llama3.2:latest"),
        (" llama3.2:1b ", "llama3.2:1b"),
        ("library/phi3", "phi3:latest"),
        ("registry.ollama.ai/library/phi3:mini", "phi3:mini"),
        ("ada/phi3", "ada/phi3:latest"),
        ("hf.co/ada/phi3-GGUF:Q4_K_M", "hf.co/ada/phi3-GGUF:Q4_K_M"),
        ("box:5000/ada/phi3", "box:5000/ada/phi3:latest"),
    ],
)
def test_a_name_is_written_as_ollama_lists_it(given: str, name: str) -> None:
    assert canonical_name(given) == canonical_name(name) == name


@pytest.mark.parametrize(
    ("name", "cloud"),
    [("gpt-oss:120b-cloud", True), ("glm:Cloud", True), ("cloud", False), ("cloud:7b", False), ("x:cloudy", False)],
)
def test_a_name_of_the_cloud_is_recognized(name: str, cloud: bool) -> None:
    assert is_cloud_name(name) is cloud


@pytest.mark.parametrize(
    "words",
    [
        "model requires more system memory (5.6 GiB) than is available (3.2 GiB)",
        "llama-server reported out-of-memory during startup: cudaMalloc failed",
        "error: Insufficient Memory (00000008:kIOGPUCommandBufferCallbackErrorOutOfMemory)",
        "unable to allocate CUDA0 buffer",
        "memory layout cannot be allocated with num_gpu = 99",
        "llama runner process has terminated: signal: killed",
    ],
)
def test_messages_about_memory_are_recognized(words: str) -> None:
    assert is_about_memory(words)
    assert not is_about_memory("model runner has unexpectedly stopped")
