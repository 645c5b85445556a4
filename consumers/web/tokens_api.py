"""The tokens of an answer over HTTP: what a model nearly said instead, for whichever byte a person points at."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

import msgspec
from aiohttp import web

from consumers.web.errors import json_response
from schemas.choice import shortened
from schemas.entries import UNDECODABLE, Quality, Token
from schemas.errors import Refused, SessionGone
from schemas.frames import shown_logprob
from schemas.sessions import Opening
from transport.answers import Answers, find_released
from transport.connection import AsyncPipe
from transport.sessions import SessionState, read_opening

# At 20 listed pieces a token 0.3 MB of JSON, and 2 ms in Redis: more is asked for from `next` on.
MOST_TOKENS = 200
# The sessions whose tokens are kept in mind, those that were asked for last: at six members of 8,192 tokens, the
# most there are, 1.2 MB each.
_MOST_SESSIONS = 16
# Longer numbers are no places in an answer, and no numbers in a browser.
_MOST_DIGITS = 15
# Between slices of an answer the live clients have their turn.
_SLICE = 50
_PARAMETERS = ("member", "from", "to")

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


class TokenQuery(msgspec.Struct, frozen=True):
    """What the address asks for: bytes [first, last) of an answer, to its end without `last`; where both are one, the
    token that covers that byte. `member` as it was written."""

    member: str | None
    first: int
    last: int | None


class TokensApi:
    """The handler, and what it keeps in mind of the sessions that were asked for."""

    def __init__(self, pipe: AsyncPipe) -> None:
        self._pipe = pipe
        self._answers: dict[str, Answers] = {}

    def routes(self) -> list[web.RouteDef]:
        return [web.get("/api/sessions/{session}/tokens", self._tokens)]

    async def _tokens(self, request: web.Request) -> web.Response:
        query = token_query(request.query)
        state, positions = await find_released(self._pipe, request.match_info["session"])
        answers = await self._answers_of(state)
        member = member_index(query.member, answers.opening)
        await answers.catch_up(self._pipe, state, positions)
        answer = answers.of_member[member]
        is_byte = query.first == query.last
        found = answer.covering(query.first) if is_byte else answer.overlapping(query.first, query.last)
        indexes, following = answer.first_of(found, MOST_TOKENS)
        end, bounds = answer.end, [answer.bounds(index) for index in indexes]
        try:
            tokens = await answers.read_tokens(self._pipe, member, indexes)
        except SessionGone:
            # Expired, or a Redis that was set back: then the next call reads all of it again.
            self._answers.pop(state.session, None)
            raise
        shown = []
        for place, token in enumerate(tokens):
            # As JSON at once: thousands of small lists would call the garbage collector, which takes 20 ms.
            shown.append(msgspec.Raw(msgspec.json.encode(shown_token(token, *bounds[place]))))
            if place % _SLICE == _SLICE - 1:
                await asyncio.sleep(0)
        return json_response(
            {
                "session": state.session,
                "member": member,
                "model": answers.opening.members[member].model,
                "from": query.first,
                "to": max(query.first, end if query.last is None else min(query.last, end)),
                "tokens": shown,
                "next": following,
            }
        )

    async def _answers_of(self, state: SessionState) -> Answers:
        """What is known of the session, as the last one to be forgotten. Raises SessionGone."""
        answers = self._answers.get(state.session)
        if answers is None:
            read = Answers(await read_opening(self._pipe, state), state.opened)
            # Another request may have come first meanwhile.
            answers = self._answers.get(state.session, read)
        self._answers.pop(state.session, None)
        self._answers[state.session] = answers
        while len(self._answers) > _MOST_SESSIONS:
            del self._answers[next(iter(self._answers))]
        return answers


def token_query(query: Mapping[str, str]) -> TokenQuery:
    """The query of an address. Raises Refused for a parameter that is none, comes twice, or cannot be."""
    names = [name for name, _ in query.items()]
    for name in names:
        if name not in _PARAMETERS:
            raise Refused(
                "bad_request",
                f"There is no parameter {shortened(name)!r}: the parameters are {', '.join(_PARAMETERS)}.",
            )
        if names.count(name) > 1:
            raise Refused("bad_request", f"The parameter {name!r} is given twice: give it once.")
    first = _byte("from", query["from"]) if "from" in query else 0
    last = _byte("to", query["to"]) if "to" in query else None
    if last is not None and last < first:
        raise Refused("bad_to", f"to is {last} and from is {first}: give a to that is not below from.")
    return TokenQuery(query.get("member"), first, last)


def _byte(name: str, written: str) -> int:
    if not (written.isascii() and written.isdigit() and len(written) <= _MOST_DIGITS):
        raise Refused(
            f"bad_{name}",
            f"{name} is {shortened(written)!r}: give a byte of the answer, a whole number from 0 to "
            f"{10**_MOST_DIGITS - 1}.",
        )
    return int(written)


def member_index(written: str | None, opening: Opening) -> int:
    """The member by its index or its model's name. Raises Refused where it is none, or where none of several is
    named."""
    models = [member.model for member in opening.members]
    offered = ", ".join(f"{index} {model}" for index, model in enumerate(models))
    if written is None:
        if len(models) > 1:
            raise Refused("no_member", f"Say which member, by its index or its name; members: {offered}.")
        return 0
    if written in map(str, range(len(models))):
        return int(written)
    if written in models:
        return models.index(written)
    raise Refused("unknown_member", f"There is no member {shortened(written)!r} in this session; members: {offered}.")


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
