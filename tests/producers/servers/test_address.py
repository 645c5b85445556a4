"""Where a server's API begins, whatever address was given for it."""

from __future__ import annotations

import pytest

from producers.backend import BackendFailed, Chunk, Request
from producers.openai.backend import OpenAIBackend
from producers.openai.offers import openai_offers
from producers.servers.address import api_roots, at_path, server_address
from producers.source import Api, ModelSource
from tests.support.exact_server import answer, exact_server, stream

LIST = answer(b'{"object":"list","data":[{"id":"org/My Model:q4@1","object":"model"}]}')
ODD_NAME = "org/My Model:q4@1"
REQUEST = Request("Why?", "", 40, 0.7, 3, 20, silence_ms=5_000)


@pytest.mark.parametrize(
    ("given", "roots"),
    [
        ("", ["/v1", ""]),
        ("/", ["/v1", ""]),
        ("/v1", ["/v1"]),
        ("/v1/", ["/v1"]),
        ("/v1//", ["/v1"]),
        ("/v1/chat/completions", ["/v1"]),
        ("/v1/chat/completions/", ["/v1"]),
        ("/v1/completions", ["/v1"]),
        ("/v1/models", ["/v1"]),
        ("/v1/models/tiny", ["/v1"]),
        ("/chat/completions", ["/v1", ""]),
        ("/api/chat", ["/v1", ""]),
        ("/api/tags", ["/v1", ""]),
        ("/v1beta/openai/", ["/v1beta/openai"]),
        ("/v3", ["/v3"]),
        ("/openai/v1", ["/openai/v1"]),
        ("/api/v1/chat/completions", ["/api/v1"]),
        ("/proxy/a%2Fb/v1", ["/proxy/a%2Fb/v1"]),
        ("/v1?key=x#top", ["/v1"]),
    ],
)
@pytest.mark.parametrize("host", ["http://127.0.0.1:8080", "https://[::1]:8443", "http://ada:love@gpu"])
def test_the_api_begins_where_the_url_says_and_at_v1_where_it_says_nothing(
    given: str, roots: list[str], host: str
) -> None:
    found = api_roots("m", ModelSource("openai", "m", f"{host}{given}"))
    shown = host.replace("ada:love@", "")
    assert [str(at_path(root, "/models")) for root in found] == [f"{shown}{root}/models" for root in roots]


@pytest.mark.parametrize(
    ("api", "given", "base"),
    [
        ("openai", "http://[fd00::7]:8000/v1/", "http://[fd00::7]:8000"),
        ("openai", "http://gpu/a/v1/models", "http://gpu/a"),
        ("openai", "http://gpu/v1beta/openai/", "http://gpu/v1beta/openai"),
        ("ollama", "http://gpu:11434/api/chat", "http://gpu:11434"),
        ("ollama", "http://gpu:11434/v1/chat/completions", "http://gpu:11434"),
        ("ollama", "http://gpu:11434/ollama/api/", "http://gpu:11434/ollama"),
    ],
)
def test_the_server_itself_is_what_remains(api: Api, given: str, base: str) -> None:
    assert str(server_address("m", ModelSource(api, "m", given))[0]).rstrip("/") == base


@pytest.mark.parametrize(
    ("given", "root"),
    [
        ("", "/v1"),
        ("", ""),
        ("/v1beta/openai/", "/v1beta/openai"),
        ("/v3", "/v3"),
        ("/v3/chat/completions", "/v3"),
        ("/a%20b/v1", "/a%20b/v1"),
    ],
)
async def test_a_model_answers_at_every_root(given: str, root: str) -> None:
    """Only the paths of that root are asked, once it is known; a name goes out as the server lists it."""
    answers = {f"GET {root}/models": LIST, f"POST {root}/chat/completions": stream("Hi")}
    async with exact_server(answers) as server:
        (offer,) = await openai_offers("here", ModelSource("openai", "", f"{server.url}{given}"))
        assert (offer.facts.model, offer.facts.trouble) == (ODD_NAME, "")
        backend = OpenAIBackend("m", offer.source)
        await backend.start()
        items = [item async for item in backend.generate(REQUEST)]
        await backend.close()
        assert any(isinstance(item, Chunk) and item.pieces and item.pieces[0].text == "Hi" for item in items)
        assert [question["model"] for question in server.questions] == [ODD_NAME]
        assert server.paths.count(f"POST {root}/chat/completions") == 1
        if given:
            assert {path for path in server.paths if "/api/v" not in path and "/props" not in path} == set(answers)


async def test_without_a_list_the_answer_shows_where_the_api_begins() -> None:
    async with exact_server({"POST /chat/completions": stream("Hi")}) as server:
        backend = OpenAIBackend("m", ModelSource("openai", "m", server.url))
        await backend.start()
        for _ in range(2):
            assert [item async for item in backend.generate(REQUEST)]
        await backend.close()
    asked = [path for path in server.paths if path.startswith("POST")]
    assert asked == ["POST /v1/chat/completions", "POST /chat/completions", "POST /chat/completions"]


async def test_a_404_names_the_whole_address_that_was_asked() -> None:
    async with exact_server({}) as server:
        source = ModelSource("openai", "m", f"{server.url}/v4")
        with pytest.raises(BackendFailed) as of_list:
            await openai_offers("here", source)
        assert f"HTTP 404 at {server.url}/v4/models: 404 page not found" in str(of_list.value)
        for url in (f"{server.url}/v4", server.url):
            backend = OpenAIBackend("m", ModelSource("openai", "m", url))
            await backend.start()
            with pytest.raises(BackendFailed) as failed:
                _ = [item async for item in backend.generate(REQUEST)]
            await backend.close()
            root = url if url.endswith("/v4") else f"{url}/v1"
            assert f"answered HTTP 404 at {root}/chat/completions: 404 page not found" in str(failed.value)
