"""What OpenAI-compatible servers report: their models, their slots, and which of them are remote."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.gguf_model import gguf_model
from bench.llama_server import llama_server
from producers.backend import BackendFailed
from producers.openai import offers as offers_module
from producers.openai.backend import OpenAIBackend
from producers.openai.offers import AUTO_EVICT, openai_offers
from producers.openai.view import DEFAULT_SLOTS, View, view_of
from producers.servers.address import is_remote, server_address
from producers.source import ModelSource, Offer
from schemas.errors import Refused
from tests.support.faulty_server import FaultyServer, Whole, as_json, faulty_server
from tests.support.llama import skip_without_llama
from tests.support.session_folder import session_folder

QUICKLY_S = 5.0

# What each server sends, shortened.
VLLM = {
    "object": "list",
    "data": [
        {
            "id": "Qwen/Qwen2.5-7B-Instruct",
            "object": "model",
            "created": 1795357522,
            "owned_by": "vllm",
            "root": "Qwen/Qwen2.5-7B-Instruct",
            "parent": None,
            "max_model_len": 32768,
            "permission": [{"id": "modelperm-1", "object": "model_permission", "allow_logprobs": True}],
        }
    ],
}
OLLAMA = {"object": "list", "data": [{"id": "llama3.2:latest", "object": "model", "owned_by": "library"}]}
STUDIO = {
    "object": "list",
    "data": [{"id": name, "object": "model", "owned_by": "organization_owner"} for name in ("qwen3-4b", "nomic")],
}
STUDIO_V0 = {
    "object": "list",
    "data": [
        {
            "id": "qwen3-4b", "object": "model", "type": "llm", "publisher": "qwen", "arch": "qwen3",
            "compatibility_type": "gguf", "quantization": "Q4_K_M", "state": "not-loaded", "max_context_length": 32768,
        },
        {"id": "gemma-3-12b", "object": "model", "type": "vlm", "state": "loaded", "max_context_length": 131072},
        {"id": "nomic", "object": "model", "type": "embeddings", "state": "loaded", "max_context_length": 2048},
    ],
}  # fmt: skip
STUDIO_V1 = {
    "models": [
        {
            "type": "llm", "publisher": "qwen", "key": "qwen3-4b", "display_name": "Qwen3 4B", "architecture": "qwen3",
            "quantization": {"name": "Q4_K_M", "bits_per_weight": 4}, "size_bytes": 2500000000, "params_string": "4B",
            "loaded_instances": [{"id": "qwen3-4b:2", "config": {"context_length": 4096, "parallel": 3}}],
            "max_context_length": 32768, "format": "gguf", "capabilities": {"vision": False},
        },
        {
            "type": "llm", "key": "gemma-3-12b", "quantization": None, "size_bytes": 8000000000, "params_string": None,
            "loaded_instances": [], "max_context_length": 131072,
        },
        {
            "type": "embedding", "key": "nomic", "size_bytes": 84000000, "loaded_instances": [],
            "max_context_length": 2048,
        },
    ]
}  # fmt: skip
# A llama-server of many models.
ROUTER = {
    "object": "list",
    "data": [
        {"id": "a", "object": "model", "owned_by": "llamacpp", "status": {"value": "unloaded"}},
        {"id": "b", "object": "model", "owned_by": "llamacpp", "status": {"value": "loading", "args": []}},
        {"id": "c", "object": "model", "owned_by": "llamacpp", "status": {"value": "sleeping"}},
    ],
}
LISTED = {"data": [{"id": name, "object": "model", "owned_by": "someone"} for name in "abcdefg"]}
# LM Studio's answer to an unknown path, with HTTP 200.
UNEXPECTED = as_json({"error": "Unexpected endpoint or method. (GET /props)"})


def packed(value: object) -> bytes:
    return json.dumps(value).encode()


def source(url: str, **changes: object) -> ModelSource:
    return msgspec.structs.replace(ModelSource("openai", "", url), **changes)


@pytest.fixture
async def server() -> AsyncIterator[FaultyServer]:
    async with faulty_server() as running:
        yield running


async def offers_of(server: FaultyServer, *models: str, says: dict[str, Any], **changes: object) -> dict[str, Offer]:
    server.says = {path: value if isinstance(value, tuple) else as_json(value) for path, value in says.items()}
    return {offer.facts.model: offer for offer in await openai_offers("gpu", source(server.url, **changes), models)}


async def failure_of(url: str, *models: str, **changes: object) -> str:
    with pytest.raises(BackendFailed) as failed:
        await openai_offers("gpu", source(url, **changes), models)
    return str(failed.value)


def asked_paths(server: FaultyServer) -> list[str]:
    return [look.split()[1] for look in server.looks]


# Each kind of server


async def test_a_real_llama_server_reports_its_size_and_its_slots(tmp_path_factory: pytest.TempPathFactory) -> None:
    path = gguf_model(session_folder(tmp_path_factory))
    skip_without_llama()
    with llama_server(path, slots=3) as url:
        (offer,) = await openai_offers("gpu", source(f"{url}/v1"))
        (named,) = await openai_offers("gpu", source(url, parallel=2), ["any-name"])
    assert (offer.facts.server, offer.source.name) == (url, offer.facts.model)
    # Its weights, without the rest of the file.
    assert 0.9 * path.stat().st_size < offer.facts.size_bytes <= path.stat().st_size
    assert (offer.facts.slots, offer.facts.residency, offer.facts.trouble) == (3, "loaded", "")
    assert offer.capabilities == ("completion",)
    assert offer.details == "context 1,048,576"
    # It accepts any name.
    assert (named.facts.model, named.facts.slots, named.facts.trouble) == ("any-name", 2, "")
    assert named.facts.size_bytes == offer.facts.size_bytes


async def test_a_llama_server_that_is_loading_is_shown_as_loading(server: FaultyServer) -> None:
    loading: Whole = ("503 Service Unavailable", "application/json", b'{"error":{"message":"Loading model"}}')
    listed = {"data": [{"id": "a", "owned_by": "llamacpp", "meta": None}]}
    for says in ({"/v1/models": listed, "/props": loading}, {"/v1/models": loading}):
        offers = await offers_of(server, "a", says=says)
        assert (offers["a"].facts.residency, offers["a"].facts.trouble) == ("loading", "")


async def test_a_llama_server_of_many_models_reports_the_loaded_ones(server: FaultyServer) -> None:
    offers = await offers_of(server, says={"/v1/models": ROUTER})
    assert {name: offer.facts.residency for name, offer in offers.items()} == {
        "a": "absent", "b": "loading", "c": "loaded",
    }  # fmt: skip


async def test_vllm_reports_its_context(server: FaultyServer) -> None:
    (offer,) = (await offers_of(server, says={"/v1/models": VLLM})).values()
    assert (offer.details, offer.facts.slots, offer.facts.residency) == ("context 32,768", DEFAULT_SLOTS, "loaded")
    assert asked_paths(server) == ["/v1/models"]


async def test_ollama_answers_one_request_at_a_time_and_accepts_a_name_without_its_tag(server: FaultyServer) -> None:
    offers = await offers_of(server, "llama3.2", says={"/v1/models": OLLAMA})
    assert (offers["llama3.2"].facts.slots, offers["llama3.2"].facts.trouble) == (1, "")


@pytest.mark.parametrize("version", ["v0", "v1"])
async def test_lm_studio_reports_the_loaded_models_and_its_eviction_is_shown(
    server: FaultyServer, version: str
) -> None:
    says = {"/v1/models": STUDIO, f"/api/{version}/models": STUDIO_V0 if version == "v0" else STUDIO_V1}
    offers = await offers_of(server, says={"/props": UNEXPECTED, "/api/v1/models": UNEXPECTED, **says})
    assert list(offers) == ["qwen3-4b", "gemma-3-12b", "nomic"]
    loaded = "gemma-3-12b" if version == "v0" else "qwen3-4b"
    for name in ("qwen3-4b", "gemma-3-12b"):
        assert offers[name].facts.residency == ("loaded" if name == loaded else "absent")
        assert offers[name].capabilities == ("completion",)
        assert (AUTO_EVICT in offers[name].details) == (name != loaded)
        assert "no logprobs" in offers[name].details
        # Each of the two would replace the other.
        assert offers[name].facts.max_loaded == 1
    assert offers["nomic"].capabilities == ("embedding",)
    if version == "v1":
        assert (offers["qwen3-4b"].facts.size_bytes, offers["qwen3-4b"].facts.slots) == (2_500_000_000, 3)
        assert offers["qwen3-4b"].details.startswith("4B; Q4_K_M; context 32,768")


async def test_lm_studio_keeps_the_models_that_its_user_loaded(server: FaultyServer) -> None:
    both = {"data": [{**card, "state": "loaded"} for card in STUDIO_V0["data"]]}
    offers = await offers_of(server, says={"/v1/models": STUDIO, "/api/v0/models": both})
    assert offers["qwen3-4b"].facts.max_loaded == 2
    neither = {"data": [{**card, "state": "not-loaded"} for card in STUDIO_V0["data"]]}
    offers = await offers_of(server, says={"/v1/models": STUDIO, "/api/v0/models": neither})
    assert offers["qwen3-4b"].facts.max_loaded == 1
    configured = await offers_of(server, says={"/v1/models": STUDIO, "/api/v0/models": STUDIO_V0}, max_loaded=4)
    assert configured["qwen3-4b"].facts.max_loaded == 4


async def test_a_remote_server_is_asked_for_its_list_alone(server: FaultyServer) -> None:
    offers = await offers_of(server, says={"/v1/models": LISTED}, remote=True)
    assert all(offer.facts.remote and offer.source.remote for offer in offers.values())
    assert asked_paths(server) == ["/v1/models"]


# Named models


async def test_only_named_models_are_offered_and_a_missing_one_has_its_trouble(server: FaultyServer) -> None:
    offers = await offers_of(server, "c", "z", says={"/v1/models": LISTED})
    assert list(offers) == ["c", "z"]
    assert offers["c"].facts.trouble == ""
    assert offers["z"].facts.trouble == (f"{server.url} does not list the model 'z': it lists a, b, c, d, e and 2 more")


async def test_a_server_without_a_list_offers_the_named_models(server: FaultyServer) -> None:
    assert (await offers_of(server, "z", says={}))["z"].facts.trouble == ""
    assert await failure_of(server.url) == (
        f"{server.url} has no list of models (HTTP 404 at {server.url}/v1/models: File Not Found): "
        "name those to use under models in [servers.gpu]"
    )


async def test_a_server_that_is_away_or_requires_a_key_is_one_clear_sentence(
    server: FaultyServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = "http://127.0.0.1:1"
    assert await failure_of(gone) == f"{gone} cannot be reached: check that the model server is running"
    server.says = {"/v1/models": as_json({"error": {"message": "No key"}}, "401 Unauthorized")}
    assert await failure_of(server.url) == (
        f"{server.url} requires an API key (HTTP 401: No key): name its environment variable with key_env"
    )
    monkeypatch.setenv("GPU_KEY", "sesame-open-up")
    server.says = {"/v1/models": as_json({"error": {"message": "sesame-open-up is wrong"}}, "401 Unauthorized")}
    assert await failure_of(server.url, key_env="GPU_KEY") == (
        f"{server.url} rejects the API key (HTTP 401: … is wrong): correct it in the variable GPU_KEY"
    )
    assert "GPU_KEY2" in await failure_of(server.url, key_env="GPU_KEY2")


async def test_a_silent_server_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    async def stay_silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    monkeypatch.setattr(offers_module, "LOOK_S", 0.05)
    async with await asyncio.start_server(stay_silent, "127.0.0.1", 0) as listening:
        url = f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}"
        async with asyncio.timeout(QUICKLY_S):
            advice = "name those to use under models in [servers.gpu]"
            assert await failure_of(url) == f"{url} did not list its models within 0.05 s: {advice}"
            # With named models the list is knowledge that may be missing.
            (offer,) = await openai_offers("gpu", source(url), ("z",))
            assert (offer.facts.trouble, offer.details) == ("", "did not list its models within 0.05 s")
            backend = OpenAIBackend("z", offer.source)
            await backend.start()
            assert backend.facts.trouble == ""
            await backend.close()


async def test_a_server_that_does_not_answer_a_question_aside_is_described_by_its_list(
    server: FaultyServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A busy llama-server does not answer /props in time; other servers know none of LM Studio's paths."""
    monkeypatch.setattr(offers_module, "LOOK_S", 0.5)
    monkeypatch.setattr(offers_module, "ASIDE_S", 0.5, raising=False)
    server.hangs = {"/props", "/api/v1/models", "/api/v0/models"}
    llama = {"object": "list", "data": [{"id": "tiny", "object": "model", "owned_by": "llamacpp"}]}
    for listed, names in ((llama, ["tiny"]), (STUDIO, ["qwen3-4b", "nomic"])):
        assert list(await offers_of(server, says={"/v1/models": listed})) == names


