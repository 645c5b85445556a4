"""Requests to an OpenAI-compatible server: what follows a refusal, and when the attempts end. No server, no clock."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from producers.backend import ModelLoading, ModelWaiting, Request
from producers.openai.asking import MOST_CHANGES, MOST_WAITING_S, Asking, RefusedAnswer
from producers.openai.dialect import Dialect
from producers.servers.faults import ServerFault
from schemas.sessions import Message
from tests.support import faulty_server as faults

REQUEST = Request("Why?", "", max_tokens=40, temperature=0.7, seed=3, top_k=20, silence_ms=5_000)


def refusal(status: int = 429, body: bytes = b"", **headers: str) -> RefusedAnswer:
    return RefusedAnswer(status, "reason", {name.replace("_", "-"): value for name, value in headers.items()}, body)


def refusal_of(whole: faults.Whole) -> RefusedAnswer:
    status, *headers = whole[0].split("\r\n")
    pairs = (header.lower().split(": ", 1) for header in headers)
    return RefusedAnswer(int(status.split()[0]), status.partition(" ")[2], dict(pairs), whole[2])


def body_of(dialect: Dialect, request: Request = REQUEST) -> dict[str, Any]:
    body: dict[str, Any] = json.loads(dialect.body("tiny", request))
    return body


def accepted_after(name: str, request: Request = REQUEST) -> tuple[Asking, int]:
    """(the dialect in the end for a server that refuses as `name`, how often it refused)."""
    asking = Asking(Dialect(), request)
    for refused in range(10):
        if (answer := faults.REFUSING[name](body_of(asking.dialect, request))) is None:
            return asking, refused
        assert asking.refused(refusal_of(answer)) is None
        assert asking.pause_s == 0.0
    raise AssertionError(f"{name} never took it")


def fault_of(refused: RefusedAnswer, key_variable: str = "", absence: str = "") -> str:
    with pytest.raises(ServerFault) as fault:
        Asking(Dialect(), REQUEST, key_variable, absence).refused(refused)
    return str(fault.value)


# The request


def test_the_turns_of_a_chat_are_sent_in_order() -> None:
    history = (Message("user", "One?"), Message("assistant", "Two."))
    request = msgspec.structs.replace(REQUEST, system="Be brief", history=history)
    assert [(turn["role"], turn["content"]) for turn in body_of(Dialect(), request)["messages"]] == [
        ("system", "Be brief"),
        ("user", "One?"),
        ("assistant", "Two."),
        ("user", "Why?"),
    ]


@given(st.text(), st.sampled_from([None, 0, 5, 20]), st.sampled_from(["max_tokens", "max_completion_tokens"]))
def test_every_dialect_requests_the_same_answer(prompt: str, most_top: int | None, length: Any) -> None:
    body = body_of(Dialect(most_top, length, False), msgspec.structs.replace(REQUEST, prompt=prompt))
    assert (body["messages"][-1]["content"], body[length], body["seed"]) == (prompt, 40, 3)
    assert ("logprobs" in body) == ("top_logprobs" in body) == (most_top is not None)
    assert body.get("top_logprobs", 0) == min(20, most_top or 0)


# Another dialect


def test_a_server_without_logprobs_is_asked_again_without_them() -> None:
    asking, refused = accepted_after("no_logprobs")
    assert (asking.dialect, refused) == (Dialect(most_top=None), 1)


def test_a_server_with_fewer_alternatives_is_asked_for_that_many() -> None:
    asking, refused = accepted_after("few_logprobs")
    assert (asking.dialect, refused) == (Dialect(most_top=5), 1)


def test_a_server_that_knows_only_the_newer_name_is_asked_with_it() -> None:
    """The last attempt leaves out whatever the user has not asked for."""
    asking, refused = accepted_after("reasoner")
    assert refused == 2
    assert asking.dialect == Dialect(most_top=None, length="max_completion_tokens").least()


def test_a_server_without_usage_is_asked_without_it() -> None:
    asking, refused = accepted_after("no_usage")
    assert (asking.dialect, refused) == (Dialect(reports_usage=False), 1)


@pytest.mark.parametrize(
    ("words", "most_top"),
    [
        ("Invalid 'top_logprobs': integer above maximum value. Expected a value <= 8, but got 20 instead.", 8),
        ("top_logprobs must be between 0 and 7.", 7),
        ("logprobs: 20 exceeds the limit of 1", 1),
        ("logprobs is not supported by gpt-5 and 4.1, only by 3 others", None),
        ("logprobs must be greater than 20", None),
        ("top_logprobs: at most 128", None),
    ],
)
def test_a_limit_is_read_from_the_message_if_it_contains_one(words: str, most_top: int | None) -> None:
    dialect = Dialect().without(words, REQUEST)
    assert dialect == Dialect(most_top=most_top)


def test_a_server_that_always_refuses_is_not_asked_for_ever() -> None:
    """It is asked with 20, with 2 and without logprobs; then it fails with the server's message."""
    tops: list[int | None] = []

    def ask_on(asking: Asking) -> None:
        while answer := faults.REFUSING["stubborn"](body_of(asking.dialect)):
            tops.append(asking.dialect.most_top)
            assert asking.refused(refusal_of(answer)) is None

    with pytest.raises(ServerFault, match="answered HTTP 400: top_logprobs must be 2 at most"):
        ask_on(Asking(Dialect(), REQUEST))
    assert tops == [200, 2, None]


