"""Continuing an answer over OpenAI's interface: llama.cpp's own server exactly, others as one real try has shown."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec
import pytest

from bench.gguf_model import gguf_model
from bench.llama_server import llama_server
from producers.backend import (
    BackendFailed,
    Chunk,
    Ending,
    ModelLoading,
    OutOfMemory,
    Piece,
    Request,
    Written,
    stretches_of,
)
from producers.openai import asking
from producers.openai.backend import OpenAIBackend
from producers.servers.prefix_try import BEGUN, outcome_of
from producers.servers.recorded import Exchange
from producers.source import ModelSource
from tests.producers.openai.test_backend import QUICKLY_S, items_of, pieces_in, started, text_of
from tests.support.exact_server import ExactServer, answer, exact_server, stream
from tests.support.llama import skip_without_llama
from tests.support.session_folder import session_folder

GREEDY = Request("How are names resolved?", "You explain Python.", 24, 0.0, None, top_k=5, silence_ms=5_000)
SENTENCE = "The loop ends when nothing remains to be read before every unique number vanishes quickly."
MODELS = {
    "words": {"vocab": 640, "dim": 160, "attends": True},
    "pieces": {"vocab": 560, "dim": 128, "seed": 3, "kind": "sentence_pieces", "attends": True},
    "hangul": {"vocab": 320, "dim": 312, "hangul": True},
}


def continuing(*prefix: Written, **changed: object) -> Request:
    return msgspec.structs.replace(GREEDY, prefix=prefix, **changed)


# llama.cpp's own server


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    skip_without_llama()
    return session_folder(tmp_path_factory)


@pytest.fixture(scope="module")
def words(folder: Path) -> Iterator[str]:
    with llama_server(gguf_model(folder, **MODELS["words"])) as url:
        yield url


@pytest.mark.parametrize("is_split", [False, True])
async def test_continuing_its_own_text_at_any_token_gives_the_rest_as_if_it_had_not_stopped(
    folder: Path, words: str, is_split: bool
) -> None:
    """Written by a chat, continued by a completion of its tokens. Of a character of several tokens the ids are not
    known: it is given as text."""
    if not is_split:
        return await assert_continued(words)
    with llama_server(gguf_model(folder, **MODELS["hangul"])) as url:  # type: ignore[arg-type]
        await assert_continued(url)


async def assert_continued(url: str) -> None:
    async with asyncio.timeout(QUICKLY_S), started("tiny", url) as backend:
        assert backend.facts.continues == "yes"
        whole = pieces_in([item async for item in backend.generate(GREEDY)])
        assert sum(piece.token is not None for piece in whole) > len(whole) / 2
        for at in range(1, len(whole), 3):
            request = continuing(*stretches_of(whole[:at]), max_tokens=24 - at)
            rest = pieces_in([item async for item in backend.generate(request)])
            # The limit counts tokens, of which some characters have several.
            assert len(rest) >= min(len(whole[at:]), request.max_tokens // 3)
            for own, other in zip(rest, whole[at:], strict=False):
                assert (own.text, own.token) == (other.text, other.token)
                assert own.logprob == pytest.approx(other.logprob, abs=1e-3)
                assert dict(own.top) == pytest.approx(dict(other.top), abs=1e-3)


async def test_the_chat_and_its_first_token_come_once_and_given_text_has_no_special_tokens(folder: Path) -> None:
    with llama_server(gguf_model(folder, **MODELS["pieces"])) as url:  # type: ignore[arg-type]
        exchanges: list[Exchange] = []
        backend = OpenAIBackend("tiny", ModelSource("openai", "tiny", url), exchanges)
        await backend.start()
        for given in ("The object", "<|im_end|>"):
            assert [item async for item in backend.generate(continuing(Written(given), max_tokens=2))]
        await backend.close()
    sent = [json.loads(exchange.sent) for exchange in exchanges if exchange.url.endswith("/completion")]
    first, hostile = [body["prompt"] for body in sent]
    (chat, *_) = [json.loads(exchange.received)["tokens"] for exchange in exchanges if "tokenize" in exchange.url]
    assert first[: len(chat)] == hostile[: len(chat)] == chat
    begin_of_text, *rest = first
    assert begin_of_text not in rest
    assert not set(hostile[len(chat) :]) & {token for token in chat if chat.count(token) > 1 and token > 555}
    assert all(body["cache_prompt"] and body["repeat_penalty"] == 1.0 for body in sent)


async def test_a_model_that_thinks_continues_its_answer_behind_a_thinking_that_is_closed(folder: Path) -> None:
    with llama_server(gguf_model(folder, vocab=328, dim=320, thinks="by_template")) as url:
        pieces = pieces_in(await items_of("tiny", url, continuing(Written("An object"))))
    assert pieces
    assert {piece.lane for piece in pieces} == {"answer"}


async def test_white_space_behind_the_last_word_is_not_written_twice(words: str) -> None:
    plain = text_of(pieces_in(await items_of("tiny", words, continuing(Written("The value of")))))
    spaced = text_of(pieces_in(await items_of("tiny", words, continuing(Written("The value of ")))))
    assert plain.startswith(" "), "the model does not try the rule"
    assert spaced == plain[1:]


async def test_an_answer_that_is_finished_ends_at_once_and_its_end_is_measured(folder: Path) -> None:
    with llama_server(gguf_model(folder, vocab=318, dim=312, sentence=SENTENCE)) as url:
        *chunks, ending = await items_of("tiny", url, GREEDY)
        assert text_of(pieces_in(chunks)) == SENTENCE
        assert isinstance(ending, Ending)
        assert (ending.reason, ending.logprob, ending.top) == ("stop", None, ()), "a chat reports no end"
        assert ending.prompt_tokens
        own = stretches_of(pieces_in(chunks))
        for prefix in (own, (Written(SENTENCE),)):
            (last,) = await items_of("tiny", url, continuing(*prefix))
            assert isinstance(last, Ending)
            assert last.reason == "stop"
            if prefix is own:
                # Of which nearly all were cached.
                assert last.prompt_tokens == ending.prompt_tokens + sum(len(stretch.ids) for stretch in own)
            assert last.logprob is not None
            assert last.logprob > -0.7
            assert dict(last.top)[b""] == last.logprob


async def test_a_prefix_longer_than_the_context_fails_with_one_sentence(words: str) -> None:
    with pytest.raises(BackendFailed, match="exceeds the available context size") as failed:
        await items_of("tiny", words, continuing(Written("word " * 3_000)))
    assert "\n" not in str(failed.value)


async def test_a_llama_server_behind_a_proxy_without_completions_is_asked_by_chat() -> None:
    models = b'{"data":[{"id":"m","owned_by":"llamacpp"}]}'
    server, found = await asked_of({"GET /v1/models": answer(models), POST: [stream(" six")]}, Written("five"))
    assert found == " six"
    (body,) = server.questions
    assert body["messages"][-1] == {"role": "assistant", "content": "five"}
    assert (body["continue_final_message"], body["add_generation_prompt"], body["cache_prompt"]) == (True, False, True)


@pytest.mark.parametrize("path", ["POST /apply-template", "POST /tokenize"])
async def test_a_llama_server_that_loads_its_model_is_asked_for_tokens_again(
    path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A chat would give the answer so far as text, and some templates refuse one."""
    monkeypatch.setattr(asking, "LOADING_PAUSE_S", 0.01)
    loading = answer(b'{"error":{"code":503,"message":"Loading model","type":"unavailable_error"}}', "503 Unavailable")
    answers: dict[str, list[bytes]] = {
        "GET /v1/models": [answer(b'{"data":[{"id":"m","owned_by":"llamacpp"}]}')],
        "POST /apply-template": [answer(b'{"prompt":"chat"}')],
        "POST /tokenize": [answer(b'{"tokens":[1,2]}')],
        "POST /completion": [answer(b'data: {"content":" six","stop_type":"limit"}\n\n', kind="text/event-stream")],
    }
    answers[path].insert(0, loading)
    async with asyncio.timeout(QUICKLY_S), exact_server(answers) as server, started("m", server.url) as backend:
        items = [item async for item in backend.generate(continuing(Written("five", (5,))))]
        assert items == [ModelLoading(), Chunk((Piece(" six"),)), Ending("length")]
        assert backend.facts.continues == "yes"
    (sent,) = [json.loads(body) for asked, body in server.asked if asked == "POST /completion"]
    assert sent["prompt"] == [1, 2, 5]
    assert not server.questions, "it was asked by chat"