# Any other answers

NAMES = [
    "data",
    "models",
    "id",
    "key",
    "name",
    "owned_by",
    "meta",
    "size",
    "state",
    "type",
    "aliases",
    "status",
    "value",
    "capabilities",
    "loaded_instances",
    "config",
    "parallel",
    "quantization",
    "total_slots",
]
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 2**40) | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(NAMES), inner, max_size=5),
    max_leaves=20,
)


@given(JSON, JSON, JSON, JSON)
def test_every_answer_of_a_server_gives_a_view(models: Any, props: Any, keys: Any, cards: Any) -> None:
    for owner in ("llamacpp", "vllm", "library", None):
        listed = {"data": [{"id": "m", "owned_by": owner, "meta": models}, models], "models": models}
        view = view_of(packed(listed), packed(props), packed(keys), packed(cards))
        facts = view.facts_of(source("http://x", name="m"), "http://x")
        assert facts.slots >= 1
        assert facts.size_bytes >= 0


@pytest.mark.parametrize("body", [b"", b"<html>", b"[" * 100_000, b'{"data":', b"\xff", b"null", b"3"])
def test_a_body_that_is_not_a_list_counts_as_empty(body: bytes) -> None:
    assert view_of(body, body, body, body) == View()


@pytest.mark.parametrize(
    "around", [lambda found: found, lambda found: {"data": found}, lambda found: {"models": found}]
)
def test_an_odd_entry_hides_no_others(around: Any) -> None:
    odd = [None, 3, "", [], {}, {"id": None}, {"id": "x" * 500}]
    view = view_of(packed(around([*odd, {"id": "a", "meta": None}, {"name": "b"}, {"model": "d", "id": 7}, "c"])))
    assert [model.name for model in view.models or ()] == ["a", "b", "d", "c"]


