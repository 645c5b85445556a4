"""The answers of one session, for a caller that does not read its frames."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from council.ensemble_session import EnsembleSession
from schemas.errors import SetBack
from schemas.frames import Frame, MemberState
from schemas.rules.choice import shortened

# Each time Redis has lost data of the session; a Redis that does so again and again is not usable.
_MOST_READS = 3


class MemberAnswer(msgspec.Struct, frozen=True):
    """One member's answer.

    `name` is its display name, `model` its model. `state` is finished or dropped, and `reason` why: "stop" at the end
    of the answer, "length" where max_tokens were reached, or a sentence. `tokens` is the number of tokens in `text` and
    `thinking`.
    """

    name: str
    model: str
    text: str
    thinking: str
    state: MemberState
    reason: str | None
    tokens: int

    def __str__(self) -> str:
        return self.text


class MemberAnswers(msgspec.Struct, frozen=True):
    """The answers to one prompt, in the order of the members; `answers["smollm2"]` and `answers[0]` are one of them.

    `session` is the session's id. `warnings` has a sentence for each part of the request that was left out. `agreed` is
    the text that the members wrote together, with sync consensus; else empty. str() shows all texts, each below its
    member's name.
    """

    session: str
    members: tuple[MemberAnswer, ...]
    warnings: tuple[str, ...] = ()
    agreed: str = ""

    @property
    def texts(self) -> dict[str, str]:
        """Each member's text, by its display name."""
        return {answer.name: answer.text for answer in self.members}

    def __getitem__(self, member: str | int) -> MemberAnswer:
        """A member's answer, by its display name or its index. Raises KeyError or IndexError where there is none."""
        if isinstance(member, int):
            return self.members[member]
        for answer in self.members:
            if answer.name == member:
                return answer
        raise KeyError(f"{member!r} is not a member of this session; members: {', '.join(self.texts)}.")

    def __iter__(self) -> Iterator[MemberAnswer]:
        return iter(self.members)

    def __len__(self) -> int:
        return len(self.members)

    def __str__(self) -> str:
        if self.agreed:
            return self.agreed
        return "\n\n".join(f"{answer.name}:\n{answer.text or f'({answer.reason})'}" for answer in self.members)

    def __repr__(self) -> str:
        shown = ", ".join(
            f"{answer.name}: {answer.state}, {answer.tokens} tokens, {shortened(answer.text)!r}" for answer in self
        )
        return f"<Answers of session {self.session}: {shown}>"


async def read_answers_of(session: EnsembleSession) -> MemberAnswers:
    """The answers, at the end of the session. Raises as EnsembleSession.frames() does; SetBack where Redis lost data of
    the session three times."""
    for _ in range(_MOST_READS - 1):
        try:
            return await _read(session)
        except SetBack:
            continue
    return await _read(session)


async def _read(session: EnsembleSession) -> MemberAnswers:
    count = len(session.opening.members)
    texts, thinking, tokens = [[""] for _ in range(count)], [[""] for _ in range(count)], [0] * count
    last: Frame | None = None
    async for frame in session.frames():
        last = frame
        for index, member in enumerate(frame.members):
            texts[index].append(member.text)
            thinking[index].append(member.thinking)
        for token in frame.tokens:
            tokens[token.member] += 1
    assert last is not None, "frames() ends with the final frame, or raises"
    return MemberAnswers(
        session.session,
        tuple(
            MemberAnswer(
                member.display_name, member.model, "".join(texts[index]), "".join(thinking[index]), member.state,
                member.reason, tokens[index],
            )
            for index, member in enumerate(last.members)
        ),
        session.warnings,
        session.agreed,
    )  # fmt: skip
