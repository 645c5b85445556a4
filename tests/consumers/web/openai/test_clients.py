"""OpenAI's own library against a real council, and the programs of docs/clients.md."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import json
import re
import shutil
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
from openai.types.chat import ChatCompletionUserMessageParam

from tests.support.council_command import environment
from tests.support.project import ROOT
from tests.support.redis_servers import RedisServer
from tests.support.running_council import Up
from tests.support.waiting import wait_until
from tests.support.web_server import CHAR, WORD, WebServer

TOKEN = "0123456789abcdef"
CHAT: list[ChatCompletionUserMessageParam] = [{"role": "user", "content": "What is a list?"}]
SETTINGS = f"""
ollama = false
models = ["{WORD}", "{CHAR}"]
[councils.duo]
members = ["{WORD}", "hot={WORD}:temperature=1.2"]
max_tokens = 4
"""
_PAGE = (ROOT / "docs/clients.md").read_text()
SNIPPETS = re.findall(r"^```(python|js|sh)\n(.*?)^```", _PAGE, re.M | re.S)


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    folder = tmp_path_factory.mktemp("up")
    (folder / "council.toml").write_text(SETTINGS)
    with contextlib.closing(Up(folder, default_models=True, tokens_per_s=200)) as running:
        yield running


@pytest.fixture
def client(up: Up) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{up.address}/v1", api_key="unused", max_retries=0) as found:
        yield found


def newest(up: Up) -> dict[str, Any]:
    with urllib.request.urlopen(f"{up.address}/api/sessions") as response:
        found: dict[str, Any] = json.load(response)["sessions"][0]
        return found


def test_the_library_lists_the_models_and_shows_one(client: openai.OpenAI) -> None:
    ids = ["council", "council:consensus", "council:duo", f"council:{WORD}", f"council:{CHAR}"]
    assert [(model.id, model.owned_by) for model in client.models.list()] == [(one, "local-council") for one in ids]
    assert client.models.retrieve("council:duo").id == "council:duo"


def test_a_stream_an_answer_and_a_completion_have_the_same_text(client: openai.OpenAI) -> None:
    asked: Any = {"model": f"council:{WORD}", "max_tokens": 12, "seed": 7}
    whole = client.chat.completions.create(messages=CHAT, **asked)
    chunks = list(
        client.chat.completions.create(messages=CHAT, stream=True, stream_options={"include_usage": True}, **asked)
    )
    text = whole.choices[0].message.content
    assert text
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks[:-1]) == text
    assert chunks[-1].usage == whole.usage
    assert whole.usage is not None
    assert whole.usage.completion_tokens == 12
    assert chunks[-2].choices[0].finish_reason == whole.choices[0].finish_reason == "length"
    assert client.completions.create(prompt="What is a list?", **asked).choices[0].text == text
    with client.chat.completions.stream(messages=CHAT, **asked) as stream:
        assert "".join(event.delta for event in stream if event.type == "content.delta") == text


def test_a_named_council_answers_with_its_members_and_values(client: openai.OpenAI) -> None:
    raw = client.chat.completions.with_raw_response.create(model="duo", messages=CHAT, presence_penalty=0.5, seed=7)
    assert raw.headers["x-council-warning"] == "ignored parameters: presence_penalty"
    answer = raw.parse()
    assert f"**{WORD}**" in (answer.choices[0].message.content or "")
    assert [(one["name"], one["tokens"]) for one in (answer.model_extra or {})["council"]["members"]] == [
        (WORD, 4), ("hot", 4),
    ]  # fmt: skip


def test_logprobs_are_those_of_a_member(client: openai.OpenAI) -> None:
    asked: Any = {"model": f"council:{WORD}", "max_tokens": 5, "seed": 7}
    chosen = client.chat.completions.create(messages=CHAT, logprobs=True, top_logprobs=2, **asked).choices[0]
    assert chosen.logprobs is not None
    tokens = chosen.logprobs.content or []
    assert "".join(token.token for token in tokens) == chosen.message.content
    assert all(token.logprob <= 0 and len(token.top_logprobs) == 2 for token in tokens)
    (completion,) = client.completions.create(prompt=CHAT[0]["content"], logprobs=2, **asked).choices  # type: ignore[arg-type]
    assert completion.logprobs is not None
    assert completion.logprobs.tokens == [token.token for token in tokens]


@pytest.mark.parametrize(
    ("ask", "error", "param"),
    [
        (lambda client: client.models.retrieve("gpt-4"), openai.NotFoundError, "model"),
        (lambda client: client.embeddings.create(model="council", input="x"), openai.NotFoundError, None),
        (lambda client: complete(client, model="gpt-4"), openai.NotFoundError, "model"),
        (lambda client: complete(client, temperature=3), openai.BadRequestError, "temperature"),
        (lambda client: complete(client, max_tokens=0), openai.BadRequestError, "max_tokens"),
        (lambda client: complete(client, messages=[], stream=True), openai.BadRequestError, "messages"),
        (lambda client: complete(client, n=99), openai.BadRequestError, "n"),
    ],
)
def test_each_refusal_is_the_librarys_own_error(
    client: openai.OpenAI, ask: Callable[[openai.OpenAI], object], error: type[openai.APIStatusError], param: str | None
) -> None:
    with pytest.raises(error) as caught:
        ask(client)
    assert caught.value.param == param
    assert isinstance(caught.value.body, dict)
    assert caught.value.body["message"].endswith(".")


def complete(client: openai.OpenAI, **changes: Any) -> object:
    return client.chat.completions.create(**({"model": "council", "messages": CHAT} | changes))


def test_a_token_is_the_api_key(redis: RedisServer) -> None:
    with contextlib.closing(WebServer(redis.url, COUNCIL_TOKEN=TOKEN)) as web:
        base = f"{web.http}/v1"
        assert openai.OpenAI(base_url=base, api_key=TOKEN).models.list().data[0].id == "council"
        with pytest.raises(openai.AuthenticationError, match="the council's token"):
            openai.OpenAI(base_url=base, api_key="wrong", max_retries=0).models.list()


def is_cancelled(up: Up, session: str) -> bool:
    found = newest(up)
    return found["session"] == session and "its client has disconnected" in (found["reason"] or "")


def test_a_client_that_hangs_up_or_waits_no_longer_cancels_its_session(client: openai.OpenAI, up: Up) -> None:
    # With this seed the answer has 452 tokens, which take more than two seconds.
    asked: Any = {"model": f"council:{WORD}", "messages": CHAT, "max_tokens": 8_000, "seed": 3}
    stream = client.chat.completions.create(stream=True, **asked)
    session = next(iter(stream)).id.removeprefix("chatcmpl-")
    stream.close()
    wait_until(lambda: is_cancelled(up, session), "the session of the closed stream is cancelled", 10)
    with pytest.raises(openai.APITimeoutError):
        client.with_options(timeout=1.0).chat.completions.create(**asked)
    late = newest(up)["session"]
    assert late != session
    wait_until(lambda: is_cancelled(up, late), "the session of the late answer is cancelled", 10)


async def test_streams_of_one_asynchronous_client_do_not_mix(up: Up) -> None:
    async with openai.AsyncOpenAI(base_url=f"{up.address}/v1", api_key="unused") as client:

        async def answer(seed: int) -> str:
            stream = await client.chat.completions.create(
                model=f"council:{WORD}", messages=CHAT, max_tokens=12, seed=seed, stream=True
            )
            return "".join([chunk.choices[0].delta.content or "" async for chunk in stream])

        at_once = await asyncio.gather(*map(answer, (1, 2, 1, 2)))
        assert at_once[:2] == at_once[2:]
        assert at_once[0] != at_once[1]


def missing(language: str, text: str) -> str:
    """The program or library that a snippet needs and that is not installed; empty where it can run."""
    if language == "python":
        module = text.split()[1]
        return "" if importlib.util.find_spec(module) else module
    if language == "js":
        return "" if shutil.which("node") and (ROOT / "node_modules/openai").exists() else "openai for node"
    program = "llm" if "llm -m" in text else text.split()[0]
    return "" if shutil.which(program) else program


@pytest.mark.parametrize(("language", "text"), SNIPPETS, ids=lambda text: text.split()[0])
def test_the_programs_of_the_page_answer(language: str, text: str, up: Up, tmp_path: Path) -> None:
    assert len(text.splitlines()) <= 6
    if lacking := missing(language, text):
        pytest.skip(f"{lacking} is not installed")
    command = {"python": [sys.executable, "-c"], "js": ["node", "--input-type=module", "-e"], "sh": ["sh", "-ec"]}
    done = subprocess.run(
        [*command[language], text.replace("http://127.0.0.1:8145", up.address)],
        env=environment(LLM_USER_PATH=str(tmp_path), LITELLM_LOCAL_MODEL_COST_MAP="True"),
        cwd=ROOT if language == "js" else tmp_path, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    text = json.loads(done.stdout)["choices"][0]["message"]["content"] if done.stdout[0] == "{" else done.stdout
    for member in (WORD, CHAR):
        assert re.search(rf"\*\*{re.escape(member)}\*\*\n\n\S", text), text