# Remote servers

HERE = [
    "http://localhost:8080", "http://127.0.0.1", "http://127.9.9.9:1/v1", "http://[::1]:8080", "http://0.0.0.0:8080",
    "http://10.1.2.3", "http://172.16.0.1", "http://172.31.255.255", "http://192.168.1.7:1234", "http://169.254.1.1",
    "http://[fe80::1%25eth0]", "http://[fd00::7]", "http://[::ffff:192.168.1.7]", "http://gpu:8000", "http://GPU-box",
    "http://ada@gpu", "http://studio.local", "https://box.lan/v1", "http://host.docker.internal", "http://a.home.arpa",
    "http://127.1", "http://2130706433", "http://0x7f000001", " http://gpu ", "http://100.64.0.1", "http://100.127.255.255",
    "http://gpu.tail1234.ts.net:8080/v1", "http://api.localhost",
]  # fmt: skip
AWAY = [
    "https://api.openai.com/v1", "http://8.8.8.8", "http://172.32.0.1", "http://100.128.0.1", "http://192.0.2.1",
    "http://[2001:db8::1]", "http://[::ffff:8.8.8.8]", "http://134744072", "http://0x08080808", "http://8.8",
    "http://example.com.", "http://ts.net.example.com", "http://local.example.com", "http://127.0.0.1.example.com", "http://127.0.0.1@example.com",
    "http://evil%2Ecom", "http://lan.", "http://my.localdomain", "", "gpu:8080", "http://", "http://[::1", "http://a b",
]  # fmt: skip


