"""A council that writes one answer over HTTP: its text, each member's tokens in it, and its events."""

from __future__ import annotations

from itertools import pairwise

import aiohttp

from schemas.frames import decode_frame
from tests.consumers.web.api.test_tokens import tokens_of
from tests.support.protocol import events_of, texts_by_model
from tests.support.role_processes import Roles
from tests.support.sessions import committed_frames, until_ended
from tests.support.waiting import until
from tests.support.web_server import CHAR, PACE, WORD, WebServer
from transport.events import find_composed
from transport.redis.connection import AsyncPipe


async def test_every_client_has_the_agreed_text_and_the_tokens_that_stand_in_it(
    roles: Roles, web: WebServer, client: aiohttp.ClientSession, pipe: AsyncPipe
) -> None:
    for role in [
        roles.start("aggregator"), roles.start("consumers.decipher"),
        *(roles.start("producers", model, *PACE) for model in (WORD, CHAR)),
    ]:  # fmt: skip
        role.wait_ready()
    body = {"prompt": "What is a list?", "models": [WORD, CHAR], "sync": "consensus", "seed": 7}
    async with client.post(f"{web.http}/api/sessions", json=body | {"max_tokens": 30}) as answer:
        assert answer.status == 201, await answer.text()
        session = (await answer.json())["session"]
    await until_ended(pipe, session)
    frames = [decode_frame(raw) for _, raw in await committed_frames(pipe, session)]
    agreed = "".join(frame.consensus.agreed or "" for frame in frames)
    assert sum(frame.counts.superseded for frame in frames) > 0
    async with client.get(f"{web.http}/api/sessions/{session}") as answer:
        shown = await answer.json()
    assert (shown["agreed"], shown["sync"]) == (agreed, "consensus")
    given = 0
    for index, member in enumerate(shown["members"]):
        assert member["text"] == "".join(frame.members[index].text for frame in frames)
        found = await tokens_of(client, web, session, member=index)
        released = [token for frame in frames for token in frame.tokens if token.member == index]
        places = [(t["seq"], t["start"], t["end"]) for t in found["tokens"]]
        assert places == [(t.seq, t.start, t.end) for t in released]
        text = member["text"].encode()
        assert all(text[t["start"] : t["end"]].decode(errors="ignore") in t["text"] for t in found["tokens"])
        # Tokens and given text are the whole answer; where a token ends in a word, the rest of it may be given.
        parts = sorted([*((t["start"], t["end"]) for t in found["tokens"]), *map(tuple, found["given"])])
        assert all(one[1] == other[0] for one, other in pairwise(parts))
        assert (parts[0][0], found["to"]) == (0, parts[-1][1])
        assert [t["branch"] for t in found["tokens"]] == sorted(t["branch"] for t in found["tokens"])
        given += len(found["given"])
    assert given > 0

    async def is_composed() -> bool:
        return (await find_composed(pipe, session)).is_over

    await until(is_composed, "all events are composed")
    texts = texts_by_model([event for _, event in await events_of(pipe, session)])
    assert texts == {"ensemble": agreed, "ngram-word-3": "", "ngram-char-6": ""}
