"""Continuing an answer with Ollama, as one real try has shown; and with servers that imitate it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence

import msgspec
import pytest

from producers.backend import BackendFailed, Ending, ModelLoading, Request, Written
from producers.servers.prefix_try import BEGUN
from tests.producers.ollama.test_backend import MODELS, REQUEST, items_of, pieces_in, started, text_of
from tests.support.exact_server import ExactServer, answer, exact_server
from tests.support.ollama.server import OllamaServer, ollama_server

GREEDY = msgspec.structs.replace(REQUEST, temperature=0.0)
CHAT = "POST /api/chat"
TAGS = answer(b'{"models":[{"name":"m:latest","digest":"d"}]}')


def continuing(*prefix: Written, **changed: object) -> Request:
    return msgspec.structs.replace(GREEDY, prefix=prefix, **changed)


def lines(*texts: str, thinking: str = "") -> bytes:
    said = [f'{{"message":{{"role":"assistant","content":"{text}"}},"done":false}}\n' for text in texts]
    thought = [f'{{"message":{{"role":"assistant","content":"","thinking":"{thinking}"}},"done":false}}\n']
    end = '{"message":{"role":"assistant","content":""},"done":true,"done_reason":"stop"}\n'
    return answer("".join([*(thought if thinking else ()), *said, end]).encode(), kind="application/x-ndjson")


@pytest.fixture
async def server() -> AsyncIterator[OllamaServer]:
    async with ollama_server(*MODELS) as running:
        yield running


async def test_the_rest_of_an_answer_follows_and_the_server_is_tried_once(server: OllamaServer) -> None:
    async with started("small", server.url) as backend:
        whole = text_of(pieces_in(await items_of(backend, GREEDY)))
        assert backend.facts.continues == "untried"
        words = whole.split(" ")
        for at in (1, 8, 20):
            begun = " ".join(words[:at])
            for white_space in ("", " "):
                request = continuing(Written(begun + white_space), max_tokens=6)
                rest = text_of(pieces_in(await items_of(backend, request)))
                assert rest
                assert whole.startswith(begun + white_space + rest)
        assert backend.facts.continues == "yes"
    _, tried, *asked = server.questions
    assert tried["messages"][-1] == {"role": "assistant", "content": BEGUN}
    assert len(asked) == 6
    for body in (tried, *asked):
        assert [message["role"] for message in body["messages"]] == ["user", "assistant"]
        assert not body["messages"][-1]["content"].endswith(" ")
        assert body["options"]["repeat_penalty"] == 1.0


async def test_the_signs_of_a_load_come_with_the_try_that_needs_it(server: OllamaServer) -> None:
    async with started("small", server.url) as backend:
        assert (await items_of(backend, continuing(Written("The council"))))[0] == ModelLoading()


async def test_a_model_that_thinks_is_not_asked_to_think_again(server: OllamaServer) -> None:
    async with started("thinker:8b", server.url) as backend:
        pieces = pieces_in(await items_of(backend, continuing(Written("The council sits"), max_tokens=8)))
        assert {piece.lane for piece in pieces} == {"answer"}
        assert pieces_in(await items_of(backend, GREEDY))[0].lane == "thinking"
    assert [body["think"] for body in server.questions] == [False, False, True]


async def test_a_model_without_a_chat_template_continues_the_whole_text(server: OllamaServer) -> None:
    async with started("base:1b", server.url) as backend:
        assert backend.facts.continues == "yes"
        request = continuing(Written("All is"), system="Be brief.")
        assert pieces_in(await items_of(backend, request))
    assert server.questions[-1]["prompt"] == f"Be brief.\n\n{GREEDY.prompt}\n\nAll is"
    assert server.questions[-1]["raw"] is True


# Servers that imitate Ollama


async def asked_of(answers: Sequence[bytes], *prefix: Written) -> tuple[ExactServer, str]:
    """(the server, the text that follows the prefix)."""
    async with exact_server({"GET /api/tags": TAGS, CHAT: answers}) as server, started("m", server.url) as backend:
        return server, text_of(pieces_in(await items_of(backend, continuing(*prefix))))


async def test_an_imitation_that_repeats_the_beginning_has_it_left_out() -> None:
    server, found = await asked_of([lines("four five six", " seven"), lines("a", " b c")], Written("a b"))
    assert found == " c"
    assert server.questions[-1]["options"]["num_predict"] == GREEDY.max_tokens + len("a b")


REFUSED = answer(b'{"error":"no"}', "400 Bad Request")


@pytest.mark.parametrize("anew", [[lines("One two")], [lines(thinking="Hm")], [REFUSED, lines("One")]])
async def test_an_imitation_that_does_not_continue_fails_with_one_sentence(anew: list[bytes]) -> None:
    with pytest.raises(BackendFailed, match=r"does not continue an answer: it (begins a new one|refuses)") as failed:
        await asked_of(anew, Written("a b"))
    assert "\n" not in str(failed.value)


async def test_an_answer_that_is_finished_ends_at_once() -> None:
    answers = [lines(" seven"), lines()]
    async with exact_server({"GET /api/tags": TAGS, CHAT: answers}) as server, started("m", server.url) as backend:
        assert await items_of(backend, continuing(Written("All is said."))) == [Ending("stop")]
