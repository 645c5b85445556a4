"""N-gram models that continue an answer: their own tokens exactly, given text as far as they know it."""

from __future__ import annotations

import math
import time
from collections.abc import AsyncIterator

import msgspec
import pytest

from producers.backend import Chunk, Ending, Piece, Request, Written, stretches_of
from producers.ngram.backend import NgramBackend

KINDS = ("ngram:word-3", "ngram:char-6", "ngram:bpe-3")
ASKED = Request("How does a generator end?", "", 120, 0.0, 5, top_k=20, silence_ms=30_000)


@pytest.fixture(params=KINDS)
async def backend(request: pytest.FixtureRequest) -> AsyncIterator[NgramBackend]:
    backend = NgramBackend(request.param, math.inf)
    await backend.start()
    yield backend
    await backend.close()


async def continued(backend: NgramBackend, *prefix: Written, max_tokens: int = 120) -> tuple[list[Piece], Ending]:
    request = msgspec.structs.replace(ASKED, prefix=prefix, max_tokens=max_tokens)
    *chunks, ending = [item async for item in backend.generate(request)]
    assert isinstance(ending, Ending)
    return [piece for chunk in chunks if isinstance(chunk, Chunk) for piece in chunk.pieces], ending


def text_of(pieces: list[Piece]) -> str:
    return "".join(piece.text for piece in pieces)


async def test_continuing_its_own_text_at_any_token_gives_the_rest_as_if_it_had_not_stopped(
    backend: NgramBackend,
) -> None:
    """The same tokens, logprobs and lists, to the last digit."""
    whole, ending = await continued(backend, max_tokens=60)
    assert ending.prompt_tokens
    for at in range(len(whole)):
        stretches = [*stretches_of(whole[: at // 2]), *stretches_of(whole[at // 2 : at])]
        end = Ending("length", prompt_tokens=ending.prompt_tokens + at)
        assert await continued(backend, *stretches, max_tokens=60 - at) == (whole[at:], end)


async def test_an_answer_with_nothing_left_to_write_ends_at_once_with_the_measurement_of_its_end(
    backend: NgramBackend,
) -> None:
    for seed in range(40):
        drawn = msgspec.structs.replace(ASKED, temperature=0.7, seed=seed, max_tokens=1_000)
        *chunks, ending = [item async for item in backend.generate(drawn)]
        whole = [piece for chunk in chunks if isinstance(chunk, Chunk) for piece in chunk.pieces]
        assert isinstance(ending, Ending)
        if ending.reason == "stop" and ending.top[0][0] == b"":
            assert ending.top[0][1] == ending.logprob
            nothing, again = await continued(backend, *stretches_of(whole))
            assert (nothing, again.logprob, again.top) == ([], ending.logprob, ending.top)
            return
    raise AssertionError("no answer ended where the end is the likeliest token")


async def test_own_tokens_after_a_given_text_are_continued_as_if_they_had_been_written_at_once(
    backend: NgramBackend,
) -> None:
    for given in ("The generator", "The gener", "The ", "Zyzzyva 日本", "\n"):
        whole, _ = await continued(backend, Written(given), max_tokens=12)
        for at in range(1, len(whole)):
            rest, _ = await continued(backend, Written(given), *stretches_of(whole[:at]), max_tokens=12 - at)
            assert rest == whole[at:]


@pytest.mark.parametrize("backend", ["ngram:word-3", "ngram:bpe-3"], indirect=True)
@pytest.mark.parametrize(
    ("given", "word"), [("When a gener", "gener"), ("When a ", ""), ("When a generator is cl", "cl")]
)
async def test_a_prefix_that_ends_inside_a_piece_is_continued_with_the_end_of_that_piece(
    backend: NgramBackend, given: str, word: str
) -> None:
    """The list is about the text that follows, and sums to at most one; the piece's own start is not repeated."""
    (piece, *_), _ = await continued(backend, Written(given), max_tokens=1)
    assert piece.text
    assert not piece.text.startswith((" ", "\n"))
    assert piece.token is None
    assert dict(piece.top)[piece.text.encode()] == piece.logprob
    assert b"" not in dict(piece.top)
    assert math.fsum(math.exp(logprob) for _, logprob in piece.top) <= 1.0 + 1e-9
    assert backend._model
    assert f" {word}{piece.text}" in backend._model.tokenizer.pieces


async def test_an_unknown_word_ends_the_context_and_nothing_fails(backend: NgramBackend) -> None:
    """What follows is what follows any unknown word: the tokens before it are out of reach."""
    first, _ = await continued(backend, Written("A function returns ❄❄ the"))
    other, _ = await continued(backend, Written("Nothing is known of ❄❄ the"))
    assert first == other


async def test_a_prefix_of_64_kilobytes_with_unknown_words_is_continued(backend: NgramBackend) -> None:
    given = "A qwertz function zzzyx returns a value. " * 1_600
    (piece, *_), _ = await continued(backend, Written(given), max_tokens=1)
    assert piece.text


async def test_a_given_text_without_spaces_is_read_in_time_that_grows_with_its_length(backend: NgramBackend) -> None:
    """Such a text is one word. A producer that reads it for minutes serves no other session."""
    began = time.process_time()
    (piece, *_), _ = await continued(backend, Written("x" * 4_000), max_tokens=1)
    assert piece.text
    assert time.process_time() - began < 1.0


def test_the_facts_contain_that_it_continues() -> None:
    assert NgramBackend("ngram:word-3").facts.continues == "yes"
