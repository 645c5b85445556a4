"""The OpenAI-compatible backend, with llama.cpp's own server and with a faulty one."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path

import httpx
import msgspec
import pytest

from bench.gguf_model import gguf_model
from bench.llama_server import llama_process, llama_server
from producers.backend import BackendFailed, Chunk, Ending, ModelLoading, ModelWaiting, OutOfMemory, Piece, Request
from producers.openai import asking as openai_asking
from producers.openai.backend import OpenAIBackend
from producers.openai.offers import AUTO_EVICT
from producers.servers import streaming
from producers.servers.client import AiohttpTransport, Body
from producers.source import ModelSource
from schemas.errors import Refused
from schemas.sessions import Message
from tests.support import faulty_server as faults
from tests.support.faulty_server import BEGUN, DONE, STOP, FaultyServer, as_json, faulty_server
from tests.support.llama import skip_without_llama
from tests.support.session_folder import session_folder
from tests.support.waiting import until

Item = Chunk | ModelLoading | ModelWaiting | Ending
QUICKLY_S = 10.0
AWAY = "cannot be reached: check that the model server is running"
PROMPT = "Tell me about LAMBDAS"
REQUEST = Request(PROMPT, "", max_tokens=40, temperature=0.7, seed=3, top_k=20, silence_ms=5_000)


def asked(**changes: object) -> Request:
    return msgspec.structs.replace(REQUEST, **changes)


@contextlib.asynccontextmanager
async def started(model: str, url: str, **source: object) -> AsyncIterator[OpenAIBackend]:
    backend = OpenAIBackend(model, msgspec.structs.replace(ModelSource("openai", model, url), **source))
    await backend.start()
    try:
        yield backend
    finally:
        await backend.close()


async def items_of(model: str, url: str, request: Request = REQUEST) -> list[Item]:
    async with asyncio.timeout(QUICKLY_S), started(model, url) as backend:
        return [item async for item in backend.generate(request)]


async def pieces_of(model: str, url: str, request: Request = REQUEST) -> list[Piece]:
    return pieces_in(await items_of(model, url, request))


def pieces_in(items: Sequence[Item]) -> list[Piece]:
    return [piece for item in items if isinstance(item, Chunk) for piece in item.pieces]


def text_of(pieces: Sequence[Piece]) -> str:
    return "".join(piece.text for piece in pieces)


async def raised_by(model: str, url: str, request: Request = REQUEST, **source: object) -> tuple[str, BackendFailed]:
    """(the text that came before the failure, the failure)."""
    pieces: list[Piece] = []
    async with asyncio.timeout(QUICKLY_S), started(model, url, **source) as backend:
        try:
            async for item in backend.generate(request):
                pieces += pieces_in([item])
        except BackendFailed as failed:
            return text_of(pieces), failed
    pytest.fail(f"{model} did not fail, but answered {text_of(pieces)!r}")


async def failure_of(model: str, url: str, request: Request = REQUEST, **source: object) -> tuple[str, str]:
    """(the text that came before the failure, the failure's sentence without the server's name)."""
    text, failed = await raised_by(model, url, request, **source)
    name = f"{model} at {url} "
    assert str(failed).startswith(name)
    return text, str(failed).removeprefix(name)


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
    skip_without_llama()
    with llama_server(gguf_path, context=65_536) as url:
        yield url


async def whole_answer(url: str, request: Request) -> tuple[str, Ending, int]:
    """(text, how it ended, number of tokens) of the same request without a stream."""
    body = {
        "messages": [{"role": turn.role, "content": turn.content} for turn in request.messages],
        "max_tokens": request.max_tokens,
        "temperature": request.temperature,
        "seed": request.seed,
    }
    async with httpx.AsyncClient(timeout=QUICKLY_S, trust_env=False) as client:
        answer = (await client.post(f"{url}/v1/chat/completions", json=body)).raise_for_status().json()
    choice, usage = answer["choices"][0], answer["usage"]
    ending = Ending(choice["finish_reason"], prompt_tokens=usage["prompt_tokens"])
    return choice["message"]["content"], ending, usage["completion_tokens"]


@pytest.mark.parametrize("top_k", [1, 5, 20])
async def test_a_stream_adds_up_to_the_whole_answer_and_every_token_is_measured(llama: str, top_k: int) -> None:
    request = asked(top_k=top_k)
    items = await items_of("tiny", llama, request)
    pieces = pieces_in(items)
    text, ending, tokens = await whole_answer(llama, request)
    assert (text_of(pieces), items[-1], len(pieces)) == (text, ending, tokens)
    assert (ending.reason, tokens) == ("length", request.max_tokens)
    for piece in pieces:
        assert piece.quality == "real"
        assert piece.logprob is not None
        assert piece.logprob <= 0.0
        assert len(piece.top) == top_k
        assert [logprob for _, logprob in piece.top] == sorted((logprob for _, logprob in piece.top), reverse=True)
    assert any((piece.piece or piece.text.encode()) == piece.top[0][0] for piece in pieces)


async def test_a_long_answer_adds_up_and_has_the_servers_reason(llama: str) -> None:
    """Long enough for characters of several tokens, which come as one piece with the last token's logprob."""
    request = asked(max_tokens=3_000)
    items = await items_of("tiny", llama, request)
    text, ending, tokens = await whole_answer(llama, request)
    assert (text_of(pieces_in(items)), items[-1]) == (text, ending)
    assert len(pieces_in(items)) <= tokens


