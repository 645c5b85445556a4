"""Short answers of Ollama and of servers that imitate it: odd entries, and questions that have no answer."""

from __future__ import annotations

import asyncio

import msgspec
import pytest

from producers.backend import BackendFailed, Chunk, Request
from producers.ollama import offers as module
from producers.ollama.answers import pulled_models, running_models, shown_model
from producers.ollama.backend import OllamaBackend
from producers.ollama.offers import ListTooSlow, ollama_offers
from producers.source import ModelSource
from tests.support.exact_server import answer, exact_server

REQUEST = Request("Why?", "", 40, 0.7, 3, 20, silence_ms=5_000)
ODD = b'null,7,"",[],{},{"name":null},{"name":"\\u001b[2J"},{"model":"b:1b","details":null,"size":"big"},"c:1b"'
TAGS = b'{"models":[%s,{"name":"a:1b","size":5,"details":{"family":"llama","families":null}}]}' % ODD
CHAT = b'{"message":{"role":"assistant","content":"Hi"},"done":false}\n{"done":true,"done_reason":"stop"}\n'


def test_an_odd_entry_hides_no_others() -> None:
    listed = pulled_models(TAGS) or ()
    assert [(model.name, model.size, model.details.family) for model in listed] == [
        ("b:1b", 0, ""), ("c:1b", 0, ""), ("a:1b", 5, "llama")
    ]  # fmt: skip
    assert [model.name for model in running_models(TAGS) or ()] == ["b:1b", "c:1b", "a:1b"]


@pytest.mark.parametrize("body", [b"", b"<html>", b"null", b"3", b"{}", b'{"models":3}', b'"models"'])
def test_another_answer_is_not_a_list(body: bytes) -> None:
    assert pulled_models(body) is None


def test_gos_empty_list_is_a_list() -> None:
    assert pulled_models(b'{"models":null}') == running_models(b'{"models":null}') == ()


def test_a_description_with_null_in_it_is_read() -> None:
    shown = shown_model(b'{"template":null,"details":null,"capabilities":["completion",null],"model_info":{}}')
    assert shown is not None
    assert shown.capabilities == ("completion",)


NOT_FOUND = answer(b"404 page not found", "404 Not Found", "text/plain")


@pytest.mark.parametrize("missing", [NOT_FOUND, answer(b"<html>"), answer(b"no", "405 Method Not Allowed")])
async def test_a_server_without_descriptions_and_residents_answers(missing: bytes) -> None:
    answers = {
        "GET /api/tags": answer(TAGS), "POST /api/show": missing, "GET /api/ps": missing, "GET /api/version": missing,
        "POST /api/chat": answer(CHAT, kind="application/x-ndjson"),
    }  # fmt: skip
    async with exact_server(answers) as server:
        offers = await ollama_offers(server.url, environ={})
        assert [(offer.facts.model, offer.facts.trouble) for offer in offers] == [
            ("b:1b", ""), ("c:1b", ""), ("a:1b", "")
        ]  # fmt: skip
        backend = OllamaBackend("a", ModelSource("ollama", "a:1b", server.url))
        await backend.start()
        assert backend.facts.trouble == ""
        assert [resident.model for resident in await backend.residents()] == ["a:1b"]
        await backend.unload("a:1b")
        items = [item async for item in backend.generate(REQUEST)]
        await backend.close()
    assert [piece.text for item in items if isinstance(item, Chunk) for piece in item.pieces] == ["Hi"]


async def test_questions_beside_the_list_are_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PROBE_SHOWN_S", "PROBE_RUNNING_S"):
        monkeypatch.setattr(module, name, 0.05)
    answers = {"GET /api/tags": answer(TAGS), "POST /api/show": None, "GET /api/ps": None, "GET /api/version": None}
    async with asyncio.timeout(5), exact_server(answers) as server:
        assert len(await ollama_offers(server.url, environ={})) == 3


async def test_a_list_that_takes_too_long_is_a_failure_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LIST_S", 0.05)
    async with asyncio.timeout(5), exact_server({"GET /api/tags": None}) as server:
        with pytest.raises(ListTooSlow, match=r"did not list its models within 0\.05 s"):
            await ollama_offers(server.url, environ={})


async def test_what_an_imitation_refuses_is_left_out_and_remembered() -> None:
    refusal = answer(b'{"error":"Logprobs is not enabled for this model"}', "400 Bad Request")
    chat = answer(CHAT, kind="application/x-ndjson")
    answers = {"GET /api/tags": answer(TAGS), "POST /api/chat": [refusal, chat]}
    async with exact_server(answers) as server:
        backend = OllamaBackend("a", ModelSource("ollama", "a:1b", server.url))
        await backend.start()
        for _ in range(2):
            assert [item async for item in backend.generate(REQUEST)]
        await backend.close()
    assert ["logprobs" in question for question in server.questions] == [True, False, False]


async def test_what_the_user_asked_for_is_the_reason_of_the_failure() -> None:
    refusal = answer(b'{"error":"seed 3 is not supported\\nTraceback"}', "400 Bad Request")
    async with exact_server({"GET /api/tags": answer(TAGS), "POST /api/chat": refusal}) as server:
        backend = OllamaBackend("a", ModelSource("ollama", "a:1b", server.url))
        await backend.start()
        with pytest.raises(BackendFailed) as failed:
            _ = [item async for item in backend.generate(msgspec.structs.replace(REQUEST, seed=3))]
        await backend.close()
    assert str(failed.value) == f"a at {server.url} answered HTTP 400: seed 3 is not supported"