@given(st.lists(st.sampled_from([*b"logprobs max_completion_tokens stream_options 1 2 3".split()]), max_size=6))
def test_changes_of_dialect_come_to_an_end(words: list[bytes]) -> None:
    def ask_on(asking: Asking) -> None:
        seen = [asking.dialect]
        for _ in range(MOST_CHANGES + 1):
            asking.refused(refusal(400, b" at most ".join(words)))
            assert asking.dialect not in seen
            seen.append(asking.dialect)

    with pytest.raises(ServerFault):
        ask_on(Asking(Dialect(), REQUEST))


def test_only_a_message_that_names_a_parameter_changes_the_dialect() -> None:
    asking = Asking(Dialect(), REQUEST)
    for status, body in ((400, b"the context is too long"), (500, b"seeds broke"), (404, b"logprobs")):
        with pytest.raises(ServerFault):
            asking.refused(refusal(status, body))
    assert asking.dialect == Dialect()


# Waiting


@pytest.mark.parametrize(
    ("headers", "pause_s"),
    [
        ({"retry_after": "7"}, 7.0),
        ({"retry_after": "0.5"}, 0.5),
        ({"retry_after": "Sun, 22 Nov 2026 17:00:30 GMT", "date": "Sun, 22 Nov 2026 17:00:00 GMT"}, 30.0),
        ({"retry_after": "Sun, 22 Nov 2026 16:00:00 GMT", "date": "Sun, 22 Nov 2026 17:00:00 GMT"}, 0.0),
        ({"retry_after": "Sun, 22 Nov 2026 17:00:30 GMT"}, 1.0),
        ({"retry_after": "soon"}, 1.0),
        ({"retry_after": "-5"}, 1.0),
        ({}, 1.0),
    ],
)
def test_a_busy_server_is_asked_again_when_it_asks_for_that(headers: dict[str, str], pause_s: float) -> None:
    asking = Asking(Dialect(), REQUEST)
    assert asking.refused(refusal(429, b"slow down", **headers)) == ModelWaiting()
    assert asking.pause_s == pause_s
    assert asking.has_waited


@given(st.lists(st.sampled_from(["", "0", "1", "30", "1e9", "nan"]), min_size=200, max_size=200))
@example(["0"] * 200)
def test_waiting_for_a_busy_server_ends(retry_afters: list[str]) -> None:
    """Whatever its headers contain, the wait is at most MOST_WAITING_S, with few attempts."""

    def ask_on(asking: Asking) -> None:
        waited_s = 0.0
        for asks, retry_after in enumerate(retry_afters):
            assert asks < 30
            assert asking.refused(refusal(429, b"slow down", retry_after=retry_after)) == ModelWaiting()
            waited_s += asking.pause_s
            assert waited_s <= MOST_WAITING_S

    with pytest.raises(ServerFault, match="is too busy for the request, not within"):
        ask_on(Asking(Dialect(), REQUEST))


def test_a_retry_tomorrow_is_a_failure_now() -> None:
    fault = fault_of(refusal_of(faults.WHOLE["come_back_tomorrow"]))
    assert fault == "is too busy for the request, it asks for a retry in 86400 s (HTTP 429: Rate limit reached)"


def test_a_used_up_quota_is_not_waited_for() -> None:
    assert fault_of(refusal_of(faults.WHOLE["unpaid"])) == "answered HTTP 429: You exceeded your current quota"


@pytest.mark.parametrize(
    ("refused", "sign"),
    [
        (refusal_of(faults.WHOLE["busy"]), ModelWaiting()),
        (refusal(503, b"down for a moment", retry_after="1"), ModelWaiting()),
        (refusal_of(faults.WHOLE["loading_for_ever"]), ModelLoading()),
    ],
)
def test_a_loading_or_busy_server_is_waited_for(refused: RefusedAnswer, sign: ModelLoading | ModelWaiting) -> None:
    asking = Asking(Dialect(), REQUEST)
    assert asking.refused(refused) == sign
    assert asking.pause_s > 0.0
    assert asking.has_waited == isinstance(sign, ModelWaiting)


def test_a_proxy_whose_server_is_away_is_not_waited_for() -> None:
    assert "with HTML" in fault_of(refusal(503, faults.HTML))
    assert fault_of(refusal(503, b"no upstream")) == "answered HTTP 503: no upstream"


# Messages


@pytest.mark.parametrize(
    ("refused", "key_variable", "absence", "sentence"),
    [
        (refusal(401, b"no"), "MY_KEY", "", "rejects the API key (HTTP 401: no): correct it in the variable MY_KEY"),
        (refusal(401), "", "", "requires an API key (HTTP 401): name its environment variable with key_env"),
        (refusal(403, b"no"), "MY_KEY", "", "forbids the request (HTTP 403: no): check what the key in MY_KEY may use"),
        (refusal(403, b"no"), "", "", "answered HTTP 403: no"),
        (refusal(404), "", "", "answered HTTP 404: check the URL and the model's name"),
        (refusal(404, b"gone"), "", "has a and b", "answered HTTP 404: gone; it has a and b"),
        (refusal_of(faults.WHOLE["moved"]), "", "", "answered HTTP 308 with another address: give that address"),
        (refusal_of(faults.WHOLE["strange_field"]), "", "", "answered HTTP 422: session: Field required"),
        (refusal(500), "", "", "answered HTTP 500: reason"),
    ],
)
def test_a_refusal_is_a_message_with_what_to_do(
    refused: RefusedAnswer, key_variable: str, absence: str, sentence: str
) -> None:
    assert fault_of(refused, key_variable, absence).startswith(sentence)