# Others: the first answer is that to the try

POST = "POST /v1/chat/completions"
LIST = answer(b'{"data":[{"id":"m"}]}')
VLLM = answer(b'{"data":[{"id":"m","owned_by":"vllm"}]}')
STUDIO = answer(b'{"models":[{"key":"m","type":"llm","loaded_instances":[{"id":"m"}]}]}')
SEVEN = stream(" seven", " eight")
NO_MEMORY = answer(b'{"error":{"message":"Failed to load model: insufficient system resources"}}', "400 Bad Request")
NO_MODEL = answer(b'{"error":{"message":"the model m has no licence"}}', "422 Unprocessable Entity")
THOUGHT = answer(
    b'data: {"choices":[{"delta":{"reasoning_content":"Hm"}}]}\n\ndata: [DONE]\n\n', kind="text/event-stream"
)


async def asked_of(answers: dict[str, bytes | Sequence[bytes] | None], *prefix: Written) -> tuple[ExactServer, str]:
    """(the server, the text that follows the prefix)."""
    async with asyncio.timeout(QUICKLY_S), exact_server(answers) as server:
        return server, text_of(pieces_in(await items_of("m", server.url, continuing(*prefix))))


@pytest.mark.parametrize("kind", ["vllm", "lm-studio", "other"])
async def test_a_server_is_tried_once_and_sent_the_text_up_to_its_last_word(kind: str) -> None:
    lists = {"GET /v1/models": VLLM if kind == "vllm" else LIST}
    lists |= {"GET /api/v1/models": STUDIO} if kind == "lm-studio" else {}
    async with (
        asyncio.timeout(QUICKLY_S),
        exact_server({**lists, POST: [SEVEN, stream(" c", " d")]}) as server,
        started("m", server.url) as backend,
    ):
        assert backend.facts.continues == "untried"
        for _ in range(2):
            request = continuing(Written("a", (1,)), Written(" b "))
            items = [item async for item in backend.generate(request)]
            assert text_of(pieces_in(items)) == "c d"
        assert backend.facts.continues == "yes"
    tried, *asked = server.questions
    assert tried["messages"][-1] == {"role": "assistant", "content": BEGUN}
    assert len(asked) == 2
    for body in (tried, *asked):
        roles = [message["role"] for message in body["messages"]]
        assert roles[-2:] == ["user", "assistant"]
        assert ("continue_final_message" in body) == (kind == "vllm")
        assert body.get("add_generation_prompt") == (False if kind == "vllm" else None)
        assert ("presence_penalty" in body) == (kind != "other")
    assert asked[0]["messages"][-1]["content"] == "a b"


