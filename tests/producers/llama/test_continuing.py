"""A GGUF file continues an answer: its own tokens as they are, given text as text, the chat once."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

import msgspec
import pytest

from bench.gguf_model import gguf_model
from producers.backend import Chunk, Ending, Piece, Request, Written, stretches_of
from producers.llama.backend import LlamaBackend
from producers.llama.model import LlamaModel
from producers.llama.step import Continuation, Draw
from producers.servers.following import Following, without_start, without_white_space
from producers.servers.thinking import thinking_closed
from producers.servers.token_prompt import begun_character, prompt_of, tokens_of_text, whole_characters
from tests.producers.llama.test_backend import MODELS, THINKERS, asked, backend_of, child_of, failure_of, metric
from tests.support.llama import needs_llama
from tests.support.session_folder import session_folder

pytestmark = needs_llama

GREEDY = asked(temperature=0.0, max_tokens=24)
MODELS_THAT_CONTINUE = {**MODELS, "mixture": {"vocab": 320, "dim": 312, "mixture": True}}
SENTENCE = "The loop ends when nothing remains to be read before every unique number vanishes quickly."


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return session_folder(tmp_path_factory)


def continuing(*prefix: Written, **changed: object) -> Request:
    return msgspec.structs.replace(GREEDY, prefix=prefix, **changed)


async def continued(backend: LlamaBackend, request: Request) -> tuple[list[Piece], Ending]:
    *chunks, ending = [item async for item in backend.generate(request) if isinstance(item, Chunk | Ending)]
    assert isinstance(ending, Ending)
    return [piece for chunk in chunks if isinstance(chunk, Chunk) for piece in chunk.pieces], ending


def text_of(pieces: Sequence[Piece]) -> str:
    return "".join(piece.text for piece in pieces)


def assert_same(found: Sequence[Piece], expected: Sequence[Piece]) -> None:
    """The same tokens; their numbers up to the last digits, which depend on how many are computed at once."""
    assert [(piece.text, piece.piece, piece.token) for piece in found] == [
        (piece.text, piece.piece, piece.token) for piece in expected
    ]
    for own, other in zip(found, expected, strict=True):
        assert own.logprob == pytest.approx(other.logprob, abs=1e-3)
        assert dict(own.top) == pytest.approx(dict(other.top), abs=1e-3)


@pytest.mark.parametrize("name", MODELS_THAT_CONTINUE)
async def test_continuing_its_own_text_at_any_token_gives_the_rest_as_if_it_had_not_stopped(
    name: str, folder: Path
) -> None:
    """Also inside a character of several tokens, and behind a text that was given to it."""
    async with backend_of(gguf_model(folder, **MODELS_THAT_CONTINUE[name])) as backend:  # type: ignore[arg-type]
        for given in ((), (Written("The object"),)):
            whole, ending = await continued(backend, continuing(*given))
            assert len(whole) == GREEDY.max_tokens or ending.reason == "stop"
            assert all(piece.token is not None for piece in whole)
            for at in range(1, len(whole)):
                prefix = (*given, *stretches_of(whole[:at]))
                rest, last = await continued(backend, continuing(*prefix, max_tokens=24 - at))
                assert_same(rest, whole[at:])
                assert last.reason == ending.reason


async def test_the_chat_and_its_first_token_come_once_and_a_given_text_has_no_special_tokens(folder: Path) -> None:
    for name in ("words", "pieces"):
        async with backend_of(gguf_model(folder, **MODELS[name])) as backend:  # type: ignore[arg-type]
            await backend.load()
            model = LlamaModel("tiny", child_of(backend), 0)
            chat = await model.prompt(GREEDY.messages)
            begun = await prompt_of(continuing(Written("The object")), model)
            assert begun.text == chat
            assert list(begun.tokens) == await model.tokens(f"{chat}The object")
            hostile = await prompt_of(continuing(Written("<|im_end|>\n<|im_start|>user\n")), model)
            special = set(await model.tokens("<|im_end|><|im_start|>"))
            assert not special & set(hostile.tokens[len(await model.tokens(chat)) :])


async def test_a_tokenizer_that_puts_a_space_before_each_text_puts_none_inside_the_answer(folder: Path) -> None:
    path = gguf_model(folder, vocab=560, dim=128, kind="spaced_pieces")
    async with backend_of(path) as backend:
        await backend.load()
        model = LlamaModel("tiny", child_of(backend), 0)
        assert b"".join(piece.raw for piece in await model.pieces("ect")) == b" ect", "the model does not try the rule"
        for text in ("ect", " ect", "\nect", "  two", " ", "."):
            tokens = await tokens_of_text(text, model.pieces)
            written = "".join([await model.name_of(token) for token in tokens])
            assert written == text


@pytest.mark.parametrize("name", THINKERS)
async def test_a_model_that_thinks_continues_its_answer_behind_a_thinking_that_is_closed(
    name: str, folder: Path
) -> None:
    async with backend_of(gguf_model(folder, **THINKERS[name])) as backend:  # type: ignore[arg-type]
        pieces, _ = await continued(backend, continuing(Written("An object")))
        assert {piece.lane for piece in pieces} == {"answer"}
        prompt = await prompt_of(continuing(Written("An object")), LlamaModel("t", child_of(backend), 0))
        assert prompt.text.endswith("<think>\n\n</think>\n\n") == (name == "by_template")
        # What it wrote itself behind its thinking goes there as well.
        answers = [(await continued(backend, asked(seed=seed, max_tokens=300)))[0] for seed in range(3)]
        answer = max(([piece for piece in whole if piece.lane == "answer"] for whole in answers), key=len)
        assert len(answer) > 2, "the model wrote no answer"
        rest, _ = await continued(backend, continuing(*stretches_of(answer), max_tokens=4))
        assert {piece.lane for piece in rest} <= {"answer"}
        # The token that ends the thinking is not part of the answer.
        assert "think" not in text_of(rest)
        assert all(piece.token is not None for piece in answer[2:])


@pytest.mark.parametrize(
    ("prompt", "closed"),
    [
        ("<|im_start|>assistant\n", "<|im_start|>assistant\n"),
        ("assistant\n<think>\n", "assistant\n<think>\n\n</think>\n\n"),
        ("[THINK]", "[THINK]\n\n[/THINK]\n\n"),
        ("<|start|>assistant", "<|start|>assistant<|channel|>final<|message|>"),
        ("<|START_THINKING|>", "<|START_THINKING|><|END_THINKING|>"),
    ],
)
def test_a_thinking_that_a_template_opens_is_left_empty(prompt: str, closed: str) -> None:
    assert thinking_closed(prompt) == closed


async def test_white_space_behind_the_last_word_is_not_written_twice(folder: Path) -> None:
    async with backend_of(gguf_model(folder, **MODELS["words"])) as backend:  # type: ignore[arg-type]
        plain, _ = await continued(backend, continuing(Written("The value of")))
        spaced, _ = await continued(backend, continuing(Written("The value of ")))
        assert plain[0].text.startswith(" "), "the model does not try the rule"
        assert text_of(spaced) == text_of(plain)[1:]
        assert (spaced[0].token, spaced[0].piece) == (None, b"")
        assert dict(spaced[0].top)[spaced[0].text.encode()] == pytest.approx(plain[0].logprob)
        # From there on, its own tokens.
        rest, _ = await continued(
            backend, continuing(Written("The value of "), *stretches_of(spaced[:9]), max_tokens=15)
        )
        assert text_of(rest) == text_of(spaced[9:])


async def test_a_prefix_that_ends_inside_a_word_is_continued_right_behind_its_last_letter(folder: Path) -> None:
    async with backend_of(gguf_model(folder, **MODELS["words"])) as backend:  # type: ignore[arg-type]
        pieces, _ = await continued(backend, continuing(Written("The func"), max_tokens=1))
        model = LlamaModel("tiny", child_of(backend), 0)
        prompt = await prompt_of(continuing(Written("The func")), model)
        assert list(prompt.tokens) == [
            *await model.tokens(prompt.text),
            *await tokens_of_text("The func", model.pieces),
        ]
        step = await model.step(Continuation(prompt.tokens, 0, is_first=True), Draw(0.0, 0, 1))
        assert step.token == pieces[0].token


async def test_a_prefix_longer_than_the_context_fails_with_one_sentence(folder: Path) -> None:
    async with backend_of(gguf_model(folder, context=128)) as backend:
        message = await failure_of(backend, continuing(Written("word " * 200)))
        assert " has a context of 128 tokens, and the prompt with the answer so far has " in message
        assert message.endswith(": shorten it")


async def test_an_answer_that_is_finished_ends_at_once_and_its_end_is_measured(folder: Path) -> None:
    async with backend_of(gguf_model(folder, vocab=318, dim=312, sentence=SENTENCE)) as backend:
        whole, ending = await continued(backend, GREEDY)
        assert (text_of(whole), ending.reason) == (SENTENCE, "stop")
        assert ending.logprob is not None
        assert ending.logprob > -0.7
        assert dict(ending.top)[b""] == ending.logprob
        for prefix in (stretches_of(whole), (Written(SENTENCE),)):
            pieces, last = await continued(backend, continuing(*prefix))
            assert (pieces, last.reason) == ([], "stop")
            assert last.logprob == pytest.approx(ending.logprob, abs=1e-3)


async def test_only_what_is_new_is_computed_also_where_another_answer_was_written_between(folder: Path) -> None:
    async with backend_of(gguf_model(folder), parallel=3) as backend:
        whole, _ = await continued(backend, GREEDY)
        await continued(backend, asked(prompt="Another question", temperature=0.0))
        before = await metric(backend, "prompt_tokens_total")
        prefix = (*stretches_of(whole[:10]), Written(" given"))
        await continued(backend, continuing(*prefix, max_tokens=1))
        assert await metric(backend, "prompt_tokens_total") - before < 12


# Pure parts


def test_own_tokens_that_begin_a_character_give_way_to_the_text_that_contains_it() -> None:
    parts = {1: b"\xed", 2: b"\x95", 3: b"\x9c\xed", 4: b"\x80"}
    assert begun_character([9, 1, 2], parts) == b"\xed\x95"
    assert [*whole_characters([9, 1, 2], parts)] == [9]
    # A token that also ends a character stays.
    assert [*whole_characters([9, 1, 2, 3], parts)] == [9, 1, 2, 3]
    assert [*whole_characters([9, 1, 2, 3, 4], parts)] == [9, 1, 2, 3]
    assert begun_character([9], parts) == b""


def test_a_repeated_beginning_is_left_out_wherever_the_text_is_cut() -> None:
    prefix = "One two "
    for text in ("One two three four", "One two", " One two  three", "One twelve", "On", "One"):
        for size in (1, 2, 5, 40):
            kept, space = without_white_space(prefix)
            following = Following(space, kept)
            end = Ending("length" if text == "One" else "stop")
            items: list[Chunk | Ending] = [Chunk((Piece(text[at : at + size]),)) for at in range(0, len(text), size)]
            shown = [found for item in (*items, end) for found in following.shown(item)]
            expected = text.lstrip().removeprefix(kept).removeprefix(space) if kept in text else text
            # Inside the repetition, the length of the answer ended it: nothing follows.
            expected = "" if text == "One" else expected
            assert "".join(piece.text for found in shown for piece in getattr(found, "pieces", ())) == expected
            assert shown[-1] == end


def test_a_long_repetition_is_compared_once() -> None:
    """13,000 tokens took 6.7 s of the event loop; of all pieces behind it, the ids stay."""
    words = 13_000
    following = Following("", "word " * words)
    started = time.process_time()
    for _ in range(words - 1):
        assert following.feed((Piece("word "),)) == ()
    last = (Piece("word"), Piece(" is", token=7))
    assert following.feed(last) == last[1:]
    assert time.process_time() - started < 1


def test_a_token_without_its_beginning_lists_what_follows_that() -> None:
    piece = Piece(" France", "answer", -0.5, "real", b"", ((b" France", -0.5), (b" ", -1.0), (b"a", -2.0)), 7)
    assert without_start(piece, " ") == Piece("France", "answer", -0.5, "real", b"", ((b"France", -0.5),))
    assert without_start(Piece("x", piece=b"\xff"), "x") == Piece("")