async def test_the_seed_decides_the_text(llama: str) -> None:
    first, again, other = [text_of(await pieces_of("tiny", llama, asked(seed=seed))) for seed in (7, 7, 8)]
    assert first == again != other


async def test_the_backend_has_as_many_slots_as_the_server(llama: str) -> None:
    async with started("tiny", llama) as backend:
        facts = backend.facts
        assert (backend.slots, facts.slots, facts.model, facts.server, facts.trouble) == (2, 2, "tiny", llama, "")
        assert facts.size_bytes > 0
        assert (facts.remote, facts.pauses, facts.residency, backend.residence) == (False, False, "unmanaged", None)
    async with started("tiny", llama, parallel=7, remote=True, name="other") as backend:
        assert (backend.slots, backend.facts.model, backend.facts.remote) == (7, "other", True)


async def test_a_chat_with_earlier_turns_is_answered(llama: str) -> None:
    history = (Message("user", "One?"), Message("assistant", "Two."))
    request = asked(history=history, system="Be brief", temperature=0.0)
    text, ending, _ = await whole_answer(llama, request)
    items = await items_of("tiny", llama, request)
    assert (text_of(pieces_in(items)), items[-1]) == (text, ending)


async def test_answers_come_at_the_same_time(llama: str) -> None:
    async with asyncio.timeout(QUICKLY_S), started("tiny", llama) as backend:

        async def answer(seed: int) -> str:
            return text_of(pieces_in([item async for item in backend.generate(asked(seed=seed))]))

        together = await asyncio.gather(*(answer(seed) for seed in (1, 2)))
    assert together == [text_of(await pieces_of("tiny", llama, asked(seed=seed))) for seed in (1, 2)]


async def test_closing_the_iterator_frees_the_slot(llama: str) -> None:
    """This server takes much longer for 60,000 tokens than the test waits."""
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


async def test_a_server_that_is_killed_and_an_absent_one_are_different_failures(gguf_path: Path) -> None:
    with llama_process(gguf_path, context=65_536) as running:
        async with asyncio.timeout(QUICKLY_S), started("tiny", running.url) as backend:
            items = backend.generate(asked(max_tokens=60_000, temperature=0.0))
            assert isinstance(await anext(items), Chunk)
            running.process.kill()
            with pytest.raises(BackendFailed, match="closed the connection unexpectedly"):
                async for _ in items:
                    pass
        assert await failure_of("tiny", running.url) == ("", AWAY)


async def test_a_refusal_of_the_real_server_has_its_message(llama: str) -> None:
    _, sentence = await failure_of("tiny", llama, asked(prompt="word " * 100_000))
    assert sentence.startswith("answered HTTP 400: request (")
    assert "exceeds the available context size" in sentence


# A faulty server


@pytest.fixture
async def server() -> AsyncIterator[FaultyServer]:
    async with faulty_server() as running:
        yield running


