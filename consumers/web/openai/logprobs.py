"""The tokens of an answer with their logprobs: of a member its own, of a council that agrees its mixture.

The lists of a member's tokens are in the token stream alone, so they are read for clients that request them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import msgspec

from consumers.web.answer_cache import AnswerCache
from schemas.entries import Token, unpack_top
from schemas.frames import Frame, MixtureSpan, shown_logprob
from transport.redis.connection import AsyncPipe
from transport.sessions import find_session


class Alternative(msgspec.Struct, frozen=True):
    """A piece that may stand in the place of a token. logprob is in nats, at most 0."""

    token: str
    logprob: float | None
    bytes: Sequence[int]


class TokenLogprob(msgspec.Struct, frozen=True):
    """A token of the answer, as OpenAI's `logprobs.content` has it; the logprob is null where it was not measured."""

    token: str
    logprob: float | None
    bytes: Sequence[int]
    top_logprobs: Sequence[Alternative]


class MemberTokens:
    """Reads the tokens of a session's only member. `most` is how many alternatives each of them has."""

    def __init__(self, pipe: AsyncPipe, cache: AnswerCache, session: str, most: int) -> None:
        self._pipe, self._cache, self._session, self._most = pipe, cache, session, most
        # How many tokens of the answer the frames released; the parts of the answer up to this one were returned.
        self._released = self._next = 0

    async def read(self, frames: Sequence[Frame], shown_bytes: int) -> list[TokenLogprob]:
        """The tokens that end in the first `shown_bytes` of the answer, which these next frames released, or earlier
        ones. Raises SessionGone, SetBack, RedisAway, RedisRefuses."""
        self._released += sum(token.lane == "answer" for frame in frames for token in frame.tokens)
        if self._released == self._next:
            return []
        answers = await self._cache.caught_up(await find_session(self._pipe, self._session), frames[-1])
        answer = answers.of_member[0]
        parts, end = answer.overlapping(0, None), self._next
        while end < parts.stop and answer.bounds(end)[1] <= shown_bytes:
            end += 1
        indexes = answer.tokens_of(range(self._next, end))
        self._next = end
        tokens = await answers.read_tokens(self._pipe, 0, indexes) if indexes else []
        # The text that ends an answer, and other tokens for the model alone, have no text.
        return [self._shown(token) for token in tokens if token.text]

    def _shown(self, token: Token) -> TokenLogprob:
        piece = token.piece or token.text.encode()
        is_measured = token.quality == "real"
        return TokenLogprob(
            token.text,
            shown_logprob(token.logprob) if is_measured else None,
            list(piece),
            tuple([alternative(*one) for one in unpack_top(token.top)[: self._most]]) if is_measured else (),
        )


def mixture_tokens(spans: Sequence[MixtureSpan], text: bytes, most: int) -> list[TokenLogprob]:
    """The spans of the mixture as tokens, each with at most `most` alternatives. `text` is the agreed text so far."""
    return [
        TokenLogprob(
            text[span.start : span.end].decode(errors="replace"),
            logprob_of(span.share),
            list(text[span.start : span.end]),
            tuple([Alternative(one.text, logprob_of(one.share), list(one.text.encode())) for one in span.top[:most]]),
        )
        for span in spans
    ]


def alternative(piece: bytes, logprob: float) -> Alternative:
    return Alternative(piece.decode(errors="replace"), shown_logprob(logprob), list(piece))


def logprob_of(share: float | None) -> float | None:
    """The natural logarithm of a share; None where that is not a number."""
    return None if not share else round(min(0.0, math.log(share)), 9) + 0.0
