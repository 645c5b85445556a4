"""The tokens of an answer over HTTP, with the alternatives that the model listed for each."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Annotated, cast

import msgspec
from aiohttp import web

from consumers.web.answer_cache import AnswerCache
from consumers.web.api.members import member_index
from consumers.web.api.operations import Operation, Parameter
from consumers.web.door.errors import json_response
from consumers.web.door.request import MOST_NUMBER, whole_number
from schemas.entries import UNDECODABLE, Quality, Token
from schemas.errors import Refused, SessionGone
from schemas.frames import shown_logprob
from transport.answers import find_released
from transport.redis.connection import AsyncPipe

# At 20 listed pieces a token 0.3 MB of JSON, and 2 ms in Redis; the next request continues at `next`.
MOST_TOKENS = 200
# Between slices of an answer the event loop serves live clients.
_SLICE = 50
_STRING = {"type": "string", "minLength": 1}
_BYTE = {"type": "integer", "minimum": 0, "maximum": MOST_NUMBER}
_PARAMETERS = (
    Parameter("member", "The member's index, name or id; not needed in a session of one member.", _STRING),
    Parameter("from", "The first byte of the answer; by default 0.", _BYTE),
    Parameter(
        "to",
        "The byte after the last one; by default the answer's end. If equal to from: the token that covers that byte.",
        _BYTE,
    ),
)

# Not a tuple, whose schema `items: false` generators of clients do not read.
_Range = Annotated[Sequence[int], msgspec.Meta(min_length=2, max_length=2)]

_top_decoder = msgspec.msgpack.Decoder(list[tuple[bytes, float | None]])


class ShownPiece(msgspec.Struct, frozen=True):
    """A listed piece: `text` is its bytes as UTF-8, with U+FFFD for invalid bytes."""

    text: str
    bytes: list[int]
    logprob: float | None


class ShownToken(msgspec.Struct, frozen=True):
    """A token at the bytes [start, end) of its answer. `seq` counts from 0 in each `branch`. `piece` are its own bytes
    if they differ from its text; `top` is the list of alternatives that came with it, in the order received. A logprob
    that is not finite is null."""

    seq: int
    start: int
    end: int
    text: str
    logprob: float | None
    quality: Quality
    arrival_ns: int
    piece: list[int] | None
    top: list[ShownPiece]
    branch: int


class TokenList(msgspec.Struct, frozen=True, rename={"first": "from", "last": "to"}):
    """The tokens of one answer in the bytes [from, to), at most 200; `next` is the `from` of the next request, null if
    there are no more tokens yet. `given` are the [start, end) of text there that the member did not write, and no token
    covers: the prefix of its session, or what the council agreed on in place of its own text."""

    session: str
    member: int
    model: str
    first: int
    last: int
    tokens: Sequence[ShownToken]
    given: Sequence[_Range]
    next: int | None


class TokenQuery(msgspec.Struct, frozen=True):
    """The parameters: bytes [first, last) of an answer, to its end without `last`; if both are equal, the token that
    covers that byte. `member` is its text."""

    member: str | None
    first: int
    last: int | None


class TokensApi:
    """The handler."""

    def __init__(self, pipe: AsyncPipe, cache: AnswerCache) -> None:
        self._pipe, self._cache = pipe, cache

    def operations(self) -> list[Operation]:
        return [
            Operation(
                "GET", "/api/sessions/{session}/tokens", self._tokens, "list_tokens", "Sessions",
                "List the tokens of an answer",
                "The tokens in a range of bytes, each with its alternatives, 200 at a time.", TokenList, (404, 409),
                parameters=_PARAMETERS,
            )
        ]  # fmt: skip

    async def _tokens(self, request: web.Request) -> web.Response:
        query = token_query(request.query)
        state, frame, _ = await find_released(self._pipe, request.match_info["session"])
        answers = await self._cache.answers_of(state)
        member = member_index(query.member, answers.opening)
        answers = await self._cache.caught_up(state, frame)
        answer = answers.of_member[member]
        is_byte = query.first == query.last
        found = answer.covering(query.first) if is_byte else answer.overlapping(query.first, query.last)
        parts, following = answer.first_of(found, MOST_TOKENS)
        indexes, given = answer.tokens_of(parts), answer.given_of(parts)
        end, bounds = answer.end, [answer.bounds(index) for index in indexes]
        try:
            tokens = await answers.read_tokens(self._pipe, member, indexes)
        except SessionGone:
            # The session expired, or Redis lost data: the next call reads all of it again.
            self._cache.forget(state.session)
            raise
        shown = []
        for index, token in enumerate(tokens):
            # Encoded at once: thousands of small lists would start a garbage collection, which takes 20 ms.
            shown.append(msgspec.Raw(msgspec.json.encode(shown_token(token, *bounds[index]))))
            if index % _SLICE == _SLICE - 1:
                await asyncio.sleep(0)
        return json_response(
            TokenList(
                state.session,
                member,
                answers.opening.names[member],
                query.first,
                max(query.first, end if query.last is None else min(query.last, end)),
                # Each is already encoded as JSON.
                cast(Sequence[ShownToken], shown),
                given,
                following,
            )
        )


def token_query(query: Mapping[str, str]) -> TokenQuery:
    """The parameters of a query. Raises Refused for an invalid one."""
    first = whole_number(query, "from", "a byte of the answer") or 0
    last = whole_number(query, "to", "a byte of the answer")
    if last is not None and last < first:
        raise Refused("bad_to", f"to is {last} and from is {first}: give a to that is at least from.", status=409)
    return TokenQuery(query.get("member"), first, last)


def shown_token(token: Token, start: int, end: int) -> ShownToken:
    """The token for the response."""
    try:
        top = _top_decoder.decode(token.top)
    except UNDECODABLE:  # then the list counts as not sent
        top = []
    return ShownToken(
        seq=token.seq,
        start=start,
        end=end,
        text=token.text,
        logprob=shown_logprob(token.logprob),
        quality=token.quality,
        arrival_ns=token.arrival_ns,
        piece=list(token.piece) if token.piece else None,
        top=[
            ShownPiece(piece.decode("utf-8", "replace"), list(piece), shown_logprob(logprob)) for piece, logprob in top
        ],
        branch=token.branch,
    )
