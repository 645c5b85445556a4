"""The cache of answers: what it keeps is true only while Redis has the entries that it was read from."""

from __future__ import annotations

import pytest

from consumers.web.answer_cache import AnswerCache
from schemas import keys
from schemas.control import Progress, encode_progress
from schemas.entries import AnyEntry, Beat, Claim, Token, encode_entry
from schemas.sessions import Opening
from tests.support.sessions import opening_of
from transport.redis.connection import AsyncPipe
from transport.sessions import find_session, open_session

OLD, NEW = ("The", " sky", " is"), ("The", " sea")


async def write(pipe: AsyncPipe, opening: Opening, texts: tuple[str, ...], beat_ms: int) -> None:
    """The whole token stream: an opening, a claim, tokens, and a beat with this id, the last committed entry."""
    key, state = keys.tokens(opening.session), keys.state(opening.session)
    tokens = [Token(0, "1001-0", seq, "answer", text, 0, 0) for seq, text in enumerate(texts)]
    entries: list[AnyEntry] = [opening, Claim(0, 0), *tokens]
    ids = [f"{1000 + number}-0" for number in range(len(entries))]
    await pipe.run([("XTRIM", key, "MAXLEN", "=", 0), ("XSETID", key, "0-0")])
    for entry_id, entry in zip([*ids, f"{beat_ms}-0"], [*entries, Beat()], strict=True):
        await pipe.one("XADD", key, entry_id, "e", encode_entry(entry))
    progress = encode_progress((Progress("1001-0", len(texts), ended=False),))
    await pipe.one("HSET", state, "opened", ids[0], "cut", f"{beat_ms}-0", "progress", progress)


@pytest.mark.parametrize("beat_ms", [1_800, 2_000, 2_200])
async def test_answers_whose_last_entries_redis_lost_are_read_again(pipe: AsyncPipe, beat_ms: int) -> None:
    """The new end is before, at and behind what was read."""
    opening, cache = opening_of("a"), AnswerCache(pipe)
    await open_session(pipe, opening)

    async def text() -> str:
        answers = await cache.caught_up(await find_session(pipe, opening.session), None)
        return answers.of_member[0]._text.decode()

    await write(pipe, opening, OLD, 2_000)
    assert [await text(), await text()] == ["The sky is"] * 2
    await write(pipe, opening, NEW, beat_ms)
    assert await text() == "The sea"
