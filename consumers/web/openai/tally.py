"""What a session's frames measured, for the `council` object of responses and for `usage`. Pure.

doubt is 1 - exp(mean logprob) of the answer's tokens: 0 where the models were certain of each token that they wrote, in
[0, 1]. Tokens whose logprob was not measured do not count; without any other one it is null.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import msgspec

from schemas.entries import Finished, Lane, Token
from schemas.frames import Frame, MemberFrame, MemberState, Mode, shown_logprob


class CouncilMember(msgspec.Struct, frozen=True):
    """A member at the newest frame. energy, certainty and doubt are in [0, 1]; tokens counts those of its answer and of
    its thinking so far; prompt_tokens is what its server counted, null before its end and where it does not report
    that. reason is why it finished or was dropped."""

    name: str
    model: str
    state: MemberState
    energy: float
    certainty: float | None
    doubt: float | None
    tokens: int
    prompt_tokens: int | None
    reason: str | None


class CouncilPart(msgspec.Struct, frozen=True):
    """What happens between the members, beside the text that OpenAI's form contains: the session (its address in this
    API is /api/sessions/{session}), the window of the newest frame, and its numbers (docs/frames.md), each in [0, 1].
    A number that was not measured is null."""

    session: str
    window_index: int
    mode: Mode | None
    energy: float | None
    diversity_index: float | None
    agreement: float | None
    doubt: float | None
    members: Sequence[CouncilMember]
    warnings: Sequence[str]


class CompletionDetails(msgspec.Struct, frozen=True):
    """How many of the tokens are thinking."""

    reasoning_tokens: int


class TokenUsage(msgspec.Struct, frozen=True):
    """Tokens, as the members' own tokenizers count them, summed over all members and choices. prompt_tokens is the sum
    over those members whose servers report it."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    completion_tokens_details: CompletionDetails


class _Doubt:
    """The mean logprob of tokens."""

    __slots__ = ("count", "total")

    def __init__(self) -> None:
        self.total, self.count = 0.0, 0

    @property
    def value(self) -> float | None:
        return round(-math.expm1(self.total / self.count), 9) + 0.0 if self.count else None


class Tally:
    """Counts the tokens of one session."""

    def __init__(self, session: str, names: Sequence[str], warnings: Sequence[str]) -> None:
        self._session, self._warnings = session, warnings
        self._frame: Frame | None = None
        self._doubts, self._all = [_Doubt() for _ in names], _Doubt()
        self._tokens = [0] * len(names)
        self._thinking = self._superseded = 0
        self._finished: Mapping[int, Finished] = {}

    def add(self, frame: Frame) -> None:
        """Takes the next frame in, with its tokens."""
        self.show(frame)
        self._superseded += frame.counts.superseded
        for token in frame.tokens:
            self._count(token.member, token.lane, token.logprob if token.quality == "real" else None)

    def show(self, frame: Frame) -> None:
        """Takes the numbers of a newer frame in, whose tokens are counted when they arrive."""
        self._frame = frame

    def add_tokens(self, tokens: Sequence[Token]) -> None:
        """Takes the next tokens of the only member in, which arrive before the frames that contain them."""
        for token in tokens:
            self._count(0, token.lane, shown_logprob(token.logprob) if token.quality == "real" else None)

    def _count(self, member: int, lane: Lane, logprob: float | None) -> None:
        self._tokens[member] += 1
        if lane == "thinking":
            self._thinking += 1
        elif logprob is not None:
            for doubt in (self._doubts[member], self._all):
                doubt.total += logprob
                doubt.count += 1

    def end(self, finished: Mapping[int, Finished]) -> None:
        """Takes the ends of the members in, by their indexes."""
        self._finished = finished

    @property
    def council(self) -> CouncilPart:
        """The `council` object at the newest frame."""
        frame = self._frame
        if frame is None:
            return CouncilPart(self._session, -1, None, None, None, None, None, (), self._warnings)
        measures = frame.measures
        return CouncilPart(
            self._session,
            frame.window_index,
            frame.mode,
            frame.energy,
            # The index of a fallback is a definition, and was not measured.
            measures.diversity_index if measures.di_source == "logprobs" else None,
            measures.agreement,
            self._all.value,
            tuple([self._member(index, member) for index, member in enumerate(frame.members)]),
            self._warnings,
        )

    def _member(self, index: int, member: MemberFrame) -> CouncilMember:
        finished = self._finished.get(index)
        return CouncilMember(
            member.display_name,
            member.model,
            member.state,
            member.energy,
            member.certainty,
            self._doubts[index].value,
            self._tokens[index],
            finished.prompt_tokens if finished else None,
            member.reason,
        )

    @property
    def usage(self) -> TokenUsage:
        """The tokens of this session so far, with those that were superseded."""
        prompt = sum(one.prompt_tokens or 0 for one in self._finished.values())
        written = sum(self._tokens) + self._superseded
        return TokenUsage(prompt, written, prompt + written, CompletionDetails(self._thinking))


def total_usage(usages: Sequence[TokenUsage]) -> TokenUsage:
    """The sums over several choices."""
    prompt = sum(one.prompt_tokens for one in usages)
    written = sum(one.completion_tokens for one in usages)
    thinking = sum(one.completion_tokens_details.reasoning_tokens for one in usages)
    return TokenUsage(prompt, written, prompt + written, CompletionDetails(thinking))