async def test_a_server_that_repeats_the_beginning_has_it_left_out() -> None:
    repeated = [stream("four five", " six seven eight"), stream("a", " b c", " d"), stream("A", " new answer")]
    for cut in (repeated[:2], [repeated[0], stream("a b", " c d")], [repeated[0], stream("a b c d")]):
        _, found = await asked_of({"GET /v1/models": LIST, POST: cut}, Written("a b"))
        assert found == " c d"
    _, found = await asked_of({"GET /v1/models": LIST, POST: [repeated[0], repeated[2]]}, Written("a b"))
    assert found == "A new answer"
    # The repetition counts as well.
    server, _ = await asked_of({"GET /v1/models": LIST, POST: repeated}, Written("a b"))
    assert [body["max_tokens"] for body in server.questions] == [16, GREEDY.max_tokens + len("a b")]


async def test_an_answer_that_loops_is_kept_where_the_server_does_not_repeat() -> None:
    _, found = await asked_of({"GET /v1/models": LIST, POST: [SEVEN, stream(" ha", " ha")]}, Written(" ha"))
    assert found == " ha ha"
    _, found = await asked_of({"GET /v1/models": LIST, POST: [SEVEN, stream("ha", " ha")]}, Written("ha"))
    assert found == "ha ha"


@pytest.mark.parametrize(
    ("begun", "follows"), [("I", " Iceland"), ("4", "42"), ("A long way to go", "A long way to go")]
)
async def test_nothing_is_cut_of_a_server_that_has_not_repeated_its_beginning_at_the_try(
    begun: str, follows: str
) -> None:
    unclear = stream(" and so on")
    _, found = await asked_of({"GET /v1/models": LIST, POST: [unclear, stream(follows)]}, Written(begun))
    assert found == follows


async def test_an_answer_that_comes_whole_and_repeats_the_beginning_has_it_left_out() -> None:
    whole = answer(b'{"choices":[{"message":{"content":"a b c d"},"finish_reason":"stop"}]}')
    _, found = await asked_of({"GET /v1/models": LIST, POST: [SEVEN, whole]}, Written("a b"))
    assert found == " c d"


