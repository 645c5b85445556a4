# ruff: noqa: E501  # each refusal is one line, as its server sends it
"""Refusals of OpenAI-compatible servers, as bytes that they really send, and the request that follows each."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import msgspec
import pytest

from producers.backend import Request
from producers.openai.asking import Asking, RefusedAnswer
from producers.openai.dialect import Dialect
from producers.servers.faults import ServerFault, error_message
from producers.servers.refusals import lower_limit
from schemas.sessions import Message, Sampling

DEFAULTS = Sampling()
# The user has chosen nothing.
PLAIN = Request("Why?", "", DEFAULTS.max_tokens, DEFAULTS.temperature, None, 20, silence_ms=5_000)
# The user has chosen everything.
CHOSEN = msgspec.structs.replace(PLAIN, system="Be kind.", max_tokens=40, temperature=1.8, seed=3)
NO_LOGPROBS = {"logprobs": None, "top_logprobs": None}
NO_USAGE = {"stream_options": None}
NO_TEMPERATURE = {"temperature": None}
FOLDED = {"messages": [{"role": "user", "content": "Be kind.\n\nWhy?"}]}


def follow(bodies: list[tuple[int, bytes]], request: Request) -> list[dict[str, Any]]:
    """The requests: the first one, and the one after each refusal."""
    asking = Asking(Dialect(), request)
    sent = [json.loads(asking.dialect.body("m", request))]
    for status, body in bodies:
        assert asking.refused(RefusedAnswer(status, "reason", {}, body)) is None
        sent.append(json.loads(asking.dialect.body("m", request)))
    return sent


def changes(before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, Any]:
    """The fields that differ, with their new values; None where they are gone."""
    return {name: after.get(name) for name in {**before, **after} if before.get(name) != after.get(name)}


@pytest.mark.parametrize(
    ("status", "body", "changed"),
    [
        # TGI
        (422, b'{"error":"Input validation error: `top_n_tokens` must be >= 0 and <= 5. Given: 20","error_type":"validation"}', {"top_logprobs": 5}),
        # vLLM, from the oldest to the newest form
        (400, b'{"object":"error","message":"Cannot request more than 5 logprobs.","type":"BadRequestError","param":null,"code":400}', {"top_logprobs": 5}),
        (400, b'{"error":{"message":"Requested sample logprobs of 20, which is greater than max allowed: 10","type":"BadRequestError","param":"logprobs","code":400}}', {"top_logprobs": 10}),
        (400, b'{"object":"error","message":"[{\'type\': \'extra_forbidden\', \'loc\': (\'body\', \'stream_options\'), \'msg\': \'Extra inputs are not permitted\', \'input\': {\'include_usage\': True}}]","type":"BadRequestError","param":null,"code":400}', NO_USAGE),
        (400, b'{"error":{"message":"\'max_tokens\' or \'max_completion_tokens\' is too large: 512. This model\'s maximum context length is 512 tokens and your request has 20 input tokens (512 > 512 - 20).","type":"BadRequestError","param":"max_tokens","code":400}}', {"max_tokens": None}),
        # Together
        (400, b'{"error":{"message":"20 is greater than the maximum of 1 - \'logprobs\'","type":"invalid_request_error","param":"logprobs","code":null}}', {"top_logprobs": 1}),
        # Gemini: a list, and names of its own
        (400, b'[{"error":{"code":400,"message":"Logprobs is not enabled for models/gemini-2.5-flash","status":"INVALID_ARGUMENT"}}]', NO_LOGPROBS),
        (400, b'[{\n  "error": {"code": 400, "message": "Invalid JSON payload received. Unknown name \\"responseLogprobs\\" at \'generation_config\'"}}]', NO_LOGPROBS),
        (400, b'{"error":{"code":400,"message":"Unable to submit request because LOGPROBS is not supported for this model."}}', NO_LOGPROBS),
        # OpenAI and Azure
        (400, b'{"error":{"message":"Unsupported value: \'temperature\' does not support 0.7 with this model. Only the default (1) value is supported.","type":"invalid_request_error","param":"temperature","code":"unsupported_value"}}', NO_TEMPERATURE),
        (400, b'{"error":{"message":"Unsupported parameter: \'max_tokens\' is not supported with this model. Use \'max_completion_tokens\' instead.","type":"invalid_request_error","param":"max_tokens","code":"unsupported_parameter"}}', {"max_tokens": None, "max_completion_tokens": 512}),
        (400, b'{"error":{"message":"max_tokens is too large: 512. This model supports at most 256 completion tokens","type":"invalid_request_error","param":"max_tokens","code":null}}', {"max_tokens": 256}),
        (400, b'{"error":{"code":400,"message":"Validation error at #/stream_options: Extra inputs are not permitted"}}', NO_USAGE),
        # Fireworks, Groq, DeepSeek, a service that writes text
        (400, b'{"error":{"object":"error","type":"invalid_request_error","message":"Extra inputs are not permitted, field: \'stream_options\', value: {\'include_usage\': True}"}}', NO_USAGE),
        (400, b'{"error":{"message":"`logprobs` is not supported with this model","type":"invalid_request_error"}}', NO_LOGPROBS),
        (422, b'{"detail":"Invalid top_logprobs and logprobs value"}', NO_LOGPROBS),
        (400, b"Log probabilities are not available.\n", NO_LOGPROBS),
        # Mistral: all at once, in two places
        (422, b'{"object":"error","message":{"detail":[{"type":"extra_forbidden","loc":["body","stream_options"],"msg":"Extra inputs are not permitted","input":{}},{"type":"extra_forbidden","loc":["body","logprobs"],"msg":"Extra inputs are not permitted","input":true},{"type":"extra_forbidden","loc":["body","top_logprobs"],"msg":"Extra inputs are not permitted","input":20}]},"type":"invalid_request_error","param":null,"code":null}', {**NO_LOGPROBS, **NO_USAGE}),
        # FastAPI with pydantic
        (422, b'{"detail":[{"type":"less_than_equal","loc":["body","top_logprobs"],"msg":"Input should be less than or equal to 8","input":20,"ctx":{"le":8}}]}', {"top_logprobs": 8}),
        (422, b'{"detail":[{"type":"less_than","loc":["body","top_logprobs"],"msg":"Input should be less than 6","input":20}]}', {"top_logprobs": 5}),
        # llama-cpp-python, with an error of the server; a proxy that quotes its server
        (500, b'{"error":{"message":"logprobs is not supported for models created with logits_all=False","type":"internal_server_error","param":null,"code":null}}', NO_LOGPROBS),
        (400, b'{"error":{"message":"{\\"error\\":{\\"message\\":\\"top_logprobs: at most 3\\",\\"code\\":400}}","code":400}}', {"top_logprobs": 3}),
    ],
)  # fmt: skip
def test_what_the_user_has_not_asked_for_is_left_out_or_lowered(
    status: int, body: bytes, changed: dict[str, Any]
) -> None:
    first, second = follow([(status, body)], PLAIN)
    assert changes(first, second) == changed


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (400, b'{"error":{"code":400,"message":"System role not supported","type":"invalid_request_error"}}'),
        (500, b'{"error":{"code":500,"message":"Only user, assistant and tool roles are supported, got system."}}'),
        (424, b'{"error":"Request failed: Conversation roles must alternate user/assistant/...","error_type":"generation"}'),
        (400, b'[{"error":{"code":400,"message":"Developer instruction is not enabled for models/gemma-3-27b-it"}}]'),
    ],
)  # fmt: skip
def test_a_system_text_moves_into_the_first_turn_of_a_model_without_one(status: int, body: bytes) -> None:
    assert changes(*follow([(status, body)], CHOSEN)) == FOLDED
    with_history = msgspec.structs.replace(CHOSEN, history=(Message("user", "One?"), Message("assistant", "Two.")))
    moved = follow([(status, body)], with_history)[1]["messages"]
    assert [turn["content"] for turn in moved] == ["Be kind.\n\nOne?", "Two.", "Why?"]


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b'{"error":{"message":"Unsupported value: \'temperature\' does not support 1.8 with this model.","param":"temperature"}}', "Unsupported value: 'temperature' does not support 1.8 with this model."),
        (b'{"detail":[{"type":"extra_forbidden","loc":["body","seed"],"msg":"Extra inputs are not permitted"}]}', "seed: Extra inputs are not permitted"),
        (b'{"error":{"message":"max_tokens must be at most 16.\\n\\u001b[31mTraceback (most recent call last):\\n  File x"}}', "max_tokens must be at most 16."),
        (b'{"error":"seed is not supported; supported are temperature, top_logprobs and stream_options"}', "seed is not supported; supported are temperature, top_logprobs and stream_options"),
        (b'{"message":[{"loc":["body","stream_options"],"msg":"extra"},{"loc":["body","seed"],"msg":"extra"}]}', "stream_options: extra"),
    ],
)  # fmt: skip
def test_what_the_user_asked_for_is_the_reason_of_the_failure(body: bytes, words: str) -> None:
    """Also where another parameter is refused beside it: the answer would not be what was asked for."""
    asking = Asking(Dialect(), CHOSEN)
    with pytest.raises(ServerFault) as fault:
        asking.refused(RefusedAnswer(400, "Bad Request", {}, body))
    assert str(fault.value) == f"answered HTTP 400: {words}"
    assert asking.dialect == Dialect()


def test_the_third_request_has_nothing_that_the_user_has_not_asked_for() -> None:
    refusals = [(400, b'{"error":{"message":"no","param":"stream_options"}}'), (400, b"temperature?")]
    *_, last = follow(refusals, PLAIN)
    assert last == {"model": "m", "messages": [{"role": "user", "content": "Why?"}], "max_tokens": 512, "stream": True}
    with_limit = [(400, b"top_logprobs <= 5"), (400, b"temperature?")]
    assert follow(with_limit, PLAIN)[-1] == {**last, "logprobs": True, "top_logprobs": 5}


def test_a_server_that_always_names_another_limit_gets_three_requests() -> None:
    sent: list[int] = []

    def ask_on(asking: Asking) -> None:
        while True:
            sent.append(json.loads(asking.dialect.body("m", PLAIN)).get("top_logprobs", 0))
            asking.refused(RefusedAnswer(422, "", {}, b"top_logprobs must be at most %d" % (sent[-1] - 1)))

    with pytest.raises(ServerFault, match="answered HTTP 422: top_logprobs must be"):
        ask_on(Asking(Dialect(), PLAIN))
    assert sent == [20, 19, 18]


def test_a_default_that_was_refused_is_sent_again_where_the_user_asks_for_it() -> None:
    learned = Dialect().without("temperature", PLAIN)
    assert learned is not None
    assert "temperature" not in json.loads(learned.body("m", PLAIN))
    assert json.loads(learned.body("m", CHOSEN))["temperature"] == 1.8


@pytest.mark.parametrize(
    ("words", "limit"),
    [
        ("must be in the range [0, 8)", 7),
        ("maximum is 0", 0),
        ("not supported by gpt-5", None),
        ("models/gemini-2.5-pro is at the limit", None),
        ("between 1 and 20 logprobs per token", 1),
        ("20 is the most", None),
    ],
)
def test_a_limit_below_the_requested_number_is_found_in_words(words: str, limit: int | None) -> None:
    assert lower_limit(words, 20) == limit


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b'{"error":{"message":"\\n  Error while processing:\\nno slot\\nTraceback"}}', "Error while processing: no slot"),
        (b"\x1b[1;31mboom\x1b[0m\r\nmore", "boom"),
        (b'{"errors":[{"message":"a\\u0007b\\u202ec"}]}', "a b c"),
        (b'{"error":"' + b"x" * 5_000 + b'"}', "x" * 199 + "…"),
    ],
)  # fmt: skip
def test_the_first_line_of_the_servers_words_is_shown(body: bytes, words: str) -> None:
    assert error_message(body) == words