BEFORE_IT_BEGAN = {
    "not_found": "answered HTTP 404 at ",
    "broken": "answered HTTP 500: Compute error.",
    "quotes_the_prompt": "answered HTTP 400: cannot parse: …",
    "forbidden": "answered HTTP 403: You are not allowed to use this model",
    "moved": "answered HTTP 308 with another address: give that address as the URL",
    "unpaid": "answered HTTP 429: You exceeded your current quota",
    "come_back_tomorrow": "is too busy for the request, it asks for a retry in 86400 s",
    "strange_field": "answered HTTP 422: session: Field required",
    "html": "answered with HTML instead of a stream: check the URL",
    "compresses_otherwise": "compressed its answer with 'br', which was not asked for",
    "filtered": 'ended the answer with "content_filter"',
    "html_502": "answered HTTP 502 with HTML instead of a stream: check the URL",
    "json_answer": "reported an error: no model is loaded",
    "plain_text": "sent something other than a stream: check the URL",
    "nothing": "ended the stream without an answer",
    "hangs_up": "closed the connection unexpectedly",
    "no_http": "closed the connection unexpectedly",
    "long_header": "closed the connection unexpectedly",
    "deep": "sent a line that is not a chat completion: ",
    "endless_line": "sent a line of more than 1 MiB",
}
AFTER_IT_BEGAN = {
    "unfinished": "ended the stream before the answer was complete",
    "half_a_line": "ended the stream in the middle of a line",
    "malformed": "sent a line that is not a chat completion: ",
    "error_object": "reported an error: out of memory",
    "error_line": "reported an error: slot was lost",
    "vllm_error": "reported an error: CUDA is gone",
    "closed": "closed the connection unexpectedly",
    "reset": "closed the connection unexpectedly",
    # aiohttp closes the connection without an error.
    "broken_chunk": "sent nothing for 0.2 s",
    "silent": "sent nothing for 0.2 s",
    "only_pings": "sent nothing for 0.2 s",
}


@pytest.mark.parametrize(("model", "sentence"), BEFORE_IT_BEGAN.items())
async def test_a_refusal_is_one_clear_sentence(server: FaultyServer, model: str, sentence: str) -> None:
    text, message = await failure_of(model, server.url, asked(prompt="My darkest secret is that I count in base 7"))
    assert text == ""
    assert message.startswith(sentence)
    assert "secret" not in message


async def test_no_turn_of_a_chat_is_quoted(server: FaultyServer) -> None:
    turn = Message("assistant", "My darkest secret is that I count in base 7")
    _, message = await failure_of("quotes_the_prompt", server.url, asked(history=(turn,)))
    assert message == "answered HTTP 400: cannot parse: …"


@pytest.mark.parametrize(("model", "sentence"), AFTER_IT_BEGAN.items())
async def test_the_text_before_a_break_of_the_stream_is_kept(server: FaultyServer, model: str, sentence: str) -> None:
    text, message = await failure_of(model, server.url, asked(silence_ms=200))
    assert text == "One fine day"
    assert message.startswith(sentence)
    assert "My dar" not in message


async def test_bytes_that_came_before_a_break_are_returned_before_it(server: FaultyServer) -> None:
    """The whole text and then the break arrive before the first read."""
    transport = AiohttpTransport(httpx.URL(server.url), 1)
    request = httpx.Request("POST", f"{server.url}/v1/chat/completions", json={"model": "closed"})
    response = await transport.handle_async_request(request)
    assert isinstance(response.stream, Body)
    content = response.stream.answer.content

    async def broke() -> bool:
        return content.exception() is not None

    await until(broke, "the connection broke", QUICKLY_S)
    parts = aiter(response.stream)
    assert await anext(parts) == b"".join(BEGUN)
    with pytest.raises(httpx.ReadError):
        await anext(parts)
    await transport.aclose()


async def test_a_servers_long_message_is_cut(server: FaultyServer) -> None:
    _, message = await failure_of("long_winded", server.url)
    assert message.endswith("word…")
    assert 200 < len(message) < 250


