"""Laws of the OpenAI-compatible backend, against llama.cpp's own server and against one that misbehaves."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path

import httpx
import msgspec
import pytest

from producers import openai
from producers.backend import BackendFailed, Chunk, Ending, Loading, Piece, Request
from producers.openai import OpenAIBackend
from schemas.errors import Refused
from tests import faulty_server as faults
from tests.faulty_server import BEGUN, DONE, STOP, FaultyServer, faulty_server
from tests.llama.gguf_model import gguf_model, session_folder
from tests.llama.server import llama_process, llama_server
from tests.waiting import until

QUICKLY_S = 10.0
PROMPT = "Tell me about LAMBDAS"
REQUEST = Request(PROMPT, "", max_tokens=40, temperature=0.7, seed=3, top_k=20, silence_ms=5_000)


def asked(**changes: object) -> Request:
    return msgspec.structs.replace(REQUEST, **changes)


@contextlib.asynccontextmanager
async def started(model: str, url: str) -> AsyncIterator[OpenAIBackend]:
    backend = OpenAIBackend(model, url)
    await backend.start()
    try:
        yield backend
    finally:
        await backend.close()


async def items_of(model: str, url: str, request: Request = REQUEST) -> list[Chunk | Loading | Ending]:
    async with asyncio.timeout(QUICKLY_S), started(model, url) as backend:
        return [item async for item in backend.generate(request)]


async def pieces_of(model: str, url: str, request: Request = REQUEST) -> list[Piece]:
    return pieces_in(await items_of(model, url, request))


def pieces_in(items: Sequence[Chunk | Loading | Ending]) -> list[Piece]:
    return [piece for item in items if isinstance(item, Chunk) for piece in item.pieces]


def text_of(pieces: Sequence[Piece]) -> str:
    return "".join(piece.text for piece in pieces)


async def failure_of(model: str, url: str, request: Request = REQUEST) -> tuple[str, str]:
    """The text that came before the failure, and the failure's sentence less the server's name."""
    said: list[Piece] = []
    async with asyncio.timeout(QUICKLY_S), started(model, url) as backend:
        try:
            async for item in backend.generate(request):
                said += pieces_in([item])
        except BackendFailed as failed:
            failure = str(failed)
        else:
            pytest.fail(f"{model} did not fail: it said {text_of(said)!r}")
    name = f"{model} at {url} "
    assert failure.startswith(name)
    return text_of(said), failure.removeprefix(name)


async def until_connected(server: FaultyServer, connections: int) -> None:
    async def connected() -> bool:
        return server.connections == connections

    await until(connected, f"{connections} open connections", QUICKLY_S)


# llama.cpp's own server


@pytest.fixture(scope="module")
def gguf_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return gguf_model(session_folder(tmp_path_factory))


@pytest.fixture(scope="module")
def llama(gguf_path: Path) -> Iterator[str]:
    with llama_server(gguf_path, context=65_536) as url:
        yield url


async def whole_answer(url: str, request: Request) -> tuple[str, str, int]:
    """Text, finish_reason and number of tokens of the same request without a stream: what the stream must add up to."""
    body = {
        "messages": [{"role": "user", "content": request.prompt}],
        "max_tokens": request.max_tokens,
        "temperature": request.temperature,
        "seed": request.seed,
    }
    async with httpx.AsyncClient(timeout=QUICKLY_S, trust_env=False) as client:
        answer = (await client.post(f"{url}/v1/chat/completions", json=body)).raise_for_status().json()
    choice = answer["choices"][0]
    return choice["message"]["content"], choice["finish_reason"], answer["usage"]["completion_tokens"]


@pytest.mark.parametrize("top_k", [1, 5, 20])
async def test_a_stream_adds_up_to_the_whole_answer_and_every_token_is_measured(llama: str, top_k: int) -> None:
    request = asked(top_k=top_k)
    items = await items_of("tiny", llama, request)
    pieces = pieces_in(items)
    text, reason, tokens = await whole_answer(llama, request)
    assert (text_of(pieces), items[-1], len(pieces)) == (text, Ending(reason), tokens)
    assert (reason, tokens) == ("length", request.max_tokens)
    for piece in pieces:
        assert piece.quality == "real"
        assert piece.logprob is not None
        assert piece.logprob <= 0.0
        assert len(piece.top) == top_k
        assert [logprob for _, logprob in piece.top] == sorted((logprob for _, logprob in piece.top), reverse=True)
    assert any((piece.piece or piece.text.encode()) == piece.top[0][0] for piece in pieces)


async def test_a_long_answer_adds_up_and_ends_as_the_server_says(llama: str) -> None:
    """Long enough for characters of several tokens; those come as one piece with the last token's logprob."""
    request = asked(max_tokens=3_000)
    items = await items_of("tiny", llama, request)
    text, reason, tokens = await whole_answer(llama, request)
    assert (text_of(pieces_in(items)), items[-1]) == (text, Ending(reason))
    assert len(pieces_in(items)) <= tokens


