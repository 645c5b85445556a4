"""How answers end: a failure of the model is never shown as a success, and an empty answer never without a warning."""

from __future__ import annotations

import asyncio

import pytest

from council.command.asking import EXIT_FAILED, EXIT_OK
from producers.backend import LENGTH, REFUSED, STOP
from producers.member.endings import shown_reason
from schemas.entries import Lane
from tests.support.council_command import Outcome, council
from tests.support.faulty_server import faulty_server
from tests.support.redis_servers import RedisServer
from tests.support.role_processes import Roles
from tests.support.waiting import wait_until

USED_UP = "thinking used all max_tokens (512): raise --max-tokens"
EMPTY = "the model ended without an answer"
MODELS = ("only_thinks", "only_refuses", "filtered", "odd_logprobs")


@pytest.mark.parametrize(
    ("reason", "lanes", "shown"),
    [
        (STOP, {"answer"}, STOP),
        (LENGTH, {"answer", "thinking"}, LENGTH),
        ("tired", {"answer"}, "tired"),
        (LENGTH, {"thinking"}, USED_UP),
        (LENGTH, set(), "something other than text used all max_tokens (512): raise --max-tokens"),
        (STOP, {"thinking"}, "the model ended after its thinking, without an answer"),
        (STOP, set(), EMPTY),
    ],
)
def test_an_empty_answer_has_a_reason(reason: str, lanes: set[Lane], shown: str) -> None:
    assert shown_reason(reason, lanes, 512) == shown


async def test_each_end_is_shown_in_the_frame_and_on_the_terminal(redis: RedisServer, roles: Roles) -> None:
    async with faulty_server() as server:
        roles.ready("aggregator")
        starts = [asyncio.to_thread(roles.ready, "producers", model, "--backend", server.url) for model in MODELS]
        producers = dict(zip(MODELS, await asyncio.gather(*starts), strict=True))

        async def ask(*models: str) -> Outcome:
            arguments = ("--models", ",".join(models), "--max-tokens", "512", "--seed", "7", "--json")
            return await asyncio.to_thread(council, "ask", "hi", *arguments, url=redis.url)

        outcome = await ask(*MODELS)
        assert outcome.code == EXIT_OK, outcome.said
        shown = {one["name"]: (one["state"], one["text"], one["reason"]) for one in outcome.lines[-1]["members"]}
        outcome.assert_said(f"council: only_thinks: {USED_UP}.", f"council: only_refuses: {REFUSED}.")
        assert "odd_logprobs:" not in outcome.said
        state, text, reason = shown.pop("filtered")
        assert (state, text) == ("dropped", "")
        assert reason.endswith('ended the answer with "content_filter"')
        assert shown == {
            "only_thinks": ("finished", "", USED_UP),
            "only_refuses": ("finished", "One fine day", REFUSED),
            "odd_logprobs": ("finished", "One fine day", "stop"),
        }
        # What was not understood is named.
        wait_until(lambda: "logprobs in an unknown form (3 times)" in producers["odd_logprobs"].log(), "it is named")
        empty = await ask("only_thinks", "filtered")
        assert empty.code == EXIT_FAILED
        empty.assert_said(f"only_thinks: {USED_UP}.")
