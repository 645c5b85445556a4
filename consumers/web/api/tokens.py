"""The tokens of an answer over HTTP: what a model nearly said instead, for whichever byte a person points at."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import cast

import msgspec
from aiohttp import web

from consumers.web.answering import Answering
from consumers.web.api.members import member_index
from consumers.web.api.operations import Operation, Parameter
from consumers.web.door.errors import json_response
from consumers.web.door.query import known_parameters, whole_number
from schemas.entries import UNDECODABLE, Quality, Token
from schemas.errors import Refused, SessionGone
from schemas.frames import shown_logprob
from transport.answers import find_released
from transport.redis.connection import AsyncPipe

# At 20 listed pieces a token 0.3 MB of JSON, and 2 ms in Redis: more is asked for from `next` on.
MOST_TOKENS = 200
# Between slices of an answer the live clients have their turn.
_SLICE = 50
_STRING, _BYTE = {"type": "string"}, {"type": "integer", "minimum": 0}
_PARAMETERS = (
    Parameter("member", "Its index, its model's name, or its id; may be left out of a council of one.", _STRING),
    Parameter("from", "The first byte of the answer that is asked for; without it, 0.", _BYTE),
    Parameter("to", "The byte before which it ends; the same as from: the token that covers that byte.", _BYTE),
)

_top_decoder = msgspec.msgpack.Decoder(list[tuple[bytes, float | None]])


class ShownPiece(msgspec.Struct, frozen=True):
    """A listed piece: `text` is its bytes as UTF-8, with U+FFFD for what is none."""

    text: str
    bytes: list[int]
    logprob: float | None


class ShownToken(msgspec.Struct, frozen=True):
    """A token, in [start, end) bytes of its answer. `piece` are its own bytes where they differ from its text; `top`
    is the list that came with it, in the order received. A logprob that is no finite number is null."""

    seq: int
    start: int
    end: int
    text: str
    logprob: float | None
    quality: Quality
    arrival_ns: int
    piece: list[int] | None
    top: list[ShownPiece]


class TokenList(msgspec.Struct, frozen=True, rename={"first": "from", "last": "to"}):
    """Tokens of one answer, in [from, to) of its bytes, 200 at the most; `next` is where to go on, null where there is
    no more yet."""

    session: str
    member: int
    model: str
    first: int
    last: int
    tokens: Sequence[ShownToken]
    next: int | None


class TokenQuery(msgspec.Struct, frozen=True):
    """What the address asks for: bytes [first, last) of an answer, to its end without `last`; where both are one, the
    token that covers that byte. `member` as it was written."""

    member: str | None
    first: int
    last: int | None


class TokensApi:
    """The handler."""

    def __init__(self, pipe: AsyncPipe, answering: Answering) -> None:
        self._pipe, self._answering = pipe, answering

    def operations(self) -> list[Operation]:
        return [
            Operation(
                "GET", "/api/sessions/{session}/tokens", self._tokens,
                "The tokens of an answer, each with the list that came with it.", TokenList, (404,),
                parameters=_PARAMETERS,
            )
        ]  # fmt: skip

    async def _tokens(self, request: web.Request) -> web.Response:
        query = token_query(request.query)
        state, frame = await find_released(self._pipe, request.match_info["session"])
        answers = await self._answering.answers_of(state)
        member = member_index(query.member, answers.opening)
        await answers.catch_up(self._pipe, state, frame)
        answer = answers.of_member[member]
        is_byte = query.first == query.last
        found = answer.covering(query.first) if is_byte else answer.overlapping(query.first, query.last)
        indexes, following = answer.first_of(found, MOST_TOKENS)
        end, bounds = answer.end, [answer.bounds(index) for index in indexes]
        try:
            tokens = await answers.read_tokens(self._pipe, member, indexes)
        except SessionGone:
            # Expired, or a Redis that was set back: then the next call reads all of it again.
            self._answering.forget(state.session)
            raise
        shown = []
        for place, token in enumerate(tokens):
            # As JSON at once: thousands of small lists would call the garbage collector, which takes 20 ms.
            shown.append(msgspec.Raw(msgspec.json.encode(shown_token(token, *bounds[place]))))
            if place % _SLICE == _SLICE - 1:
                await asyncio.sleep(0)
        return json_response(
            TokenList(
                state.session,
                member,
                answers.opening.names[member],
                query.first,
                max(query.first, end if query.last is None else min(query.last, end)),
                # Each is JSON already.
                cast(Sequence[ShownToken], shown),
                following,
            )
        )


def token_query(query: Mapping[str, str]) -> TokenQuery:
    """The query of an address. Raises Refused for a parameter that is none, comes twice, or cannot be."""
    known_parameters(query, [one.name for one in _PARAMETERS])
    first = whole_number("from", query["from"], "a byte of the answer") if "from" in query else 0
    last = whole_number("to", query["to"], "a byte of the answer") if "to" in query else None
    if last is not None and last < first:
        raise Refused("bad_to", f"to is {last} and from is {first}: give a to that is not below from.")
    return TokenQuery(query.get("member"), first, last)


def shown_token(token: Token, start: int, end: int) -> ShownToken:
    """The token as JSON has it."""
    try:
        top = _top_decoder.decode(token.top)
    except UNDECODABLE:  # then nothing was measured
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
    )
