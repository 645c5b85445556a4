"""A council as a model server: refused, unless it is another one that the source allows."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence

import pytest

from producers.backend import BackendFailed, Chunk, Ending
from producers.openai.backend import OpenAIBackend
from producers.openai.councils import IS_COUNCIL, IS_ITSELF
from producers.openai.offers import CouncilRefused, openai_offers
from producers.source import ModelSource
from tests.producers.openai.test_backend import QUICKLY_S, REQUEST, pieces_in, text_of
from tests.support.exact_server import Answers, ExactServer, answer, exact_server, stream

MODELS, STATUS, CHAT = "GET /v1/models", "GET /api/status", "POST /v1/chat/completions"
PROCESS = "producer-host-7-ab12"


def listed(*owners: str) -> bytes:
    """A list of models with these owners: "a", "b" and so on; the first one of a council is "council"."""
    models = [
        {"id": "council" if owner == "local-council" else name, "object": "model", "created": 1, "owned_by": owner}
        for name, owner in zip("abcdef", owners, strict=False)
    ]
    return json.dumps({"object": "list", "data": models}).encode()


def by_council(response: bytes) -> bytes:
    """The response with the header that a council sends with each of them."""
    return response.replace(b"\r\n", b"\r\nServer: council\r\n", 1)


def status(*processes: str) -> bytes:
    return by_council(answer(json.dumps({"processes": [{"name": name} for name in processes]}).encode()))


COUNCIL = by_council(answer(listed("local-council")))
ANSWER = by_council(stream("One", " fine", " day"))
OTHER = answer(listed("someone"))


async def answered(
    server: ExactServer, model: str = "council", *, allowed: bool = False, requests: int = 1
) -> Sequence[str]:
    """What comes of each request: the text, or the failure's sentence without the server's name."""
    source = ModelSource("openai", model, server.url, allow_council=allowed)
    backend, outcomes = OpenAIBackend(model, source, process=PROCESS), []
    async with asyncio.timeout(QUICKLY_S):
        await backend.start()
        for _ in range(requests):
            try:
                items = [item async for item in backend.generate(REQUEST)]
                assert isinstance(items[-1], Ending)
                outcomes.append(text_of(pieces_in([item for item in items if isinstance(item, Chunk)])))
            except BackendFailed as failure:
                outcomes.append(str(failure).removeprefix(f"{model} at {server.url} "))
        await backend.close()
    return outcomes


# Its list


@pytest.mark.parametrize(
    "models",
    [
        COUNCIL,
        answer(listed("local-council", "local-council")),
        by_council(answer(listed("someone"))),
        by_council(answer(b"{}", "401 Unauthorized")),
        by_council(answer(b"<html>", "404 Not Found", "text/html")),
    ],
    ids=["list and header", "list of a proxy", "header", "without the token", "without the API"],
)
async def test_a_council_offers_no_model_and_the_refusal_contains_how_to_allow_it(models: bytes) -> None:
    for named in ((), ("council",), ("unlisted",)):
        async with exact_server({MODELS: models}) as server:
            with pytest.raises(CouncilRefused) as refused:
                await openai_offers("box", ModelSource("openai", "", server.url), named)
            assert str(refused.value) == f"{server.url} {IS_COUNCIL}"
            assert "allow_council = true" in IS_COUNCIL


async def test_a_council_that_is_allowed_offers_its_models() -> None:
    async with exact_server({MODELS: COUNCIL}) as server:
        (offer,) = await openai_offers("box", ModelSource("openai", "", server.url, allow_council=True))
        assert (offer.facts.model, offer.source.name, offer.source.allow_council) == ("council", "council", True)
        assert server.paths == [MODELS], "a council is not asked whether it is LM Studio"


async def test_of_a_list_with_models_of_a_council_the_others_are_offered() -> None:
    async with exact_server({MODELS: answer(listed("someone", "local-council", "someone"))}) as server:
        source = ModelSource("openai", "", server.url)
        assert [offer.facts.model for offer in await openai_offers("box", source)] == ["a", "c"]
        with pytest.raises(CouncilRefused, match=r"^council at http.* is a council, and"):
            await openai_offers("box", source, ("a", "council"))
        assert await answered(server) == [IS_COUNCIL]


# An answer


async def test_a_producer_of_a_council_that_is_not_allowed_does_not_ask_it() -> None:
    async with exact_server({MODELS: COUNCIL, CHAT: ANSWER}) as server:
        assert await answered(server, requests=2) == [IS_COUNCIL] * 2
        assert CHAT not in server.paths


@pytest.mark.parametrize("allowed", [False, True])
@pytest.mark.parametrize("processes", [(PROCESS,), ("other", PROCESS)])
async def test_a_producer_never_asks_its_own_council(processes: tuple[str, ...], *, allowed: bool) -> None:
    """Whatever its address is: the list of processes shows it."""
    async with exact_server({MODELS: COUNCIL, STATUS: status(*processes), CHAT: ANSWER}) as server:
        assert await answered(server, allowed=allowed) == [IS_ITSELF if allowed else IS_COUNCIL]
        assert CHAT not in server.paths


@pytest.mark.parametrize("processes", [status("other"), by_council(answer(b"", "404 Not Found")), answer(b"[1]")])
async def test_another_council_that_is_allowed_answers_and_is_checked_once(processes: bytes) -> None:
    async with exact_server({MODELS: COUNCIL, STATUS: processes, CHAT: ANSWER}) as server:
        assert await answered(server, allowed=True, requests=2) == ["One fine day"] * 2
        assert server.paths == [MODELS, STATUS, CHAT, CHAT]


async def test_a_council_that_does_not_show_whether_it_is_another_one_is_not_asked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("producers.openai.offers.LOOK_S", 0.2)
    async with exact_server({MODELS: COUNCIL, STATUS: None, CHAT: ANSWER}) as server:
        (outcome,) = await answered(server, allowed=True)
        assert outcome == "did not show within 0.2 s whether it is this council itself"
        assert CHAT not in server.paths


async def test_a_council_that_was_away_at_the_start_is_found_before_the_first_question() -> None:
    """As `council up` does on a free port, which a server of the settings has."""
    for allowed, outcome in ((False, IS_COUNCIL), (True, IS_ITSELF)):
        answers: Answers = {MODELS: [b"", b"", COUNCIL], STATUS: status(PROCESS), CHAT: ANSWER}
        async with exact_server(answers) as server:
            assert await answered(server, allowed=allowed) == [outcome]
            assert CHAT not in server.paths


async def test_a_council_that_takes_the_place_of_another_server_is_found_by_its_response() -> None:
    """Its session is cancelled, since the response is closed; from then on it is not asked."""
    for allowed, outcome in ((False, IS_COUNCIL), (True, IS_ITSELF)):
        answers: Answers = {MODELS: [OTHER, COUNCIL], STATUS: status(PROCESS), CHAT: ANSWER}
        async with exact_server(answers) as server:
            assert await answered(server, "a", allowed=allowed, requests=3) == [outcome] * 3
            assert server.paths.count(CHAT) == 1


async def test_other_servers_are_looked_at_once() -> None:
    async with exact_server({MODELS: OTHER, CHAT: stream("One", " fine", " day")}) as server:
        assert await answered(server, "a", requests=2) == ["One fine day"] * 2
        assert server.paths.count(MODELS) == 1
        assert STATUS not in server.paths
