# ruff: noqa: E501  # each refusal is one line, as its server sends it
"""Refusals of servers that imitate Ollama, and what is asked after each."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from producers.backend import Request
from producers.ollama.dialect import OllamaDialect
from schemas.sessions import Sampling

PLAIN = Request("Why?", "", Sampling().max_tokens, Sampling().temperature, None, 20, silence_ms=5_000)
CHOSEN = msgspec.structs.replace(PLAIN, max_tokens=40, temperature=1.8, seed=3)


def body_of(dialect: OllamaDialect, request: Request = PLAIN) -> dict[str, Any]:
    return dialect.question("m", request, 600, has_chat=True, thinks=True)[1]


def test_the_first_question_has_everything() -> None:
    assert body_of(OllamaDialect(), CHOSEN) == {
        "model": "m", "stream": True, "logprobs": True, "top_logprobs": 20, "keep_alive": 600, "truncate": False,
        "options": {"draft_num_predict": 0, "num_predict": 40, "temperature": 1.8, "seed": 3}, "think": True,
        "messages": [{"role": "user", "content": "Why?"}],
    }  # fmt: skip


@pytest.mark.parametrize(
    ("refusal", "gone", "words"),
    [
        (b'{"error":"\\"m\\" does not support thinking"}', {"think"}, ("think",)),
        (b'{"error":"think value \\"true\\" is not supported for this model"}', {"think"}, ("think",)),
        (b'{"detail":[{"loc":["body","top_logprobs"],"msg":"Extra inputs are not permitted"}]}', {"logprobs", "top_logprobs"}, ("top_logprobs",)),
        (b'{"error":"LOGPROBS are not available"}', {"logprobs", "top_logprobs"}, ("top_logprobs",)),
        (b'reported an error: unknown field keep_alive', {"keep_alive"}, ("keep_alive",)),
        (b'{"error":"invalid option provided: draft_num_predict"}', {"draft_num_predict"}, ("draft_num_predict",)),
        (b'{"error":{"message":"temperature must be 1","param":"temperature"}}', {"temperature"}, ("temperature",)),
    ],
)  # fmt: skip
def test_what_the_user_has_not_asked_for_is_left_out(refusal: bytes, gone: set[str], words: tuple[str, ...]) -> None:
    changed = OllamaDialect().without(refusal, PLAIN, thinks=True)
    assert changed is not None
    before, after = body_of(OllamaDialect()), body_of(changed)
    assert {*before, *before["options"]} - {*after, *after["options"]} == gone
    assert changed.changes(PLAIN) == words
    assert changed.without(refusal, PLAIN, thinks=True) is None


def test_fewer_alternatives_are_asked_for_where_the_server_names_a_limit() -> None:
    changed = OllamaDialect().without(b'{"error":"top_logprobs must be between 0 and 5"}', PLAIN, thinks=False)
    assert changed is not None
    assert body_of(changed)["top_logprobs"] == 5
    assert changed.changes(PLAIN) == ("top_logprobs lowered to 5",)


@pytest.mark.parametrize("refusal", [b"temperature: too hot", b'{"error":"seed is unknown"}', b"num_predict > 16"])
def test_what_the_user_asked_for_stays(refusal: bytes) -> None:
    assert OllamaDialect().without(refusal, CHOSEN, thinks=True) is None