async def test_the_seed_decides_the_text(llama: str) -> None:
    first, again, other = [text_of(await pieces_of("tiny", llama, asked(seed=seed))) for seed in (7, 7, 8)]
    assert first == again != other


async def test_answers_come_side_by_side(llama: str) -> None:
    async with asyncio.timeout(QUICKLY_S), started("tiny", llama) as backend:

        async def answer(seed: int) -> str:
            return text_of(pieces_in([item async for item in backend.generate(asked(seed=seed))]))

        together = await asyncio.gather(*(answer(seed) for seed in (1, 2)))
    assert together == [text_of(await pieces_of("tiny", llama, asked(seed=seed))) for seed in (1, 2)]


async def test_closing_the_iterator_frees_the_slot(llama: str) -> None:
    """60,000 tokens take this server much longer than the test waits."""
    async with (
        httpx.AsyncClient(base_url=llama, trust_env=False) as client,
        started("tiny", llama) as backend,
    ):

        async def is_busy() -> bool:
            return any(slot["is_processing"] for slot in (await client.get("/slots")).raise_for_status().json())

        async def is_free() -> bool:
            return not await is_busy()

        items = backend.generate(asked(max_tokens=60_000, temperature=0.0))
        assert isinstance(await anext(items), Chunk)
        assert await is_busy()
        await items.aclose()
        await until(is_free, "the slot is free", QUICKLY_S)


async def test_a_server_that_is_killed_and_one_that_is_gone_are_told_apart(gguf_path: Path) -> None:
    with llama_process(gguf_path, context=65_536) as running:
        async with asyncio.timeout(QUICKLY_S), started("tiny", running.url) as backend:
            items = backend.generate(asked(max_tokens=60_000, temperature=0.0))
            assert isinstance(await anext(items), Chunk)
            running.process.kill()
            with pytest.raises(BackendFailed, match="broke off the connection"):
                async for _ in items:
                    pass
        assert await failure_of("tiny", running.url) == ("", "cannot be reached: is the model server running?")


async def test_a_refusal_of_the_real_server_is_told_in_its_own_words(llama: str) -> None:
    _, sentence = await failure_of("tiny", llama, asked(prompt="word " * 100_000))
    assert sentence.startswith("answered HTTP 400: request (")
    assert "exceeds the available context size" in sentence


# A server that misbehaves


@pytest.fixture
async def server() -> AsyncIterator[FaultyServer]:
    async with faulty_server() as running:
        yield running


BEFORE_IT_BEGAN = {
    "not_found": "answered HTTP 404: File Not Found",
    "broken": "answered HTTP 500: Compute error. [31mred",
    "quotes_the_prompt": "answered HTTP 400: cannot parse: …",
    "busy": "answered HTTP 503: server busy, please try again",
    "html": "answered with HTML, not with a stream: is the URL right?",
    "html_502": "answered HTTP 502 with HTML, not with a stream: is the URL right?",
    "json_answer": "reported an error: no model is loaded",
    "plain_text": "answered with something that is not a stream: is the URL right?",
    "nothing": "ended without a word",
    "hangs_up": "broke off the connection",
    "deep": "sent a line that is no chat completion: ",
    "endless_line": "sent a line of more than 1 MiB",
}
AFTER_IT_BEGAN = {
    "unfinished": "ended without finishing",
    "half_a_line": "ended in the middle of a line",
    "malformed": "sent a line that is no chat completion: ",
    "other_shape": "sent a line that is no chat completion: Expected `str | null`, got `int`",
    "error_object": "reported an error: out of memory",
    "error_line": "reported an error: slot was lost",
    "closed": "broke off the connection",
    "reset": "broke off the connection",
    "silent": "said nothing for 0.2 s",
    "only_pings": "said nothing for 0.2 s",
}


@pytest.mark.parametrize(("model", "sentence"), BEFORE_IT_BEGAN.items())
async def test_a_refusal_is_one_clear_sentence(server: FaultyServer, model: str, sentence: str) -> None:
    said, told = await failure_of(model, server.url, asked(prompt="My darkest secret is that I count in base 7"))
    assert said == ""
    assert told.startswith(sentence)
    assert "secret" not in told


@pytest.mark.parametrize(("model", "sentence"), AFTER_IT_BEGAN.items())
async def test_what_was_said_is_kept_when_a_stream_breaks(server: FaultyServer, model: str, sentence: str) -> None:
    said, told = await failure_of(model, server.url, asked(silence_ms=200))
    assert said == "One fine day"
    assert told.startswith(sentence)
    assert "My dar" not in told


async def test_the_servers_words_are_cut(server: FaultyServer) -> None:
    _, told = await failure_of("long_winded", server.url)
    assert told.endswith("word…")
    assert 200 < len(told) < 250


