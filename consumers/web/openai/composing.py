"""One text from the frames of a session, for clients that know one text per answer. Pure.

one member                its answer and its thinking
a council that agrees     the agreed text
several answers           one below the other, each under its member's name:

    **calm**              the first one as it is written; the others while the first one was written are kept,
    …                     and follow at once when it has ended
    **critic**
    …
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import msgspec

from consumers.web.openai.stop_text import StopText
from schemas.entries import Token
from schemas.frames import Frame, MemberFrame, every_drop
from schemas.rules.lanes import leading_space_dropped

# OpenAI's words: the answer ended by itself or at a stop text; or it is not complete.
FinishReason = Literal["stop", "length"]
_PARAGRAPH = "\n\n"


class NewText(msgspec.Struct, frozen=True):
    """What follows of the text, and of the thinking."""

    content: str = ""
    thinking: str = ""


class _TextPart:
    """The text of one member, or of the council: what of it can be shown and was not taken yet."""

    def __init__(self, stops: Sequence[str]) -> None:
        self._stop = StopText(stops)
        self.content, self.thinking = "", ""
        self.has_ended = False
        self.finish: FinishReason = "stop"
        # Why it was dropped, in a sentence.
        self.dropped = ""
        self.has_text = False
        # How many bytes of the answer can be shown. Positions in answers count from the first byte after white space.
        self.shown_bytes = 0

    @property
    def is_stopped(self) -> bool:
        return self._stop.is_found

    def add(self, text: str, thinking: str) -> None:
        if self.has_ended:
            return
        self.thinking += thinking
        self._show(self._stop.add(text))
        self.has_ended = self._stop.is_found

    def end(self, finish: FinishReason, dropped: str = "") -> None:
        if not self.has_ended:
            self._show(self._stop.end())
            self.has_ended, self.finish, self.dropped = True, finish, dropped

    def take(self) -> NewText:
        delta = NewText(self.content, self.thinking)
        self.content = self.thinking = ""
        return delta

    def _show(self, text: str) -> None:
        data = text.encode()
        self.shown_bytes += len(data if self.shown_bytes else leading_space_dropped(data))
        self.has_text |= bool(text)
        self.content += text


class ChoiceText:
    """The text of one session, whose members have these names. With `is_agreed` it is the council's own text. Each
    answer ends before the first of the `stops` in it."""

    def __init__(self, names: Sequence[str], *, is_agreed: bool, stops: Sequence[str]) -> None:
        self._names, self._is_agreed = names, is_agreed
        self._parts = [_TextPart(stops) for _ in ([""] if is_agreed else names)]
        self._has_title = len(self._parts) > 1
        # The part that is shown now, whether its title was, and whether no text has followed the title yet.
        self._current, self._is_titled, self._is_at_title = 0, not self._has_title, False

    @property
    def has_ended(self) -> bool:
        """True once no text can follow."""
        return all(part.has_ended for part in self._parts)

    @property
    def stopped(self) -> set[int]:
        """The members whose answers ended at a stop text; all of them where the council's text did."""
        if self._is_agreed:
            return set(range(len(self._names))) if self._parts[0].is_stopped else set()
        return {index for index, part in enumerate(self._parts) if part.is_stopped}

    @property
    def shown_bytes(self) -> int:
        """How many bytes of the first text were shown, in the positions of tokens."""
        return self._parts[0].shown_bytes

    @property
    def finish_reason(self) -> FinishReason:
        """Why the text ended: `length` where a part of it is not complete."""
        return "length" if any(part.finish == "length" for part in self._parts) else "stop"

    @property
    def failure(self) -> str:
        """A sentence where every member was dropped, and none has written; else empty."""
        if any(part.has_text or not part.dropped for part in self._parts):
            return ""
        if self._is_agreed:
            return self._parts[0].dropped
        return every_drop([(name, part.dropped) for name, part in zip(self._names, self._parts, strict=True)])

    def add(self, frame: Frame) -> NewText:
        """Takes the next frame in; returns what follows of the text."""
        if self._is_agreed:
            self._parts[0].add(frame.consensus.agreed or "", "")
        else:
            for part, member in zip(self._parts, frame.members, strict=True):
                part.add(member.text, member.thinking)
        return self.add_end(frame)

    def add_tokens(self, tokens: Sequence[Token]) -> NewText:
        """Takes the next tokens of the only member in; returns what follows of the text."""
        for token in tokens:
            is_thinking = token.lane == "thinking"
            self._parts[0].add("" if is_thinking else token.text, token.text if is_thinking else "")
        return self._taken()

    def add_end(self, frame: Frame) -> NewText:
        """Takes the ends in the next frame in, whose text was taken in; returns what follows of the text."""
        if self._is_agreed:
            if frame.final:
                self._parts[0].end(*_end_of_council(frame))
        else:
            for part, member in zip(self._parts, frame.members, strict=True):
                if member.ended or frame.final:
                    part.end(*_end_of(member))
        return self._taken()

    def _taken(self) -> NewText:
        content, thinking = "", ""
        while self._current < len(self._parts):
            part = self._parts[self._current]
            is_begun = part.content.strip() or part.thinking or part.has_ended
            if not self._is_titled and not is_begun:
                break
            taken = part.take()
            if not self._is_titled:
                title = f"**{self._names[self._current]}**{_PARAGRAPH}"
                before = _PARAGRAPH if self._current else ""
                thinking += before + title if taken.thinking else ""
                content += before + title
                self._is_titled = self._is_at_title = True
            if self._is_at_title:
                taken = NewText(taken.content.lstrip(), taken.thinking)
                self._is_at_title = not taken.content
            content, thinking = content + taken.content, thinking + taken.thinking
            if not part.has_ended:
                break
            if part.dropped and self._has_title:
                content += (_PARAGRAPH if part.has_text else "") + f"({part.dropped})"
            self._current, self._is_titled = self._current + 1, not self._has_title
        return NewText(content, thinking)


def _end_of(member: MemberFrame) -> tuple[FinishReason, str]:
    """(why its answer ended, the sentence why it was dropped)"""
    if member.state == "finished":
        return ("length" if member.reason == "length" else "stop"), ""
    return "length", member.reason or "The member was dropped."


def _end_of_council(frame: Frame) -> tuple[FinishReason, str]:
    ends = [_end_of(member) for member in frame.members]
    finished = [finish for finish, dropped in ends if not dropped]
    if not finished:
        names = [member.display_name for member in frame.members]
        return "length", every_drop([(name, dropped) for name, (_, dropped) in zip(names, ends, strict=True)])
    return ("length" if "length" in finished else "stop"), ""