@pytest.mark.parametrize("url", HERE)
def test_this_machine_and_its_network_are_not_remote(url: str) -> None:
    assert not is_remote(url)


@pytest.mark.parametrize("url", AWAY)
def test_everything_else_is_remote(url: str) -> None:
    assert is_remote(url)


@given(st.text())
def test_every_text_is_remote_or_not(url: str) -> None:
    is_remote(url)
    is_remote(f"http://{url}")


# Keys and credentials


def test_a_key_is_not_sent_unencrypted_to_a_remote_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KEY", "sesame-open-up")
    with pytest.raises(Refused, match=r"The key in KEY .* use https"):
        server_address("m", source("http://api.example.com", key_env="KEY", remote=True))
    assert server_address("m", source("https://api.example.com/v1", key_env="KEY", remote=True))[1]
    assert server_address("m", source("http://gpu:8000", key_env="KEY"))[1]


async def test_a_key_that_is_sent_unencrypted_on_the_local_network_is_mentioned(
    server: FaultyServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KEY", "sesame-open-up")
    offers = await offers_of(server, says={"/v1/models": LISTED}, key_env="KEY")
    assert offers["a"].details == ""
    assert "\r\nAuthorization: Bearer sesame-open-up\r\n" in server.looks[0]
    by_name = source("http://gpu:8000", key_env="KEY", name="a")
    told_of = offers_module._offer(view_of(packed(LISTED)), by_name, "http://gpu:8000")
    assert told_of.details == "the key in KEY is sent unencrypted"


def test_a_key_and_credentials_in_the_url_are_refused() -> None:
    with pytest.raises(Refused, match="remove one of the two") as refused:
        server_address("m", source("http://ada:love@gpu/v1", key_env="KEY"))
    assert "love" not in str(refused.value)


def test_a_server_behind_a_path_keeps_it() -> None:
    """A proxy may serve several servers."""
    base, _ = server_address("m", source("http://proxy/a/v1/"))
    assert str(base) == "http://proxy/a"
