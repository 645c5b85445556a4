"""Chats with a council in OpenAI's form: a real web process and a real aggregator."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from typing import Any

import aiohttp
import pytest

from schemas import keys
from tests.support.redis_servers import RedisServer
from tests.support.role_processes import Roles
from tests.support.scripted_sessions import ScriptedProducer
from tests.support.sessions import until_ended
from tests.support.waiting import until
from tests.support.web_server import CHAR, PACE, WORD, WebServer
from transport.answers import find_released
from transport.redis.connection import AsyncPipe
from transport.sessions import find_session, list_sessions

HELLO = [{"role": "user", "content": "Hello?"}]
LIST = [{"role": "user", "content": "What is a list?"}]
THE, END = {"The": -0.1, "A": -2.5}, {" end": -0.5, " start": -1.0, "": -3.0}


@pytest.fixture
def calm(redis: RedisServer, roles: Roles) -> ScriptedProducer:
    """A scripted member, which is offered, beside a real aggregator."""
    roles.ready("aggregator")
    producer = ScriptedProducer(redis, "calm")
    producer.offer()
    return producer


@pytest.fixture
def ngrams(roles: Roles) -> None:
    for role in (["aggregator"], ["producers", WORD, *PACE], ["producers", CHAR, *PACE]):
        roles.ready(*role)


class Client:
    """A client of /v1."""

    def __init__(self, client: aiohttp.ClientSession, web: WebServer) -> None:
        self._client, self._root = client, f"{web.http}/v1"

    async def get(self, path: str) -> tuple[int, Any]:
        async with self._client.get(self._root + path) as response:
            return response.status, await response.json()

    async def post(self, path: str = "/chat/completions", **body: Any) -> tuple[int, Any, Mapping[str, str]]:
        async with self._client.post(self._root + path, json={"messages": HELLO} | body) as response:
            return response.status, await response.json(), response.headers

    async def stream(self, path: str = "/chat/completions", **body: Any) -> list[Any]:
        """The data of all events of a stream."""
        asked = {"messages": HELLO, "stream": True} | body
        async with self._client.post(self._root + path, json=asked) as response:
            assert response.status == 200, await response.text()
            assert response.headers["X-Accel-Buffering"] == "no"
            return events(await response.text())


def events(body: str) -> list[Any]:
    lines = [line for line in body.split("\n\n") if line]
    assert all(line.startswith("data: ") for line in lines), lines
    return [data if data == "[DONE]" else json.loads(data) for line in lines for data in [line.removeprefix("data: ")]]


@pytest.fixture
def openai(client: aiohttp.ClientSession, web: WebServer) -> Client:
    return Client(client, web)


async def script(producer: ScriptedProducer) -> None:
    """The member thinks, and answers in two tokens."""
    await asyncio.to_thread(producer.take_newest)
    producer.say("Hm.", "thinking")
    producer.say("The", top=THE)
    producer.say(" end", top=END)
    producer.finish()


def joined(chunks: list[Any], key: str = "content", index: int = 0) -> str:
    choices = [choice for chunk in chunks for choice in chunk["choices"] if choice["index"] == index]
    return "".join(choice["delta"].get(key) or "" for choice in choices)


async def test_a_member_is_streamed_with_its_thinking_and_the_lists_of_its_tokens(
    calm: ScriptedProducer, openai: Client
) -> None:
    asked = openai.stream(
        model="council:calm", logprobs=True, top_logprobs=2, stream_options={"include_usage": True}, temperature=0
    )
    _, (*chunks, usage, done) = await asyncio.gather(script(calm), asked)
    assert done == "[DONE]"
    assert joined(chunks) == "The end"
    assert joined(chunks, "reasoning_content") == "Hm."
    assert joined(chunks, "role") == "assistant"
    assert [chunk["choices"][0]["finish_reason"] for chunk in chunks][-2:] == [None, "stop"]
    found = [token for chunk in chunks for token in (chunk["choices"][0]["logprobs"] or {"content": []})["content"]]
    assert [(token["token"], token["logprob"], bytes(token["bytes"])) for token in found] == [
        ("The", -0.1, b"The"), (" end", -0.5, b" end"),
    ]  # fmt: skip
    assert [[(one["token"], one["logprob"]) for one in token["top_logprobs"]] for token in found] == [
        [("The", -0.1), ("A", -2.5)], [(" end", -0.5), (" start", -1.0)],
    ]  # fmt: skip
    assert usage["choices"] == []
    assert usage["usage"]["completion_tokens"] == 3
    assert usage["usage"]["completion_tokens_details"] == {"reasoning_tokens": 1}
    council = chunks[-1]["council"]
    (shown,) = council["members"]
    assert (shown["name"], shown["state"], shown["reason"], shown["tokens"]) == ("calm", "finished", "stop", 3)
    # 1 - exp((-0.1 - 0.5) / 2)
    assert shown["doubt"] == council["doubt"] == pytest.approx(0.259181779)
    assert {chunk["id"] for chunk in chunks} == {f"chatcmpl-{council['session']}"}


async def test_a_response_that_is_not_a_stream_has_the_same_content(calm: ScriptedProducer, openai: Client) -> None:
    _, (status, whole, headers) = await asyncio.gather(
        script(calm), openai.post(model="calm", logprobs=True, user="me", tools=[])
    )
    assert status == 200
    (choice,) = whole["choices"]
    assert choice["message"]["content"] == "The end"
    assert choice["message"]["reasoning_content"] == "Hm."
    assert [token["token"] for token in choice["logprobs"]["content"]] == ["The", " end"]
    # Clients with strict types require it.
    assert choice["logprobs"]["refusal"] is None
    assert (choice["finish_reason"], whole["object"]) == ("stop", "chat.completion")
    assert headers["X-Council-Warning"] == "ignored parameters: tools, user"


async def test_a_completion_has_the_text_and_its_tokens(calm: ScriptedProducer, openai: Client) -> None:
    _, (status, whole, _) = await asyncio.gather(
        script(calm), openai.post("/completions", model="calm", prompt="Go: ", logprobs=1, echo=True, messages=None)
    )
    assert status == 200
    (choice,) = whole["choices"]
    assert choice["text"] == "Go: The end"
    assert choice["logprobs"] == {
        "tokens": ["The", " end"], "token_logprobs": [-0.1, -0.5],
        "top_logprobs": [{"The": -0.1}, {" end": -0.5}], "text_offset": [4, 7],
    }  # fmt: skip


async def test_a_council_shows_the_answers_below_each_other(ngrams: None, openai: Client, pipe: AsyncPipe) -> None:
    *chunks, done = await openai.stream(model="council", messages=LIST, max_tokens=12, seed=5)
    assert done == "[DONE]"
    session = chunks[0]["council"]["session"]
    released = await find_released(pipe, session)
    assert released.frame is not None
    names = [one.display_name for one in released.frame.members]
    content = joined(chunks)
    assert [content.find(f"**{name}**\n\n") >= 0 for name in names] == [True, True]
    assert chunks[-1]["council"]["mode"] in ("step", "single")
    # The same answers, from the session itself.
    status, shown = await Client.get(openai, f"/../api/sessions/{session}")
    assert status == 200
    expected = "\n\n".join(f"**{one['name']}**\n\n{one['text'].lstrip()}" for one in shown["members"])
    assert content == expected


async def test_a_consensus_has_one_text_and_the_mixture_of_the_members(ngrams: None, openai: Client) -> None:
    status, whole, _ = await openai.post(
        model="council:consensus", messages=LIST, max_tokens=12, temperature=0, logprobs=True, top_logprobs=2,
        # Much of the text may be the beginning of a stop text, and is held back for a while.
        stop=["The starred target\n\nand", "list, them"],
    )  # fmt: skip
    assert status == 200, whole
    (choice,) = whole["choices"]
    status, shown = await openai.get(f"/../api/sessions/{whole['council']['session']}")
    assert choice["message"]["content"] == shown["agreed"] != ""
    tokens = choice["logprobs"]["content"]
    assert b"".join(bytes(token["bytes"]) for token in tokens).decode() == shown["agreed"].lstrip()
    assert all(token["logprob"] is None or token["logprob"] <= 0 for token in tokens)
    assert any(len(token["top_logprobs"]) == 2 for token in tokens)


async def test_several_choices_are_several_sessions_with_seeds_of_their_own(ngrams: None, openai: Client) -> None:
    status, whole, _ = await openai.post(model=f"council:{WORD}", messages=LIST, max_tokens=12, seed=3, n=3)
    assert status == 200
    texts = [choice["message"]["content"] for choice in whole["choices"]]
    assert [choice["index"] for choice in whole["choices"]] == [0, 1, 2]
    assert len(set(texts)) == 3
    assert len({one["session"] for one in whole["councils"]}) == 3
    # The n-gram model counts the tokens of its prompt, once for each choice.
    prompt = {one["members"][0]["prompt_tokens"] for one in whole["councils"]}
    assert whole["usage"]["prompt_tokens"] == 3 * prompt.pop() > 0
    *chunks, _ = await openai.stream(model=f"council:{WORD}", messages=LIST, max_tokens=12, seed=3, n=3)
    assert [joined(chunks, index=index) for index in range(3)] == texts


async def test_a_stop_text_ends_the_answer_and_the_session(
    calm: ScriptedProducer, openai: Client, pipe: AsyncPipe
) -> None:
    async def speak() -> None:
        await asyncio.to_thread(calm.take_newest)
        for text in ("One. ", "TW", "O. Three."):
            calm.say(text)

    asked = openai.stream(model="calm", stop=["TWO", "nothing"], stream_options={"include_usage": True})
    _, (*chunks, usage, _) = await asyncio.gather(speak(), asked)
    assert joined(chunks) == "One. "
    # Also where no frame contains the tokens yet.
    assert usage["usage"]["completion_tokens"] == 3
    assert chunks[-1]["choices"][0]["finish_reason"] == "stop"
    await until_ended(pipe, chunks[0]["council"]["session"])


@pytest.mark.parametrize("is_stream", [True, False])
async def test_a_client_that_disconnects_cancels_its_session(
    calm: ScriptedProducer, client: aiohttp.ClientSession, web: WebServer, pipe: AsyncPipe, is_stream: bool
) -> None:
    async def shown() -> str:
        calm.say("The")
        (state,) = await list_sessions(pipe)
        frame = (await find_released(pipe, state.session)).frame
        return state.session if frame is not None and frame.members[0].position_bytes > 0 else ""

    body = {"model": "calm", "messages": HELLO, "stream": is_stream}
    asking = asyncio.create_task(client.post(f"{web.http}/v1/chat/completions", json=body))
    await asyncio.to_thread(calm.take_newest)
    session = await until(shown, "the text is released")
    if is_stream:
        (await asking).close()
    else:
        asking.cancel()
    await until_ended(pipe, session)
    frame = (await find_released(pipe, session)).frame
    assert frame is not None
    assert frame.members[0].reason == "its client has disconnected"


@pytest.mark.parametrize("is_stream", [True, False])
async def test_a_member_that_fails_before_it_writes_is_an_error_of_the_request(
    calm: ScriptedProducer, openai: Client, is_stream: bool
) -> None:
    async def fail() -> None:
        await asyncio.to_thread(calm.take_newest)
        calm.fail("Its server has no memory.")

    _, (status, found, _) = await asyncio.gather(fail(), openai.post(model="calm", stream=is_stream))
    assert status == 502
    assert found["error"]["code"] == "no_answer"
    assert found["error"]["type"] == "server_error"
    assert "Its server has no memory" in found["error"]["message"]


async def test_a_member_that_fails_behind_some_text_keeps_that_text(calm: ScriptedProducer, openai: Client) -> None:
    async def fail() -> None:
        await asyncio.to_thread(calm.take_newest)
        calm.say("Half an")
        calm.fail("Its server is away.")

    _, (status, whole, _) = await asyncio.gather(fail(), openai.post(model="calm"))
    (choice,) = whole["choices"]
    assert (status, choice["message"]["content"], choice["finish_reason"]) == (200, "Half an", "length")
    assert whole["council"]["members"][0]["reason"] == "Its server is away."


async def test_the_models_are_the_council_and_each_member(ngrams: None, openai: Client) -> None:
    status, listed = await openai.get("/models")
    assert status == 200
    assert listed["object"] == "list"
    ids = [one["id"] for one in listed["data"]]
    assert ids[:2] == ["council", "council:consensus"]
    assert set(ids[2:]) == {f"council:{WORD}", f"council:{CHAR}"}
    assert {one["owned_by"] for one in listed["data"]} == {"local-council"}
    assert await openai.get(f"/models/council:{WORD}") == (200, listed["data"][ids.index(f"council:{WORD}")])
    status, refused = await openai.get("/models/gpt-4")
    assert (status, refused["error"]["code"], refused["error"]["param"]) == (404, "model_not_found", "model")


async def test_an_unknown_model_is_refused_with_those_that_exist(ngrams: None, openai: Client) -> None:
    status, refused, _ = await openai.post(model="gpt-4")
    assert status == 404
    assert refused["error"] == {
        "code": "model_not_found", "param": "model", "type": "not_found_error",
        "message": refused["error"]["message"],
    }  # fmt: skip
    assert "council:consensus" in refused["error"]["message"]


async def test_a_session_that_is_cancelled_on_the_page_ends_the_stream(
    calm: ScriptedProducer, openai: Client, client: aiohttp.ClientSession, web: WebServer, pipe: AsyncPipe
) -> None:
    async def cancel() -> None:
        await asyncio.to_thread(calm.take_newest)
        calm.say("Half an")
        session = (await list_sessions(pipe))[0].session
        await find_session(pipe, session)
        async with client.post(f"{web.http}/api/sessions/{session}/cancel") as response:
            assert response.status == 202

    _, (*chunks, done) = await asyncio.gather(cancel(), openai.stream(model="calm"))
    assert (joined(chunks), done) == ("Half an", "[DONE]")
    assert chunks[-1]["choices"][0]["finish_reason"] == "length"


async def test_where_redis_lost_the_text_the_stream_ends_with_an_error(
    redis: RedisServer, calm: ScriptedProducer, client: aiohttp.ClientSession, web: WebServer
) -> None:
    body = {"model": "calm", "messages": HELLO, "stream": True}
    asking = asyncio.create_task(client.post(f"{web.http}/v1/chat/completions", json=body))
    await asyncio.to_thread(calm.take_newest)
    calm.say("The")
    async with await asking as response:
        begun = await response.content.readuntil(b'"The"')
        session = json.loads(begun.partition(b'"session":')[2].partition(b",")[0])
        # As after a failover to a replica that was behind: other entries follow.
        redis.run("XTRIM", keys.tokens(session), "MAXLEN", "=", "0")
        calm.say("A")
        rest = await response.text()
    *_, last = [line for line in rest.split("\n\n") if line]
    error = json.loads(last.removeprefix("data: "))["error"]
    assert (error["code"], error["type"]) == ("redis_set_back", "server_error")


async def test_a_stream_ends_with_an_error_where_the_web_server_stops(
    calm: ScriptedProducer, client: aiohttp.ClientSession, web: WebServer
) -> None:
    body = {"model": "calm", "messages": HELLO, "stream": True}
    asking = asyncio.create_task(client.post(f"{web.http}/v1/chat/completions", json=body))
    await asyncio.to_thread(calm.take_newest)
    calm.say("The")
    async with await asking as response:
        await response.content.readuntil(b'"The"')
        web.process.terminate()
        rest = await response.text()
    *_, last = [line for line in rest.split("\n\n") if line]
    assert json.loads(last.removeprefix("data: "))["error"]["code"] == "server_stopping"