@pytest.mark.parametrize("model", ["good", "done_only", "finish_only", "finishes_and_stays", "babbles_on"])
async def test_a_finished_answer_ends_however_the_stream_does(
    server: FaultyServer, model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(openai, "TAIL_S", 0.05)
    *chunks, ending = await items_of(model, server.url, asked(silence_ms=60_000))
    assert text_of(pieces_in(chunks)) == "One fine day"
    assert isinstance(ending, Ending)
    reasons = {"finish_only": "length", "finishes_and_stays": "content_filter " + "x" * 24 + "…"}
    assert ending.reason == reasons.get(model, "stop")


async def test_before_the_first_token_silence_is_no_failure(server: FaultyServer) -> None:
    """silence_ms passes several times before the first token, then the answer comes."""
    silence_ms = 1_000 * faults.PING_S * faults.PINGS_BEFORE_BEGINNING / 4
    pieces = await pieces_of("slow_to_begin", server.url, asked(silence_ms=round(silence_ms)))
    assert text_of(pieces) == "One fine day"


async def test_whoever_gives_up_waiting_closes_the_connection(server: FaultyServer) -> None:
    async with started("never", server.url) as backend:
        items = backend.generate(asked(silence_ms=1))
        waiting = asyncio.create_task(anext(items))
        await until_connected(server, 1)
        waiting.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await waiting
        await until_connected(server, 0)


async def test_closing_the_iterator_closes_the_connection(server: FaultyServer) -> None:
    async with started("silent", server.url) as backend:
        items = backend.generate(REQUEST)
        await anext(items)
        assert server.connections == 1
        await items.aclose()
        await until_connected(server, 0)


async def test_a_loading_server_is_asked_again_until_it_serves(
    server: FaultyServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(openai, "LOADING_PAUSE_S", 0.01)
    items = await items_of("loading", server.url)
    assert items[: faults.LOADING_ANSWERS] == [Loading()] * faults.LOADING_ANSWERS
    assert text_of(pieces_in(items)) == "One fine day"
    assert server.asked["loading"] == faults.LOADING_ANSWERS + 1


async def test_a_server_that_never_stops_loading_is_given_up(
    server: FaultyServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(openai, "LOADING_PAUSE_S", 0.0)
    monkeypatch.setattr(openai, "LOADING_ASKS", 7)
    assert await failure_of("loading_for_ever", server.url) == ("", "did not finish loading the model")
    assert server.asked["loading_for_ever"] == 7


async def test_the_request_says_what_was_asked_for(server: FaultyServer) -> None:
    await items_of("good", server.url + "/v1/", asked(system="Be brief \ud83d", seed=11))
    await items_of("good", server.url, asked(seed=None))
    with_system, without = server.bodies
    assert with_system == {
        "model": "good",
        "messages": [{"role": "system", "content": "Be brief \ud83d"}, {"role": "user", "content": PROMPT}],
        "max_tokens": 40,
        "temperature": 0.7,
        "seed": 11,
        "logprobs": True,
        "top_logprobs": 20,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    assert without["messages"] == [{"role": "user", "content": PROMPT}]
    assert "seed" not in without
    assert all(head.startswith("POST /v1/chat/completions HTTP/1.1\r\n") for head in server.heads)
    assert all("\r\nconnection: keep-alive\r\n" in head.lower() for head in server.heads)


async def test_credentials_in_the_url_are_sent_and_never_shown(server: FaultyServer) -> None:
    url = server.url.replace("http://", "http://ada:love@")
    async with started("broken", f"{url}/v1?key=hidden") as backend:
        with pytest.raises(BackendFailed) as failed:
            await anext(backend.generate(REQUEST))
    assert str(failed.value).startswith(f"broken at {server.url} answered")
    assert "authorization: basic YWRhOmxvdmU=" in server.heads[0].replace(
        "Authorization: Basic", "authorization: basic"
    )


@pytest.mark.parametrize("url", ["", "localhost:8080", "ftp://host", "http://", "http://host:0", "http://host:99999"])
def test_what_is_no_url_is_refused(url: str) -> None:
    with pytest.raises(Refused, match="http://127"):
        OpenAIBackend("tiny", url)


async def test_a_host_that_cannot_be_is_a_failure_like_any_other() -> None:
    _, told = await failure_of("tiny", f"http://{'x' * 70}.invalid")
    assert told


async def test_a_kept_connection_that_the_server_closes_costs_no_answer() -> None:
    """The server keeps its connection after an answer, and closes it when it is asked again: as a server that is
    tired of it."""
    requests: list[int] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        requests.append(0)
        await reader.readuntil(b"\r\n\r\n")
        requests[-1] += 1
        body = b"".join((*BEGUN, STOP, DONE))
        head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nContent-Length: %d\r\n\r\n" % len(body)
        writer.write(head + body)
        await writer.drain()
        while b"POST" not in await reader.read(65_536):
            pass
        requests[-1] += 1
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as listening:
        url = f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}"
        async with asyncio.timeout(QUICKLY_S), started("tired", url) as backend:
            for _ in range(3):
                items = [item async for item in backend.generate(REQUEST)]
                assert items[-1] == Ending("stop")
    # Each connection answered once, and was asked a second time in vain, but for the last.
    assert requests == [2, 2, 1]
