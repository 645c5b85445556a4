"""Following a session whose Redis is away for a moment, from scripted reads."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence

import pytest

from consumers.web.openai import following
from consumers.web.openai.following import SessionFollower
from schemas.entries import Claim, Finished, Token, encode_entry
from schemas.errors import RedisAway, Refused, SessionGone, SetBack
from schemas.frames import encode_frame
from tests.support.frames import made_frame
from transport.following import StreamEntry

CLAIM = "1-0"
ENTRIES = [
    StreamEntry(CLAIM, encode_entry(Claim(0, 0))),
    StreamEntry("2-0", encode_entry(Token(0, CLAIM, 0, "answer", "The", 0, 0))),
    StreamEntry("3-0", encode_entry(Token(0, CLAIM, 1, "answer", " end", 0, 0))),
    StreamEntry("4-0", encode_entry(Finished(0, CLAIM, 0, 2))),
]
FINAL = StreamEntry("1-0", encode_frame(made_frame(0, (), final=True, cut="4-0")))


class Reads:
    """A reader whose reads bring these entries, one list each, or fail; None where Redis is away."""

    def __init__(self, *found: Sequence[StreamEntry] | Exception | None) -> None:
        self._found, self.after = list(found), "0-0"

    async def read(self, block_ms: int | None = None) -> list[StreamEntry]:
        if (found := self._found.pop(0)) is None:
            raise RedisAway("Redis is away.")
        if isinstance(found, Exception):
            raise found
        self.after = found[-1].entry_id if found else self.after
        return list(found)


async def newest(*_: object) -> StreamEntry:
    return FINAL


async def text_of(monkeypatch: pytest.MonkeyPatch, tokens: Reads) -> str:
    monkeypatch.setattr(following, "_RETRY_S", 0.0)
    monkeypatch.setattr(following, "tokens_after", lambda *_: tokens)
    monkeypatch.setattr(following, "find_newest_frame", newest)
    follower = SessionFollower("redis://127.0.0.1:1", "a" * 12, lambda: True)
    async with contextlib.aclosing(follower):
        return "".join([one.text async for part in follower.only_member() for one in part.tokens or ()])


async def test_the_rest_of_an_answer_is_read_although_redis_is_away_behind_its_final_frame(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert await text_of(monkeypatch, Reads(ENTRIES[:2], None, None, ENTRIES[2:])) == "The end"


async def test_an_answer_whose_rest_redis_lost_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(Refused) as refused:
        await text_of(monkeypatch, Reads(ENTRIES[:2], []))
    assert (refused.value.code, refused.value.status) == ("redis_set_back", 503)


@pytest.mark.parametrize("lost", [SetBack("a"), SessionGone("It is not here.")])
async def test_where_redis_lost_the_session_a_client_may_ask_again(
    monkeypatch: pytest.MonkeyPatch, lost: Exception
) -> None:
    with pytest.raises(Refused) as refused:
        await text_of(monkeypatch, Reads(ENTRIES[:2], lost))
    assert (refused.value.code, refused.value.status) == ("redis_set_back", 503)
