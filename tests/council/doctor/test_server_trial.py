"""`council check`: what it sends, what it shows, and its exit codes."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.gguf_model import gguf_model
from bench.llama_server import llama_server
from council.doctor.server_trial import ServerTrial, server_named, try_server
from council.settings.schema import load_settings
from producers.servers.prefix_try import BEGUN
from schemas.errors import Refused
from tests.support.council_command import council
from tests.support.exact_server import Answers, ExactServer, answer, exact_server, stream
from tests.support.llama import skip_without_llama
from tests.support.session_folder import session_folder

LIST = answer(b'{"data":[{"id":"m"}]}')
ENTRY = '{"token":"Hi","bytes":[72,105],"logprob":-0.5,"top_logprobs":[{"token":"Hi","bytes":[72,105],"logprob":-0.5}]}'
MEASURED = stream("Hi", more=f',"logprobs":{{"content":[{ENTRY}]}}')
TOO_MANY = answer(b'{"error":"`top_n_tokens` must be >= 0 and <= 5. Given: 20"}', "422 Unprocessable Entity")
POST = "POST /v1/chat/completions"


async def trial_of(answers: Answers, **changes: object) -> tuple[ServerTrial, ExactServer]:
    settings = load_settings(None, {})
    async with asyncio.timeout(10), exact_server(answers) as server:
        name, found = server_named(server.url, settings, None, None)
        found = found.model_copy(update=changes)
        return await try_server(name, found, settings), server


async def test_what_is_sent_and_comes_back_is_shown_with_what_was_found() -> None:
    trial, server = await trial_of({"GET /v1/models": LIST, POST: [TOO_MANY, MEASURED, stream(" seven", " eight")]})
    first, second, third = server.questions
    assert (first["max_tokens"], first["seed"], first["top_logprobs"], second["top_logprobs"]) == (2, 1, 20, 5)
    assert third["messages"][-1] == {"role": "assistant", "content": BEGUN}
    shown = [exchange for exchange in trial.exchanges if exchange.sent]
    assert [json.loads(exchange.sent) for exchange in shown] == server.questions
    assert [exchange.status for exchange in shown] == [422, 200, 200]
    assert "top_n_tokens" in shown[0].received
    assert (trial.answer, trial.ending, trial.failure, trial.model) == ("Hi", "stop", "", "m")
    assert trial.left_out == ("top_logprobs lowered to 5",)
    found = trial.capabilities
    assert found is not None
    assert (found.logprobs, found.top_logprobs, found.bytes, found.thinking, found.seed, found.prefix) == (
        True, 1, True, False, True, "continued"
    )  # fmt: skip


async def test_a_seed_that_is_refused_is_left_out_and_so_is_a_prefix() -> None:
    no_seed = answer(b'{"detail":[{"loc":["body","seed"],"msg":"Extra inputs are not permitted"}]}', "422 No")
    no_prefix = answer(b'{"error":{"message":"Last message must be from the user"}}', "400 Bad Request")
    trial, _ = await trial_of({"GET /v1/models": LIST, POST: [no_seed, stream("Hi"), no_prefix, stream("One")]})
    assert (trial.failure, trial.left_out) == ("", ("seed",))
    found = trial.capabilities
    assert found is not None
    assert (found.logprobs, found.bytes, found.seed, found.prefix) == (False, False, False, "refused")


async def test_a_failure_names_the_address_the_status_and_the_first_line_and_no_key(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("TRIAL_KEY", "sesame-open-up")
    refusal = answer(b'{"error":{"message":"no slot for sesame-open-up\\nTraceback"}}', "500 Internal Server Error")
    trial, server = await trial_of({"GET /v1/models": LIST, POST: refusal}, key_env="TRIAL_KEY")
    assert b"Bearer sesame-open-up" in server.heads[-1]
    assert trial.failure == f"m at {server.url} answered HTTP 500: no slot for …"
    assert trial.capabilities is None
    assert [exchange.status for exchange in trial.exchanges if exchange.sent] == [500]
    assert "sesame" not in repr(trial)


async def test_an_ollama_is_checked_by_its_own_interface() -> None:
    chat = b'{"message":{"content":"","thinking":"Hm"},"done":false}\n{"done":true,"done_reason":"length"}\n'
    answers = {
        "GET /api/tags": answer(b'{"models":[{"name":"m:1b","details":null}]}'),
        "POST /api/chat": answer(chat, kind="application/x-ndjson"),
    }
    settings = load_settings(None, {})
    async with asyncio.timeout(10), exact_server(answers) as server:
        name, found = server_named(f"{server.url}/api/tags", settings, None, None)
        trial = await try_server(name, found, settings)
    assert (trial.api, trial.model, trial.failure, trial.thinking) == ("ollama", "m:1b", "", "Hm")
    assert trial.capabilities is not None
    assert trial.capabilities.thinking


@pytest.mark.parametrize(
    ("named", "words"),
    [("nope", "is not a server of the settings"), ("http://ada:love@gpu", "password"), ("ftp://gpu", "URL")],
)
def test_what_is_not_a_server_is_refused(named: str, words: str) -> None:
    with pytest.raises(Refused, match=words) as refused:
        server_named(named, load_settings(None, {}), None, None)
    assert "love" not in str(refused.value)


async def test_a_remote_server_is_not_asked_unless_that_is_allowed() -> None:
    settings = load_settings(None, {})
    name, found = server_named("https://models.example.com", settings, None, None)
    with pytest.raises(Refused, match="remote = false"):
        await try_server(name, found, settings)


# The command, with llama.cpp's own server


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    skip_without_llama()
    with llama_server(gguf_model(session_folder(tmp_path_factory))) as url:
        yield url


def test_the_command_checks_a_real_server_by_name(llama: str, tmp_path: Path) -> None:
    (tmp_path / "council.toml").write_text(f'[servers.local]\nurl = "{llama}/v1"\n')
    outcome = council("check", "local", "--json", cwd=tmp_path)
    trial = json.loads(outcome.out)
    assert (outcome.code, trial["failure"], trial["left_out"]) == (0, "", [])
    assert trial["ending"] == "length"
    found = trial["capabilities"]
    assert (found["logprobs"], found["top_logprobs"], found["bytes"], found["seed"]) == (True, 20, True, True)
    assert found["prefix"] in ("accepted", "continued", "begun anew")
    asked = [exchange["request"].rpartition("/")[2] for exchange in trial["exchanges"] if exchange["sent"]]
    assert list(dict.fromkeys(asked)) == ["completions", "apply-template", "tokenize", "completion"]
    posts = [exchange for exchange in trial["exchanges"] if exchange["sent"]]
    assert posts[0]["request"] == f"POST {llama}/v1/chat/completions"
    shown = council("check", "local", cwd=tmp_path)
    assert shown.code == 0
    assert all(
        word in shown.out for word in ("sent", "received", "logprobs", "seed", "continues", "left out", "answers")
    )


def test_the_exit_code_is_1_for_a_server_that_is_away_and_2_for_one_that_is_unknown(tmp_path: Path) -> None:
    away = council("check", "http://127.0.0.1:1", "--model", "m", cwd=tmp_path)
    assert away.code == 1
    assert "m at http://127.0.0.1:1 cannot be reached" in " ".join(away.out.split())
    council("check", "nope", cwd=tmp_path).assert_refused("'nope' is not a server of the settings")
