"""Bodies in OpenAI's form, the right ones and the wrong ones."""

from __future__ import annotations

import json
from typing import Any

import pytest

from consumers.web.openai.parameters import asked_chat, asked_completion
from schemas.errors import Refused
from schemas.sessions import Message

HELLO = [{"role": "user", "content": "Hello?"}]


def chat(**body: Any) -> bytes:
    return json.dumps({"model": "council", "messages": HELLO} | body).encode()


def completion(**body: Any) -> bytes:
    return json.dumps({"model": "council", "prompt": "Hello?"} | body).encode()


def test_a_chat_is_a_system_text_earlier_turns_and_a_prompt() -> None:
    asked = asked_chat(
        chat(
            messages=[
                {"role": "developer", "content": "Be brief."},
                {"role": "user", "content": [{"type": "text", "text": "Hello?"}], "name": "me"},
                {"role": "assistant", "content": "Yes.", "refusal": None},
                {"role": "system", "content": "Be kind."},
                {"role": "user", "content": [{"type": "text", "text": "What"}, {"type": "text", "text": "now?"}]},
            ]
        )
    )
    (request,) = asked.requests
    assert request.prompt == "What\nnow?"
    assert request.system == "Be brief.\n\nBe kind."
    assert request.history == (Message("user", "Hello?"), Message("assistant", "Yes."))


def test_options_reach_each_choice_and_seeds_differ() -> None:
    asked = asked_chat(
        chat(n=2, seed=-1, temperature=1, max_tokens=7, max_completion_tokens=9, stop="x", logprobs=True)
    )
    assert [(one.seed, one.temperature, one.max_tokens) for one in asked.requests] == [(2**32 - 1, 1.0, 9), (0, 1.0, 9)]
    assert (asked.stops, asked.logprobs, asked.warnings) == (("x",), 0, [])


def test_null_is_left_out_and_the_defaults_are_the_councils() -> None:
    asked = asked_chat(chat(temperature=None, seed=None, stop=None, n=None, stream=None, tools=None, logprobs=None))
    (request,) = asked.requests
    assert (request.temperature, request.seed, request.max_tokens) == (0.7, None, 512)
    assert (asked.stops, asked.logprobs, asked.is_stream, asked.warnings) == ((), None, False, [])


@pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens"])
def test_minus_one_is_no_limit_of_the_clients_own(name: str) -> None:
    asked = asked_chat(chat(**{"max_tokens": 7, name: -1}))
    assert asked.requests[0].max_tokens == (512 if name == "max_tokens" else 7)


def test_what_a_council_cannot_follow_is_ignored_with_a_warning() -> None:
    asked = asked_chat(chat(tools=[{}], presence_penalty=0.5, max_tokens=100_000))
    assert asked.warnings == [
        "ignored parameters: presence_penalty, tools", "max_tokens is 100000, and a council writes at most 8192",
    ]  # fmt: skip
    assert asked.requests[0].max_tokens == 8_192


def test_a_completion_has_one_choice_for_each_prompt_and_n() -> None:
    asked = asked_completion(completion(prompt=["a", "b"], n=2, echo=True, logprobs=3))
    assert [one.prompt for one in asked.requests] == ["a", "a", "b", "b"]
    assert (asked.echoes, asked.logprobs) == (True, 3)


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"{", "bad_json"),
        (b"[]", "bad_request"),
        (b"{}", "bad_model"),
        (b'{"model": "council"}', "bad_messages"),
        (chat(model=3), "bad_model"),
        (chat(messages="hi"), "bad_messages"),
        (chat(messages=["hi"]), "bad_messages"),
        (chat(messages=[]), "no_messages"),
        (chat(messages=[{"role": "user"}]), "bad_messages"),
        (chat(messages=[{"role": "user", "content": 3}]), "bad_messages"),
        (chat(messages=[{"role": "user", "content": [{"type": "image_url"}]}]), "bad_messages"),
        (chat(messages=[{"role": "user", "content": ["hi"]}]), "bad_messages"),
        (chat(messages=[{"role": "tool", "content": "x"}]), "bad_messages"),
        (chat(messages=[{"role": "king", "content": "x"}]), "bad_messages"),
        (chat(messages=[*HELLO, {"role": "assistant", "content": None, "tool_calls": []}]), "bad_messages"),
        (chat(messages=[*HELLO, {"role": "assistant", "content": "Yes."}]), "bad_messages"),
        (chat(temperature="hot"), "bad_temperature"),
        (chat(max_tokens=0), "bad_max_tokens"),
        (chat(max_tokens=-2), "bad_max_tokens"),
        (chat(max_completion_tokens=1.5), "bad_max_completion_tokens"),
        (chat(n=0), "bad_n"),
        (chat(n=9), "bad_n"),
        (chat(stop=""), "bad_stop"),
        (chat(stop=["a"] * 17), "bad_stop"),
        (chat(stop=[3]), "bad_stop"),
        (chat(seed="x"), "bad_seed"),
        (chat(stream="yes"), "bad_stream"),
        (chat(stream_options={"include_usage": True}), "bad_stream_options"),
        (chat(stream=True, stream_options=3), "bad_stream_options"),
        (chat(logprobs=5), "bad_logprobs"),
        (chat(top_logprobs=2), "bad_top_logprobs"),
        (chat(logprobs=True, top_logprobs=21), "bad_top_logprobs"),
    ],
)
def test_a_wrong_chat_is_refused_with_a_code_that_names_the_parameter(body: bytes, code: str) -> None:
    with pytest.raises(Refused) as refused:
        asked_chat(body)
    # Below /v1 a 409 becomes a 400: clients repeat a request after a 409.
    assert (refused.value.code, refused.value.status in (400, 409)) == (code, True)
    assert str(refused.value).endswith(".")


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (completion(prompt=[]), "bad_prompt"),
        (completion(prompt=[1, 2]), "bad_prompt"),
        (completion(prompt=["a"] * 5, n=2), "bad_n"),
        (completion(logprobs=True), "bad_logprobs"),
        (completion(echo="yes"), "bad_echo"),
    ],
)
def test_a_wrong_completion_is_refused_with_a_code_that_names_the_parameter(body: bytes, code: str) -> None:
    with pytest.raises(Refused) as refused:
        asked_completion(body)
    assert (refused.value.code, refused.value.status) == (code, 400)
