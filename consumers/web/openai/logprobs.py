"""The tokens of an answer with their logprobs: of a member its own, of a council that agrees its mixture. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence

import msgspec

from schemas.entries import Token, unpack_top
from schemas.frames import Frame, MixtureSpan, shown_logprob
from schemas.rules.lanes import lane_end


class ListedPiece(msgspec.Struct, frozen=True):
    """A piece that may stand in the place of a token. logprob is in nats, at most 0."""

    token: str
    logprob: float | None
    bytes: Sequence[int]


class TokenLogprob(msgspec.Struct, frozen=True):
    """A token of the answer, as OpenAI's `logprobs.content` has it; the logprob is null where it was not measured. The
    bytes of all tokens are those of the text. A character of several tokens is the text of the last of them."""

    token: str
    logprob: float | None
    bytes: Sequence[int]
    top_logprobs: Sequence[ListedPiece]


class MemberTokens:
    """The tokens of the answer of a session's only member. `most` is how many alternatives each of them has."""

    def __init__(self, most: int) -> None:
        self._most = most
        # Those that were not returned, each with the byte of the answer where it ends.
        self._waiting: list[tuple[int, Token]] = []
        self._end = 0

    def add(self, tokens: Sequence[Token], shown_bytes: int) -> list[TokenLogprob]:
        """Takes the next tokens in; returns those that end in the first `shown_bytes` of the answer, and were not
        returned before. Tokens for the model alone are left out."""
        for token in tokens:
            if token.lane == "answer":
                self._end = lane_end(token, self._end)
                self._waiting.append((self._end, token))
        shown = [token for end, token in self._waiting if end <= shown_bytes]
        self._waiting = self._waiting[len(shown) :]
        return [self._shown(token) for token in shown if token.text or _is_part_of_character(token.piece)]

    def _shown(self, token: Token) -> TokenLogprob:
        piece = token.piece or token.text.encode()
        is_measured = token.quality == "real"
        return TokenLogprob(
            token.text,
            shown_logprob(token.logprob) if is_measured else None,
            list(piece),
            tuple([_listed(*one) for one in unpack_top(token.top)[: self._most]]) if is_measured else (),
        )


class MixtureTokens:
    """The spans of the mixture of a council that agrees, as tokens, each with at most `most` alternatives."""

    def __init__(self, most: int) -> None:
        self._most = most
        # The agreed text, and those of its spans that were not returned.
        self._text, self._waiting = b"", list[MixtureSpan]()

    def add(self, frames: Sequence[Frame], shown_bytes: int) -> list[TokenLogprob]:
        """Takes the next frames in; returns the spans that end in the first `shown_bytes` of the text, and were not
        returned before."""
        for frame in frames:
            self._text += (frame.consensus.agreed or "").encode()
            self._waiting += frame.consensus.mixture or ()
        shown = [span for span in self._waiting if span.end <= shown_bytes]
        self._waiting = self._waiting[len(shown) :]
        return [self._shown(span) for span in shown]

    def _shown(self, span: MixtureSpan) -> TokenLogprob:
        piece = self._text[span.start : span.end]
        alternatives = [ListedPiece(one.text, _logprob_of(one.share), list(one.text.encode())) for one in span.top]
        return TokenLogprob(
            piece.decode(errors="replace"), _logprob_of(span.share), list(piece), tuple(alternatives[: self._most])
        )


def _is_part_of_character(piece: bytes) -> bool:
    """True for bytes that are shown with the token that completes their character."""
    try:
        piece.decode()
    except UnicodeDecodeError:
        return True
    return False


def _listed(piece: bytes, logprob: float) -> ListedPiece:
    return ListedPiece(piece.decode(errors="replace"), shown_logprob(logprob), list(piece))


def _logprob_of(share: float | None) -> float | None:
    """The natural logarithm of a share; None where that is not a number."""
    return None if not share else round(min(0.0, math.log(share)), 9) + 0.0
