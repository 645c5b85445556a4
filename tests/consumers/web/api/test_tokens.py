"""The tokens of an answer over HTTP: those of the stream that were accepted and released, by byte."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from typing import Any

import aiohttp
import msgspec
import pytest
from aiohttp.test_utils import TestClient, TestServer
from aiohttp.web import Application

from consumers.web.answer_cache import AnswerCache
from consumers.web.api.operations import routes_of
from consumers.web.api.tokens import TokensApi
from schemas import keys
from schemas.control import Progress, encode_progress
from schemas.entries import (
    NO_TOP,
    AnyEntry,
    Cancel,
    Claim,
    Finished,
    Lane,
    Quality,
    Token,
    decode_entry,
    encode_entry,
    pack_top,
    unpack_top,
)
from schemas.errors import SessionGone
from schemas.frames import MemberFrame, decode_frame, encode_frame
from schemas.sessions import Limits, Opening
from tests.support.frames import made_frame
from tests.support.redis_servers import RedisServer
from tests.support.role_processes import Roles
from tests.support.sessions import committed_frames, opening_of, token_stream, until_ended
from tests.support.waiting import until
from tests.support.web_server import CHAR, PACE, WORD, WebServer
from transport.answers import Answers
from transport.redis.connection import AsyncPipe, Command
from transport.sessions import find_session, open_session

# The writer of these tests sends no `alive` marks between its tokens.
PATIENT = Limits(beats_without_entry=600, beats_without_claim=600)


class Writer:
    """Writes entries that the producers of a session could write."""

    def __init__(self, redis: RedisServer, opening: Opening) -> None:
        self.session = opening.session
        self._redis = redis

    def write(self, entry: AnyEntry) -> str:
        raw = self._redis.run("XADD", keys.tokens(self.session), "*", keys.ENTRY_FIELD, encode_entry(entry))
        assert isinstance(raw, bytes)
        return raw.decode()

    def claim(self, member: int) -> str:
        return self.write(Claim(member, time.time_ns()))

    def say(
        self,
        claim: str,
        seq: int,
        text: str,
        *,
        member: int = 0,
        lane: Lane = "answer",
        logprob: float | None = None,
        quality: Quality = "missing",
        piece: bytes = b"",
        top: msgspec.Raw = NO_TOP,
    ) -> str:
        now_ns = time.time_ns()
        return self.write(
            Token(member, claim, seq, lane, text, now_ns, now_ns, logprob, quality, piece, top)
        )  # fmt: skip

    def finish(self, member: int, claim: str, tokens: int) -> None:
        self.write(Finished(member, claim, time.time_ns(), tokens))


async def tokens_of(client: aiohttp.ClientSession, web: WebServer, session: str, **query: int | str) -> dict[str, Any]:
    async with client.get(f"{web.http}/api/sessions/{session}/tokens", params=query) as answer:
        found: dict[str, Any] = await answer.json()
        assert answer.status == 200, found
        return found


async def error_of(client: aiohttp.ClientSession, url: str) -> tuple[int, str, str]:
    async with client.get(url) as answer:
        found = await answer.json()
        assert set(found) == {"error"}
        return answer.status, found["error"]["code"], found["error"]["message"]


async def until_accepted(pipe: AsyncPipe, session: str, *next_seqs: int) -> None:
    async def accepted() -> bool:
        return tuple(one.next_seq for one in (await find_session(pipe, session)).progress) == next_seqs

    await until(accepted, f"{next_seqs} tokens are accepted")


def seqs(found: dict[str, Any]) -> list[int]:
    return [token["seq"] for token in found["tokens"]]


def positions(found: dict[str, Any]) -> list[tuple[int, int, str]]:
    return [(token["start"], token["end"], token["text"]) for token in found["tokens"]]


async def test_every_token_of_a_council_is_returned_with_its_alternatives(
    redis: RedisServer, roles: Roles, web: WebServer, client: aiohttp.ClientSession, pipe: AsyncPipe
) -> None:
    """With real producers, by page and by byte: the stream's tokens, at the positions that the frames have."""
    for role in [roles.start("aggregator"), *(roles.start("producers", model, *PACE) for model in (WORD, CHAR))]:
        role.wait_ready()
    opening = opening_of(WORD, CHAR, max_tokens=250)
    await open_session(pipe, opening)
    await until_ended(pipe, opening.session)
    written = {}
    for _, raw in await token_stream(pipe, opening.session):
        if isinstance(entry := decode_entry(raw), Token):
            written[entry.member, entry.seq] = entry
    frames = [decode_frame(raw) for _, raw in await committed_frames(pipe, opening.session)]
    for member, model in enumerate((WORD, CHAR)):
        released = [token for frame in frames for token in frame.tokens if token.member == member]
        assert len(released) > 20
        found = await tokens_of(client, web, opening.session, member=model)
        end = released[-1].end
        assert (found["session"], found["member"], found["model"]) == (opening.session, member, model)
        assert (found["from"], found["to"]) == (0, end)
        shown, pages = found["tokens"], [found]
        while pages[-1]["next"] is not None:
            pages.append(await tokens_of(client, web, opening.session, member=member, **{"from": pages[-1]["next"]}))
            shown = shown + pages[-1]["tokens"]
        assert [len(page["tokens"]) for page in pages] == [
            *[200] * (len(pages) - 1),
            len(released) - 200 * (len(pages) - 1),
        ]
        assert [(t["seq"], t["start"], t["end"], t["logprob"], t["quality"]) for t in shown] == [
            (t.seq, t.start, t.end, t.logprob, t.quality) for t in released
        ]
        for token in shown:
            entry = written[member, token["seq"]]
            assert (token["text"], token["arrival_ns"]) == (entry.text, entry.arrival_ns)
            assert token["piece"] == (list(entry.piece) or None)
            top = unpack_top(entry.top)
            assert len(top) > 1
            assert [(bytes(one["bytes"]), one["text"]) for one in token["top"]] == [
                (piece, piece.decode("utf-8", "replace")) for piece, _ in top
            ]
            assert [one["logprob"] for one in token["top"]] == pytest.approx([p for _, p in top], abs=1e-9)
        middle = shown[len(shown) // 2]
        for byte in {middle["start"], middle["end"] - 1}:
            hovered = await tokens_of(client, web, opening.session, member=member, **{"from": byte, "to": byte})
            assert (hovered["tokens"], hovered["next"]) == ([middle], None)
        text = "".join(frame.members[member].text for frame in frames)
        assert text not in web.log()


async def test_only_accepted_and_released_tokens_are_returned(
    redis: RedisServer, roles: Roles, web: WebServer, client: aiohttp.ClientSession, pipe: AsyncPipe
) -> None:
    """White space at the start, a losing claim, a token written twice, thinking, a split character, K = 0, numbers
    that JSON does not have, and a member that is dropped while its producer writes on.

        text    "\\n"   " The"   (loser)   "" ""  "é"   (thinking)   " end"   | dropped |   " more"
        answer  [0,0)  [0,3)              [3,3)  [3,5)              [5,9)
    """
    opening = opening_of("a", "b", limits=PATIENT)
    await open_session(pipe, opening)
    writer = Writer(redis, opening)
    first, second = writer.claim(0), writer.claim(0)
    other = writer.claim(1)
    odd = [(b" The", -0.25), (b"\xc3", -math.inf), (b"\xff\xf0", math.nan), (b" A", 0.5)]
    writer.say(first, 0, "lost")
    writer.say(second, 0, "\n", quality="real", logprob=-1.5)
    writer.say(second, 1, " The", quality="real", logprob=-0.25, top=pack_top(odd))
    writer.say(second, 1, " The", quality="real", logprob=-0.25, top=pack_top(odd))
    writer.say(second, 7, " ahead")
    writer.say(first, 2, " lost")
    writer.say(second, 2, "", quality="real", logprob=-0.5, piece=b"\xc3")
    writer.say(second, 3, "é", quality="real", logprob=math.nan, piece=b"\xa9")
    writer.say(second, 4, "hm", lane="thinking")
    # Before a window is committed no token is returned.
    assert positions(await tokens_of(client, web, opening.session, member=0)) == []
    roles.ready("aggregator")
    await until_accepted(pipe, opening.session, 5, 0)
    writer.say(second, 5, " end", quality="placeholder", top=msgspec.Raw(b"\xc0"))
    await until_accepted(pipe, opening.session, 6, 0)
    writer.write(Cancel((0,)))
    writer.say(second, 6, " more")
    writer.say(other, 0, "B", member=1)
    writer.finish(1, other, 1)
    await until_ended(pipe, opening.session)

    found = await tokens_of(client, web, opening.session, member=0)
    assert positions(found) == [(0, 0, "\n"), (0, 3, " The"), (3, 3, ""), (3, 5, "é"), (5, 9, " end")]
    assert seqs(found) == [0, 1, 2, 3, 5]
    assert (found["from"], found["to"], found["next"]) == (0, 9, None)
    assert [token["piece"] for token in found["tokens"]] == [None, None, [0xC3], [0xA9], None]
    assert [token["logprob"] for token in found["tokens"]] == [-1.5, -0.25, -0.5, None, None]
    assert [token["quality"] for token in found["tokens"]] == ["real"] * 4 + ["placeholder"]
    assert found["tokens"][1]["top"] == [
        {"text": " The", "bytes": list(b" The"), "logprob": -0.25},
        {"text": "\ufffd", "bytes": [0xC3], "logprob": None},
        {"text": "\ufffd\ufffd", "bytes": [0xFF, 0xF0], "logprob": None},
        {"text": " A", "bytes": list(b" A"), "logprob": 0.0},
    ]
    assert [len(token["top"]) for token in found["tokens"]] == [0, 4, 0, 0, 0]
    for query, expected in (
        ({"from": 3, "to": 5}, [2, 3]),
        ({"from": 4, "to": 6}, [3, 5]),
        ({"from": 1, "to": 3}, [1]),
        ({"from": 0, "to": 1}, [0, 1]),
        ({"to": 3}, [0, 1]),
        ({"from": 3}, [2, 3, 5]),
        ({"from": 3, "to": 3}, [3]),
        ({"to": 0}, [1]),
        ({"from": 8, "to": 8}, [5]),
        ({"from": 9, "to": 9}, []),
        ({"from": 5_000, "to": 6_000}, []),
        ({"from": 5_000}, []),
    ):
        assert seqs(await tokens_of(client, web, opening.session, member=0, **query)) == expected, query
    assert positions(await tokens_of(client, web, opening.session, member=1)) == [(0, 1, "B")]
    assert "é" not in web.log()


async def test_a_growing_answer_is_read_from_where_the_last_read_ended(
    redis: RedisServer, roles: Roles, web: WebServer, client: aiohttp.ClientSession, pipe: AsyncPipe
) -> None:
    """Requests between any two tokens; also a member that begins long after the first request."""
    roles.ready("aggregator")
    opening = msgspec.structs.replace(opening_of("a", "b", limits=PATIENT), sync="free")
    await open_session(pipe, opening)
    writer = Writer(redis, opening)
    claims = [writer.claim(0), writer.claim(1)]
    for seq in range(3):
        writer.say(claims[0], seq, f" {seq}")
        await until_accepted(pipe, opening.session, seq + 1, 0)
        assert seqs(await tokens_of(client, web, opening.session, member=0)) == list(range(seq + 1))
        assert seqs(await tokens_of(client, web, opening.session, member=1)) == []
    writer.say(claims[1], 0, "late", member=1)
    await until_accepted(pipe, opening.session, 3, 1)
    assert positions(await tokens_of(client, web, opening.session, member="b")) == [(0, 4, "late")]


async def test_in_step_mode_a_token_is_returned_when_the_others_have_written_as_far(
    redis: RedisServer, roles: Roles, web: WebServer, client: aiohttp.ClientSession, pipe: AsyncPipe
) -> None:
    """
    a   " one"[0, 3)  " two"[3, 7)  " three"[7, 13)
    b   "eight"[0, 5)                                then finished: a waits no longer
    """
    roles.ready("aggregator")
    opening = opening_of("a", "b", limits=PATIENT)
    await open_session(pipe, opening)
    writer = Writer(redis, opening)
    claims = [writer.claim(0), writer.claim(1)]
    for seq, text in enumerate((" one", " two", " three")):
        writer.say(claims[0], seq, text)
    await until_accepted(pipe, opening.session, 3, 0)
    assert positions(await tokens_of(client, web, opening.session, member=0)) == []
    writer.say(claims[1], 0, "eight", member=1)
    await until_accepted(pipe, opening.session, 3, 1)
    assert positions(await tokens_of(client, web, opening.session, member=0)) == [(0, 3, " one")]
    assert positions(await tokens_of(client, web, opening.session, member=1)) == [(0, 5, "eight")]
    writer.finish(1, claims[1], 1)

    async def all_shown() -> bool:
        return seqs(await tokens_of(client, web, opening.session, member=0)) == [0, 1, 2]

    await until(all_shown, "the waiting tokens are returned")


async def test_text_that_is_not_released_is_not_returned(
    redis: RedisServer, web: WebServer, client: aiohttp.ClientSession, pipe: AsyncPipe
) -> None:
    """Four tokens are accepted; a frame has released the answer up to a byte inside the third.

    answer    [0, 3) [3, 6) [6, 10) [10, 12)
    released  ----------------8
    """
    opening = opening_of("a", "b")
    await open_session(pipe, opening)
    writer = Writer(redis, opening)
    claim = writer.claim(0)
    cut = [writer.say(claim, seq, text) for seq, text in enumerate(("one", "two", "four", "no"))][-1]
    committed = encode_progress((Progress(claim, 4, False), Progress("", 0, False)))
    redis.run("HSET", keys.state(opening.session), "cut", cut, "progress", committed)
    assert positions(await tokens_of(client, web, opening.session, member=0)) == []
    for window, (position, shown) in enumerate(((0, 0), (2, 0), (8, 2), (10, 3), (12, 4))):
        write_frame(redis, opening, window, position)
        found = await tokens_of(client, web, opening.session, member=0)
        assert positions(found) == [(0, 3, "one"), (3, 6, "two"), (6, 10, "four"), (10, 12, "no")][:shown]
        end = (0, 3, 6, 10, 12)[shown]
        assert (found["to"], found["next"]) == (end, None)
        assert (await tokens_of(client, web, opening.session, member=0, **{"from": 0, "to": 99}))["to"] == end
        hovered = await tokens_of(client, web, opening.session, member=0, **{"from": 7, "to": 7})
        assert seqs(hovered) == ([2] if shown > 2 else [])


def write_frame(redis: RedisServer, opening: Opening, window: int, position: int) -> None:
    """Writes a frame that has released the first member's answer up to `position`."""
    members = tuple(
        MemberFrame(member.model, "answering", 0.5, 1.0, None, position, 2, "", "", None) for member in opening.members
    )
    frame = made_frame(window, members, session=opening.session, mode="step")
    redis.run("XADD", keys.frames(opening.session), keys.frame_id(window), keys.ENTRY_FIELD, encode_frame(frame))


async def test_a_long_answer_is_returned_in_pages(
    redis: RedisServer, roles: Roles, web: WebServer, client: aiohttp.ClientSession, pipe: AsyncPipe
) -> None:
    """A page has at most 200 tokens; tokens that start at one byte are on one page. The stream has more entries than
    one reply of Redis; a single member needs no name."""
    roles.ready("aggregator")
    opening = opening_of("a", max_tokens=1_000, limits=PATIENT)
    await open_session(pipe, opening)
    writer = Writer(redis, opening)
    claim = writer.claim(0)
    texts = ["x"] * 199 + ["", "", "yy"] + ["z"] * 700
    for seq, text in enumerate(texts):
        writer.say(claim, seq, text)
    await until_accepted(pipe, opening.session, len(texts))
    one = await tokens_of(client, web, opening.session)
    assert (len(one["tokens"]), one["next"], one["to"]) == (199, 199, 901)
    two = await tokens_of(client, web, opening.session, **{"from": one["next"]})
    assert (seqs(two), two["next"]) == (list(range(199, 399)), 398)
    assert positions(two)[:4] == [(199, 199, ""), (199, 199, ""), (199, 201, "yy"), (201, 202, "z")]


async def test_tokens_of_a_session_that_redis_lost_are_refused_and_read_again_later(
    redis: RedisServer, roles: Roles, web: WebServer, client: aiohttp.ClientSession, pipe: AsyncPipe
) -> None:
    """Also if its tokens are in the cache. When Redis lost data and has the tokens under other ids, the second request
    finds them."""
    aggregator = roles.ready("aggregator")
    opening = opening_of("a", limits=PATIENT)
    await open_session(pipe, opening)
    writer = Writer(redis, opening)
    claim = writer.claim(0)
    token_id = writer.say(claim, 0, "a")
    await until_accepted(pipe, opening.session, 1)
    before = await tokens_of(client, web, opening.session)
    aggregator.end()
    url, key = f"{web.http}/api/sessions/{opening.session}/tokens", keys.tokens(opening.session)
    entries = dict(await token_stream(pipe, opening.session))
    redis.run("DEL", key)
    expired = (404, "session_gone", f"The session {opening.session!r} has expired.")
    assert await error_of(client, url) == expired
    assert await error_of(client, url) == expired
    state = await find_session(pipe, opening.session)
    again = f"{token_id}1"
    for entry_id, old_id in ((state.opened, state.opened), (claim, claim), (again, token_id)):
        redis.run("XADD", key, entry_id, keys.ENTRY_FIELD, entries[old_id])
    redis.run("EXPIRE", key, 60)
    redis.run("HSET", keys.state(opening.session), "cut", again)
    assert await tokens_of(client, web, opening.session) == before
    redis.run("DEL", key)
    assert await error_of(client, url) == expired
    redis.run("DEL", keys.state(opening.session))
    sentence = f"There is no session {opening.session!r} here: `council sessions` lists those that exist."
    assert await error_of(client, url) == (404, "session_gone", sentence)


async def test_the_cache_keeps_the_sixteen_sessions_asked_for_last(redis: RedisServer, pipe: AsyncPipe) -> None:
    """A session that is asked for again becomes the last to leave the cache."""
    cache = AnswerCache(pipe)
    application = Application()
    application.add_routes(routes_of(TokensApi(pipe, cache).operations()))
    sessions: list[str] = []
    async with TestClient(TestServer(application)) as client:
        for number in range(18):
            opening = opening_of("a")
            await open_session(pipe, opening)
            sessions.append(opening.session)
            for session in (opening.session, sessions[0], opening.session)[: 3 if number else 1]:
                async with client.get(f"/api/sessions/{session}/tokens") as answer:
                    assert answer.status == 200
    assert list(cache._answers) == [*sessions[3:17], sessions[0], sessions[17]]


async def test_a_session_that_is_deleted_while_it_is_read_is_refused(redis: RedisServer, pipe: AsyncPipe) -> None:
    """The beginning of a text is not returned as the whole."""
    opening = opening_of("a")
    await open_session(pipe, opening)
    writer = Writer(redis, opening)
    claim = writer.claim(0)
    for seq in range(1_100):
        last = writer.say(claim, seq, "x")
    redis.run(
        "HSET", keys.state(opening.session), "cut", last, "progress", encode_progress((Progress(claim, 1_100, False),))
    )
    state = await find_session(pipe, opening.session)

    class Deleting(AsyncPipe):
        async def run(self, commands: Sequence[Command]) -> list[Any]:
            replies = await super().run(commands)
            redis.run("DEL", *keys.of_session(opening.session))
            return replies

    deleting = Deleting(redis.url)
    try:
        with pytest.raises(SessionGone):
            await Answers(opening, state.opened).catch_up(deleting, state, None)
    finally:
        await deleting.close()


REFUSALS = [
    ("", "no_member", "The member is missing: give its index or its name; members: 0 a, 1 b."),
    ("member=", "unknown_member", "'' is not a member of this session; members: 0 a, 1 b."),
    ("member=2", "unknown_member", "'2' is not a member of this session; members: 0 a, 1 b."),
    ("member=-1", "unknown_member", "'-1' is not a member"),
    ("member=c%00%ED%A0%80", "unknown_member", "'c"),
    (f"member={'x' * 500}", "unknown_member", f"'{'x' * 100}…' is not a member"),
    (
        "member=0&from=x",
        "bad_from",
        "from is 'x': give a byte of the answer, a whole number from 0 to 999999999999999.",
    ),
    ("member=0&from=", "bad_from", "from is ''"),
    ("member=0&from=-1", "bad_from", "from is '-1'"),
    ("member=0&from=1.5", "bad_from", "from is '1.5'"),
    ("member=0&from=%2B1", "bad_from", "from is '+1'"),
    ("member=0&from=%D9%A3", "bad_from", "from is '٣'"),
    (f"member=0&from={'9' * 5_000}", "bad_from", "from is '999"),
    ("member=0&to=nan", "bad_to", "to is 'nan'"),
    ("member=0&form=7", "bad_request", "Unknown parameter 'form'; known parameters: member, from, to."),
    ("member=0&from=1&from=2", "bad_request", "The parameter 'from' is given twice: give it once."),
]


async def test_an_invalid_query_is_refused_with_a_code_and_one_sentence(
    redis: RedisServer, web: WebServer, client: aiohttp.ClientSession, pipe: AsyncPipe
) -> None:
    opening = opening_of("a", "b")
    await open_session(pipe, opening)
    for query, code, sentence in REFUSALS:
        status, found, message = await error_of(client, f"{web.http}/api/sessions/{opening.session}/tokens?{query}")
        assert (status, found) == (409 if code == "no_member" else 404 if code == "unknown_member" else 400, code), (
            message
        )
        assert sentence in message
        assert message.endswith(".")
        assert len(message) < 300
    query = f"{opening.session}/tokens?member=0&from=7&to=3"
    assert await error_of(client, f"{web.http}/api/sessions/{query}") == (
        409, "bad_to", "to is 3 and from is 7: give a to that is at least from."
    )  # fmt: skip
    status, code, _ = await error_of(client, f"{web.http}/api/sessions/none/tokens?member=0")
    assert (status, code) == (404, "session_gone")
