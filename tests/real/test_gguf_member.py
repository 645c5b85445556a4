"""A GGUF member of a real model, where toy models are too small and too fast."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import msgspec
import pytest

from bench.llama_server import llama_server
from producers.backend import BackendFailed, Chunk, Ending, ModelWaiting, Piece, Request, Written, stretches_of
from producers.llama.backend import LlamaBackend
from producers.llama.model import LlamaModel
from producers.llama.step import Continuation, Draw
from producers.llama.stretch import STRETCH_TOKENS
from producers.openai.backend import OpenAIBackend
from producers.source import ModelSource
from schemas.sessions import Message
from tests.producers.llama.test_backend import (
    QUICKLY_S,
    answer_of,
    asked,
    backend_of,
    child_of,
    failure_of,
    first_token,
    is_idle,
    metric,
    pid_of,
    text_of,
)
from tests.support.waiting import until

pytestmark = [pytest.mark.real, pytest.mark.xdist_group("real")]

FRANCE = asked(prompt="What is the capital of France?", system="Answer in one short sentence.", temperature=0.0)
STORY = asked(prompt="Tell a long story of a lighthouse keeper.", system="", temperature=0.9, max_tokens=60)
# Its characters have two to four tokens each.
EMOJI = asked(prompt="Continue this list of animals: 🦁 🐯 🐻 🐼 🐨", system="", temperature=0.0, max_tokens=40)
# SmolLM2's template adds one to a chat without one.
OWN_SYSTEM = "You are a helpful AI assistant named SmolLM, trained by Hugging Face"


@pytest.fixture
async def backend(smollm2: Path) -> AsyncIterator[LlamaBackend]:
    async with backend_of(smollm2, parallel=3) as backend:
        await backend.load()
        yield backend


@pytest.mark.parametrize("chat", [FRANCE, msgspec.structs.replace(STORY, temperature=0.0), EMOJI])
async def test_the_answer_is_the_one_that_the_same_model_sends_over_http(
    smollm2: Path, backend: LlamaBackend, chat: Request
) -> None:
    """Text, pieces, logprobs and lists; for a character of several tokens HTTP sends only the last token."""
    pieces, reason = await answer_of(backend, chat)
    with llama_server(smollm2) as url:
        served = OpenAIBackend("smollm2", ModelSource("openai", "smollm2", url))
        await served.start()
        *chunks, ending = [item async for item in served.generate(chat) if isinstance(item, Chunk | Ending)]
        await served.close()
    theirs = [piece for chunk in chunks if isinstance(chunk, Chunk) for piece in chunk.pieces]
    assert "".join(piece.text for piece in pieces) == "".join(piece.text for piece in theirs)
    assert isinstance(ending, Ending)
    assert ending.reason == reason
    shown = [piece for piece in pieces if piece.text]
    for own, other in zip(shown, [piece for piece in theirs if piece.text], strict=True):
        assert own.text == other.text
        assert own.logprob == pytest.approx(other.logprob, abs=1e-3)
        assert [piece for piece, _ in own.top[:5]] == [piece for piece, _ in other.top[:5]]
    assert {piece.quality for piece in pieces} == {"real"}


async def test_a_chat_is_written_as_the_models_template_writes_it(smollm2: Path, backend: LlamaBackend) -> None:
    """Exactly ChatML; so the answer is the continuation of that text by the model."""
    model = LlamaModel("smollm2", child_of(backend), 0)
    user = Message("user", "Hi")
    turns = (user, Message("assistant", "Yes?"), Message("user", FRANCE.prompt))
    for system, chat in ((OWN_SYSTEM, turns), ("Be brief.", (Message("system", "Be brief."), *turns))):
        assert await model.prompt(chat) == (
            f"<|im_start|>system\n{system}<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n"
            f"<|im_start|>assistant\nYes?<|im_end|>\n<|im_start|>user\n{FRANCE.prompt}<|im_end|>\n"
            "<|im_start|>assistant\n"
        )
    request = msgspec.structs.replace(FRANCE, system="Be brief.", history=turns[:2])
    with llama_server(smollm2) as url:
        async with httpx.AsyncClient(base_url=url, trust_env=False, timeout=QUICKLY_S) as client:
            body = {"prompt": await model.prompt(request.messages), "temperature": 0.0, "n_predict": 40}
            bare = (await client.post("/completion", json=body)).raise_for_status().json()["content"]
    assert await text_of(backend, request) == bare


async def test_an_answer_ends_by_itself_and_its_end_token_is_not_text(backend: LlamaBackend) -> None:
    pieces, reason = await answer_of(backend, FRANCE)
    text = "".join(piece.text for piece in pieces)
    assert (reason, text) == ("stop", "The capital of France is Paris.")
    assert len(pieces) < FRANCE.max_tokens


async def test_a_prompt_beyond_the_context_is_refused_with_numbers(backend: LlamaBackend) -> None:
    message = await failure_of(backend, asked(prompt="word " * 8_192))
    assert " has a context of 8192 tokens, and the prompt has 8211: shorten it" in message


async def test_after_a_cancel_during_the_prompt_its_slot_is_soon_free(smollm2: Path) -> None:
    """Long before the prompt would have been computed: llama.cpp stops after the present batch.

    It looks for closed connections when it has sent nothing for a second: so nothing is requested meanwhile.
    """
    prompt_tokens = 6_000
    async with backend_of(smollm2, parallel=1) as backend:
        await backend.load()
        waiting = asyncio.create_task(answer_of(backend, asked(prompt="word " * prompt_tokens)))

        async def computes() -> bool:
            return not await is_idle(backend)

        await until(computes, "the prompt is computed", QUICKLY_S)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert (await answer_of(backend, FRANCE))[1] == "stop"
        assert await metric(backend, "prompt_tokens_total") < prompt_tokens


@pytest.mark.parametrize("members", [2, 3])
async def test_members_of_several_sessions_write_at_once(members: int, backend: LlamaBackend) -> None:
    """In slots of one model, computed in one batch. All have begun before one has ended."""
    order: list[int] = []
    pieces: dict[int, list[Piece]] = {number: [] for number in range(members)}

    async def write(number: int) -> None:
        request = msgspec.structs.replace(STORY, seed=number)
        async for item in backend.generate(request):
            assert not isinstance(item, ModelWaiting)
            order.append(number)
            pieces[number] += item.pieces if isinstance(item, Chunk) else ()

    await asyncio.gather(*map(write, range(members)))
    assert len({*order[: STORY.max_tokens]}) == members
    alone = [(await answer_of(backend, msgspec.structs.replace(STORY, seed=number)))[0] for number in range(members)]
    for number, own in pieces.items():
        assert len(own) == STORY.max_tokens
        assert {piece.quality for piece in own} == {"real"}
        # The same draw, except for the last digits that a batch computes.
        assert own[0].text == alone[number][0].text
        assert own[0].logprob == pytest.approx(alone[number][0].logprob, abs=1e-2)
    assert len({"".join(piece.text for piece in own) for own in pieces.values()}) == members


async def test_more_sessions_than_slots_wait(smollm2: Path) -> None:
    async with backend_of(smollm2) as backend:
        await backend.load()
        held = [await first_token(backend, STORY) for _ in range(backend.slots)]
        third = backend.generate(FRANCE)
        assert await anext(third) == ModelWaiting()
        await held[0].aclose()  # type: ignore[attr-defined]
        assert isinstance([item async for item in third][-1], Ending)


async def test_the_seed_decides_the_text(backend: LlamaBackend) -> None:
    first, again, other = [await text_of(backend, msgspec.structs.replace(STORY, seed=seed)) for seed in (7, 7, 8)]
    assert first == again != other


@pytest.mark.parametrize("chat", [STORY, msgspec.structs.replace(EMOJI, temperature=0.9)])
async def test_an_answer_is_the_same_however_its_reader_pauses(backend: LlamaBackend, chat: Request) -> None:
    at_once, _ = await answer_of(backend, chat)
    slowly: list[Piece] = []
    async for item in backend.generate(chat):
        slowly += item.pieces if isinstance(item, Chunk) else ()
        await until(lambda: is_idle(backend), "nothing is computed", QUICKLY_S)
    assert slowly == at_once


async def test_characters_of_several_tokens_are_whole_and_each_token_is_measured(backend: LlamaBackend) -> None:
    pieces, _ = await answer_of(backend, EMOJI)
    assert any(not piece.text and piece.piece for piece in pieces), "no character of several tokens was written"
    assert "\ufffd" not in "".join(piece.text for piece in pieces)
    assert {piece.quality for piece in pieces} == {"real"}


async def test_a_cut_stretch_continues_with_the_token_that_was_drawn(backend: LlamaBackend) -> None:
    """If that token were drawn again, whole characters would come too often: the same draw, requested again after its
    known tokens, is found again."""
    model = LlamaModel("smollm2", child_of(backend), 0)
    prompt = await model.tokens(await model.prompt([Message("user", "Lion 🦁, Tiger 🐯, Bear 🐻, Panda")]))
    cuts = 0
    for seed in range(40):
        first = await model.step(Continuation(prompt, 0, is_first=True), Draw(1.6, seed, 1))
        place, draw = Continuation((*prompt, first.token), 0, is_first=False), Draw(1.6, seed + 1_000, 1)
        streamed = [step async for step in model.stretch(place, draw, STRETCH_TOKENS)]
        if 0 < len(streamed) < STRETCH_TOKENS and not streamed[-1].is_end:
            found = await model.step_behind([step.token for step in streamed], place, draw)
            assert found is not None
            assert found.begins_character
            cuts += 1
    assert cuts > 5


async def test_a_process_that_crashes_during_a_stretch_fails_its_answer(backend: LlamaBackend) -> None:
    items = await first_token(backend, STORY)
    # The fourth token is the first of a stretch of four.
    for _ in range(3):
        assert isinstance(await anext(items), Chunk)
    os.kill(pid_of(child_of(backend)), signal.SIGKILL)
    rest: list[object] = []
    with pytest.raises(BackendFailed, match=r"stopped unexpectedly: the system ended llama\.cpp \(Killed\)"):
        await _append_all(rest, items)
    assert len(rest) < 3
    assert (await answer_of(backend, FRANCE))[1] == "stop"


async def _append_all(found: list[object], items: AsyncIterator[object]) -> None:
    async for item in items:
        found.append(item)  # noqa: PERF401  # what comes before a failure counts


@pytest.mark.parametrize("chat", [FRANCE, msgspec.structs.replace(EMOJI, max_tokens=24)])
async def test_a_real_model_continues_its_own_text_as_if_it_had_not_stopped(
    backend: LlamaBackend, chat: Request
) -> None:
    """At each boundary the next tokens, also inside characters; and the end."""
    whole, reason = await answer_of(backend, chat)
    for at in range(1, len(whole) + (reason == "stop")):
        prefix = stretches_of(whole[:at])
        most = min(4, chat.max_tokens - at)
        pieces, _ = await answer_of(backend, msgspec.structs.replace(chat, prefix=prefix, max_tokens=most))
        following = whole[at : at + most]
        assert [(piece.text, piece.token) for piece in pieces] == [(piece.text, piece.token) for piece in following]


async def test_a_real_model_continues_a_given_text(backend: LlamaBackend) -> None:
    for given in ("The capital of", "The capital of "):
        text = await text_of(backend, msgspec.structs.replace(FRANCE, prefix=(Written(given),)))
        assert text.strip().startswith("France is Paris")
        assert text.startswith(" ") == (not given.endswith(" "))
