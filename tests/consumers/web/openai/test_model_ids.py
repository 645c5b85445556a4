"""The session that a model id and the parameters ask for."""

from __future__ import annotations

import json

import msgspec

from consumers.web.openai.model_ids import requests_for
from consumers.web.openai.parameters import asked_chat
from schemas.processes import ProcessRecord
from schemas.sessions import MemberSpec

CALM = MemberSpec("llama3", "calm", temperature=0.1, seed=7, max_tokens=20)
RECORD = ProcessRecord("a", "council", "here", 1, 1, True, 1, 1.0, {"members": msgspec.json.encode([CALM]).decode()})


def test_what_the_client_sets_outweighs_the_options_of_the_member_that_it_asks() -> None:
    body = {"model": "council:calm", "messages": [{"role": "user", "content": "Hello?"}], "seed": 3, "n": 2}
    requests = requests_for(asked_chat(json.dumps(body | {"max_tokens": 9}).encode()), [RECORD])
    assert [one.models for one in requests] == [("calm",), ("calm",)]
    # The temperature stays the member's own. Choices of one seed would be equal.
    assert [one.options for one in requests] == [
        {"calm": {"seed": 3, "max_tokens": 9}}, {"calm": {"seed": 4, "max_tokens": 9}},
    ]  # fmt: skip