@pytest.mark.parametrize(
    ("tried", "why"),
    [
        ([stream("One", " two")], "it begins a new one instead"),
        ([stream("Sure! one, two")], "it begins a new one instead"),
        ([THOUGHT], "it begins a new one instead"),
        ([answer(b'{"error":{"message":"unexpected message"}}', "400 Bad Request"), stream("One")], "it refuses"),
    ],
)
async def test_a_server_that_does_not_continue_is_tried_once_and_the_reason_is_one_sentence(
    tried: list[bytes], why: str
) -> None:
    async with (
        asyncio.timeout(QUICKLY_S),
        exact_server({"GET /v1/models": LIST, POST: [*tried, stream("x")]}) as server,
        started("m", server.url) as backend,
    ):
        for _ in range(2):
            with pytest.raises(BackendFailed, match=f"does not continue an answer: {why}"):
                _ = [item async for item in backend.generate(continuing(Written("a b")))]
        assert backend.facts.continues == "no"
        assert len(server.questions) == len(tried)
        assert text_of(pieces_in([item async for item in backend.generate(GREEDY)])) == "x"


@pytest.mark.parametrize(
    ("answers", "kind", "words"),
    [
        ([answer(b"upstream is away", "502 Bad Gateway")], BackendFailed, "502"),
        ([NO_MEMORY], OutOfMemory, "insufficient system resources"),
        # It refuses every request now, whether it begins an answer or not.
        ([NO_MODEL, NO_MODEL], BackendFailed, "has no licence"),
        ([NO_MODEL, NO_MEMORY], OutOfMemory, "insufficient system resources"),
        # A model that thinks about some questions only.
        ([SEVEN, THOUGHT], BackendFailed, "it begins a new one instead"),
    ],
)
async def test_a_failure_that_is_not_about_the_beginning_leaves_the_model_untried(
    answers: list[bytes], kind: type[BackendFailed], words: str
) -> None:
    async with (
        asyncio.timeout(QUICKLY_S),
        exact_server({"GET /v1/models": LIST, POST: [*answers, SEVEN, stream(" c")]}) as server,
        started("m", server.url) as backend,
    ):
        with pytest.raises(BackendFailed, match=words) as failed:
            _ = [item async for item in backend.generate(continuing(Written("a b")))]
        assert (type(failed.value), backend.facts.continues) == (kind, "untried")
        items = [item async for item in backend.generate(continuing(Written("a b")))]
        assert text_of(pieces_in(items)) == " c"


async def test_a_refused_flag_or_penalty_is_left_out() -> None:
    flag = answer(b'{"error":{"message":"unknown field continue_final_message"}}', "400 Bad Request")
    penalty = answer(b'{"detail":[{"loc":["body","repetition_penalty"],"msg":"no"}]}', "422 No")
    server, found = await asked_of({"GET /v1/models": VLLM, POST: [flag, penalty, SEVEN, stream(" c")]}, Written("a"))
    assert found == " c"
    last = server.questions[-1]
    assert not {"continue_final_message", "repetition_penalty"} & last.keys()


async def test_a_prefix_of_white_space_alone_is_no_message() -> None:
    server, found = await asked_of({"GET /v1/models": LIST, POST: [SEVEN, stream("\n Hello")]}, Written("\n "))
    assert found == "Hello"
    assert [message["role"] for message in server.questions[-1]["messages"]] == ["system", "user"]


async def test_an_empty_prefix_is_a_request_like_any_other() -> None:
    server, found = await asked_of({"GET /v1/models": LIST, POST: stream("Hello")}, Written(""))
    assert found == "Hello"
    (body,) = server.questions
    assert [message["role"] for message in body["messages"]] == ["system", "user"]


async def test_a_finished_sentence_ends_at_once() -> None:
    async with asyncio.timeout(QUICKLY_S), exact_server({"GET /v1/models": LIST, POST: [SEVEN, stream()]}) as server:
        items = await items_of("m", server.url, continuing(Written("All is said.")))
    assert items == [Ending("stop")]


@pytest.mark.parametrize(
    ("text", "thinks", "outcome"),
    [
        (" seven eight", False, "continued"),
        (", 7, 8", False, "continued"),
        ("Six seven eight", False, "continued"),
        ("Ten", False, "continued"),
        ("four five six seven", False, "repeated"),
        ("Four, five, six, seven", False, "repeated"),
        ("One, two", False, "begun anew"),
        ("Here you are:", False, "begun anew"),
        ("1\n2\n3", False, "begun anew"),
        ("", True, "begun anew"),
        ("", False, "accepted"),
        (" and so on", False, "accepted"),
    ],
)
def test_what_an_answer_to_the_try_shows(text: str, thinks: bool, outcome: str) -> None:
    assert outcome_of(text, thinks=thinks) == outcome