@pytest.mark.parametrize("model", ["good", "done_only", "finish_only", "finishes_and_stays", "babbles_on"])
async def test_a_finished_answer_ends_however_the_stream_does(
    server: FaultyServer, model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streaming, "TAIL_S", 0.05)
    *chunks, ending = await items_of(model, server.url, asked(silence_ms=60_000))
    assert text_of(pieces_in(chunks)) == "One fine day"
    assert isinstance(ending, Ending)
    reasons = {"finish_only": "length", "finishes_and_stays": "content_filter " + "x" * 24 + "…"}
    assert ending.reason == reasons.get(model, "stop")


async def test_a_reason_with_each_chunk_ends_nothing(server: FaultyServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first one is believed for longer than the second token takes; the others are not believed before the end."""
    monkeypatch.setattr(streaming, "TAIL_S", 15 * faults.PING_S)
    items = await items_of("repeats_its_reason", server.url, asked(silence_ms=60_000))
    assert (text_of(pieces_in(items)), items[-1]) == ("One fine day", Ending("length"))


async def test_what_a_server_sends_in_another_form_is_read(server: FaultyServer) -> None:
    """gzip that was not asked for; thinking between tags; logprobs that are not a list."""
    compressed = pieces_in(await items_of("compresses", server.url))
    assert (text_of(compressed), {piece.quality for piece in compressed}) == ("One fine day", {"real"})
    tagged = pieces_in(await items_of("tags", server.url))
    assert [(piece.lane, piece.text) for piece in tagged if piece.text] == [
        ("thinking", "The user"), ("thinking", " greets."), ("answer", "Hello"),
    ]  # fmt: skip
    *odd, ending = await items_of("odd_logprobs", server.url)
    assert (text_of(pieces_in(odd)), {piece.quality for piece in pieces_in(odd)}) == ("One fine day", {"missing"})
    assert ending == Ending("stop", ("logprobs in an unknown form (3 times)",))


async def test_a_template_that_opens_the_thinking_is_remembered(
    server: FaultyServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = [faults.delta({"content": part}) for part in ("Hm", "\n</think>\n\n", "Yes")]
    monkeypatch.setitem(faults.STREAMED, "opened", (*text, STOP, DONE))
    async with started("opened", server.url) as backend:
        shown = [pieces_in([item async for item in backend.generate(REQUEST)]) for _ in range(2)]
    assert [text_of([piece for piece in pieces if piece.lane == "answer"]) for pieces in shown] == [
        "Hm\n</think>\n\nYes", "Yes",
    ]  # fmt: skip
    # The template itself shows it before the first answer.
    card = {"id": "opened", "object": "model", "owned_by": "llamacpp"}
    template = "{{ prompt }}{% if add_generation_prompt %}<|assistant|><think>\n{% endif %}"
    server.says = {"/v1/models": as_json({"data": [card]}), "/props": as_json({"chat_template": template})}
    assert text_of([piece for piece in await pieces_of("opened", server.url) if piece.lane == "answer"]) == "Yes"


async def test_before_the_first_token_silence_is_not_a_failure(server: FaultyServer) -> None:
    """The first token comes after several times silence_ms."""
    silence_ms = 1_000 * faults.PING_S * faults.PINGS_BEFORE_BEGINNING / 4
    pieces = await pieces_of("slow_to_begin", server.url, asked(silence_ms=round(silence_ms)))
    assert text_of(pieces) == "One fine day"


async def test_closing_the_iterator_while_it_waits_closes_the_connection(server: FaultyServer) -> None:
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
    monkeypatch.setattr(openai_asking, "LOADING_PAUSE_S", 0.01)
    items = await items_of("loading", server.url)
    assert items[: faults.LOADING_ANSWERS] == [ModelLoading()] * faults.LOADING_ANSWERS
    assert text_of(pieces_in(items)) == "One fine day"
    assert server.asked["loading"] == faults.LOADING_ANSWERS + 1


async def test_a_server_that_never_stops_loading_is_a_failure(
    server: FaultyServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(openai_asking, "LOADING_PAUSE_S", 0.0)
    monkeypatch.setattr(openai_asking, "LOADING_ASKS", 7)
    assert await failure_of("loading_for_ever", server.url) == ("", "did not finish loading the model")
    assert server.asked["loading_for_ever"] == 7


async def test_a_busy_server_is_asked_again_until_it_accepts(
    server: FaultyServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each refusal is a sign, and so is the end of the wait, where the first-token timeout begins."""
    monkeypatch.setattr(openai_asking, "WAITING_PAUSES_S", (0.01,))
    items = await items_of("crowded", server.url)
    assert items[: faults.CROWDED_ANSWERS + 1] == [*[ModelWaiting()] * faults.CROWDED_ANSWERS, Chunk(())]
    assert text_of(pieces_in(items)) == "One fine day"
    assert server.asked["crowded"] == faults.CROWDED_ANSWERS + 1


async def test_a_server_that_stays_busy_is_a_failure(server: FaultyServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openai_asking, "WAITING_PAUSES_S", (0.01,))
    monkeypatch.setattr(openai_asking, "MOST_WAITING_S", 0.05)
    _, sentence = await failure_of("busy", server.url)
    assert sentence == "is too busy for the request, not within 0.05 s (HTTP 503: server busy, please try again)"
    assert server.asked["busy"] == 6


@pytest.mark.parametrize(
    ("model", "qualities", "asked_in_all"),
    [
        ("good", {"real"}, 2),
        ("few_logprobs", {"real"}, 3),
        ("no_logprobs", {"missing"}, 3),
        ("no_usage", {"real"}, 3),
        ("reasoner", {"missing"}, 4),
    ],
)
async def test_a_dialect_that_was_found_is_used_from_then_on(
    server: FaultyServer, model: str, qualities: set[str], asked_in_all: int
) -> None:
    async with asyncio.timeout(QUICKLY_S), started(model, server.url) as backend:
        for _ in range(2):
            pieces = pieces_in([item async for item in backend.generate(REQUEST)])
            assert text_of(pieces) == "One fine day"
            assert {piece.quality for piece in pieces} == qualities
    assert server.asked[model] == asked_in_all
    assert server.bodies[-1] == server.bodies[-2]


async def test_a_final_refusal_does_not_change_the_dialect(server: FaultyServer) -> None:
    """The next request has the dialect of the first."""
    async with asyncio.timeout(QUICKLY_S), started("stubborn", server.url) as backend:
        for _ in range(2):
            with pytest.raises(BackendFailed, match="top_logprobs must be 2 at most"):
                await anext(backend.generate(REQUEST))
    assert [body.get("top_logprobs") for body in server.bodies] == [20, 2, None] * 2


async def test_a_model_that_lm_studio_loads_for_a_request_is_shown_as_loading(server: FaultyServer) -> None:
    def say(state: str) -> None:
        card = {"id": "good", "object": "model", "type": "llm", "state": state}
        server.says = {"/v1/models": as_json({"data": []}), "/api/v0/models": as_json({"data": [card]})}

    say("not-loaded")
    async with asyncio.timeout(QUICKLY_S), started("good", server.url) as backend:
        assert (backend.facts.max_loaded, backend.facts.trouble) == (1, "")
        assert await anext(backend.generate(REQUEST)) == ModelLoading()
        say("loaded")
        assert isinstance(await anext(backend.generate(REQUEST)), Chunk)
        say("not-loaded")
        assert await anext(backend.generate(REQUEST)) == ModelLoading()
        server.says = {}  # it reports nothing now: its last report counts
        assert await anext(backend.generate(REQUEST)) != ModelLoading()


async def test_a_model_that_lm_studio_unloads_fails_with_the_setting_to_change(server: FaultyServer) -> None:
    card = {"id": "unloaded", "object": "model", "type": "llm", "state": "loaded"}
    server.says = {"/v1/models": as_json({"data": []}), "/api/v0/models": as_json({"data": [card]})}
    assert await failure_of("unloaded", server.url) == (
        "One fine day",
        f"reported an error: Model unloaded. ({AUTO_EVICT})",
    )


async def test_a_lack_of_memory_is_a_failure_of_its_own(server: FaultyServer) -> None:
    """But not for a model that has begun: it is in memory, whatever the message contains."""
    text, failed = await raised_by("no_memory", server.url)
    assert (text, type(failed)) == ("", OutOfMemory)
    text, failed = await raised_by("error_object", server.url)
    assert (text, type(failed)) == ("One fine day", BackendFailed)


async def test_a_server_that_is_away_at_the_start_is_a_trouble_and_is_asked_nevertheless(
    server: FaultyServer,
) -> None:
    server.says = {"/v1/models": ("502 Bad Gateway", "text/html", faults.HTML)}
    async with started("good", "http://127.0.0.1:1") as backend:
        assert backend.facts.trouble == (f"good at http://127.0.0.1:1 {AWAY}")
        assert backend.slots >= 1
    server.says = {"/v1/models": as_json({"error": "no"}, "401 Unauthorized")}
    async with asyncio.timeout(QUICKLY_S), started("good", server.url) as backend:
        assert "requires an API key" in backend.facts.trouble
        assert isinstance([item async for item in backend.generate(REQUEST)][-1], Ending)
        assert backend.facts.trouble == ""


async def test_a_missing_model_is_a_trouble_that_lists_the_others(server: FaultyServer) -> None:
    server.says = {"/v1/models": as_json({"data": [{"id": "a"}, {"id": "b"}]})}
    async with started("not_found", server.url) as backend:
        assert backend.facts.trouble.endswith("does not list the model 'not_found': it lists a, b")
    assert await failure_of("not_found", server.url) == (
        "",
        f"answered HTTP 404 at {server.url}/v1/chat/completions: File Not Found; "
        "it does not list the model 'not_found': it lists a, b",
    )


async def test_the_request_contains_what_was_asked_for(server: FaultyServer) -> None:
    await items_of("good", server.url + "/v1/", asked(system="Be brief \ud83d", seed=11))
    await items_of("good", server.url, asked(seed=None))
    with_system, without = server.bodies
    assert all("\r\ncontent-type: application/json\r\n" in head.lower() for head in server.heads)
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


@pytest.mark.parametrize("password", ["12/love", "12?love", "12#love", "12@love"])
def test_a_password_that_is_not_percent_encoded_is_refused_and_not_shown(password: str) -> None:
    with pytest.raises(Refused, match="is not valid") as refused:
        OpenAIBackend("tiny", ModelSource("openai", "tiny", f"http://ada:{password}@127.0.0.1:8080"))
    assert "love" not in str(refused.value)


@pytest.mark.parametrize("url", ["", "localhost:8080", "ftp://host", "http://", "http://host:0", "http://host:99999"])
def test_an_invalid_url_is_refused(url: str) -> None:
    with pytest.raises(Refused, match="http://127"):
        OpenAIBackend("tiny", ModelSource("openai", "tiny", url))


async def test_a_server_without_tls_fails_with_what_to_do() -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as listening:
        _, message = await failure_of("tiny", f"https://127.0.0.1:{listening.sockets[0].getsockname()[1]}")
    assert message == "cannot be used: it does not use TLS: try http:// instead of https://"


async def test_an_impossible_host_name_is_a_failure() -> None:
    _, message = await failure_of("tiny", f"http://{'x' * 70}.invalid")
    assert message


async def test_a_kept_connection_that_the_server_has_closed_loses_no_answer() -> None:
    """The server keeps its connection after an answer, and closes it with the next request."""
    requests: list[int] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if (await reader.readuntil(b"\r\n\r\n")).startswith(b"GET"):
            writer.close()
            return
        requests.append(0)
        requests[-1] += 1
        body = b"".join((*BEGUN, STOP, DONE))
        head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nContent-Length: %d\r\n\r\n" % len(body)
        writer.write(head + body)
        await writer.drain()
        while (more := await reader.read(65_536)) and b"POST" not in more:
            pass
        requests[-1] += b"POST" in more
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as listening:
        url = f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}"
        async with asyncio.timeout(QUICKLY_S), started("tired", url) as backend:
            for _ in range(4):
                items = [item async for item in backend.generate(REQUEST)]
                assert items[-1] == Ending("stop")
    # The second request on a kept connection fails; it is repeated on a new connection, which is not kept.
    assert requests == [2, 1, 2, 1]
